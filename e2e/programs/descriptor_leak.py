"""Opens files until it may not, and then tries without end."""
import errno
import os
import resource

hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
told = False
while True:
    try:
        os.open("/dev/null", os.O_RDONLY)
    except OSError as error:
        if not told:
            os.write(1, b"limit: open %s\n" % errno.errorcode[error.errno].encode())
            told = True
