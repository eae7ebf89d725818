"""Ten thousand sockets of each kind, or as many as there can be; then it opens and closes sockets without end."""
import errno
import os
import resource
import socket

hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def take(name, family, kind, prepare):
    kept = []
    try:
        while len(kept) < 10_000:
            made = socket.socket(family, kind)
            prepare(made)
            kept.append(made)
    except OSError as error:
        os.write(1, b"%s: %s\n" % (name, errno.errorcode[error.errno].encode()))
    else:
        os.write(1, b"%s: 10000\n" % name)
    return kept


def nothing(made):
    pass


def listen(made):
    made.bind(("127.0.0.1", 0))
    made.listen()


take(b"TCP", socket.AF_INET, socket.SOCK_STREAM, nothing)
take(b"UDP", socket.AF_INET, socket.SOCK_DGRAM, lambda made: made.bind(("127.0.0.1", 0)))
take(b"UNIX", socket.AF_UNIX, socket.SOCK_STREAM, nothing)
kept = take(b"listening", socket.AF_INET, socket.SOCK_STREAM, listen)
os.write(1, b"limit: sockets\n")
while True:
    kept.pop().close()
    kept.append(socket.socket())
    listen(kept[-1])
