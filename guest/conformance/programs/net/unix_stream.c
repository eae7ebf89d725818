//: group = "C"
//: summary = "AF_UNIX streams: peeking, waiting for all, time-outs, signals, SIGPIPE, readiness, options, sendfile and splice, many messages at once"
//: link = ["static", "dynamic"]
#include "net.h"
#include <linux/sockios.h>
#include <sys/sendfile.h>
#include <sys/time.h>
#include <sys/uio.h>

static char buffer[300000];
static int pair[2];

static void fresh(int type) {
    if (pair[0]) close(pair[0]), close(pair[1]);
    MUST(socketpair(AF_UNIX, type, 0, pair));
}

static void got(const char *name, ssize_t count) {
    if (count == -1) FACT(name, "%s", errno_name(errno));
    else FACT(name, "%zd %.*s", count, (int)(count < 40 ? count : 40), buffer);
}

static void on_signal(int number) { FACT("handler", "%s", signal_name(number)); }

// After `ms` milliseconds a child does `what`.
#define LATER(ms, what)                                                                                              \
    ({                                                                                                               \
        pid_t pid_ = (pid_t)MUST(fork());                                                                            \
        if (pid_ == 0) {                                                                                             \
            sleep_ms(ms);                                                                                            \
            what;                                                                                                    \
            _exit(0);                                                                                                \
        }                                                                                                            \
        pid_;                                                                                                        \
    })

int main(void) {
    enter_scratch();
    signal(SIGPIPE, on_signal);
    fresh(SOCK_STREAM);
    MUST(write(pair[0], "abc", 3)), MUST(write(pair[0], "def", 3));
    got("peek", recv(pair[1], buffer, 100, MSG_PEEK));
    got("peek, part", recv(pair[1], buffer, 4, MSG_PEEK));
    got("read", recv(pair[1], buffer, 4, 0));
    got("rest", recv(pair[1], buffer, 100, 0));
    got("nothing", recv(pair[1], buffer, 100, MSG_DONTWAIT));
    got("zero bytes", recv(pair[1], buffer, 0, MSG_DONTWAIT));
    got("read of zero bytes", read(pair[1], buffer, 0));
    got("MSG_TRUNC", (MUST(write(pair[0], "truncate", 8)), recv(pair[1], buffer, 3, MSG_TRUNC)));
    got("the rest is there", recv(pair[1], buffer, 100, 0));
    got("write of nothing", write(pair[0], "", 0));
    got("nothing came", recv(pair[1], buffer, 100, MSG_DONTWAIT));
    struct sockaddr_un name;
    socklen_t length = sizeof name;
    MUST(write(pair[0], "n", 1));
    got("recvfrom", recvfrom(pair[1], buffer, 100, 0, (struct sockaddr *)&name, &length));
    FACT("from nobody", "%u", length);
    name.sun_family = AF_UNIX;
    TRY("sendto, connected", sendto(pair[0], "x", 1, 0, (struct sockaddr *)&name, 10));
    int alone = (int)MUST(socket(AF_UNIX, SOCK_STREAM, 0));
    TRY("sendto, unconnected", sendto(alone, "x", 1, 0, (struct sockaddr *)&name, 10));
    TRY("send, unconnected", send(alone, "x", 1, 0));
    TRY("recv, unconnected", recv(alone, buffer, 1, 0));
    TRY("shutdown, unconnected", shutdown(alone, SHUT_RDWR));
    TRY("bad how", shutdown(alone, 3));
    TRY("bad address", send(pair[0], OPAQUE((char *)8), 5, 0));
    TRY("partly bad buffer", (MUST(write(pair[0], "12345", 5)), recv(pair[1], OPAQUE((char *)8), 5, 0)));
    got("not lost", recv(pair[1], buffer, 100, 0));

    // All of it, from several messages.
    pid_t pid = LATER(20, (write(pair[0], "one", 3), sleep_ms(20), write(pair[0], "two", 3), sleep_ms(20), write(pair[0], "three", 5)));
    got("MSG_WAITALL", recv(pair[1], buffer, 9, MSG_WAITALL));
    reap("it", pid);
    got("left", recv(pair[1], buffer, 9, 0));
    MUST(write(pair[0], "end", 3));
    pid = LATER(20, shutdown(pair[0], SHUT_WR));
    got("MSG_WAITALL until the end", recv(pair[1], buffer, 9, MSG_WAITALL));
    reap("it", pid);
    got("end", recv(pair[1], buffer, 9, MSG_WAITALL));
    fresh(SOCK_STREAM);
    MUST(setsockopt(pair[1], SOL_SOCKET, SO_RCVLOWAT, &(int){ 4 }, sizeof(int)));
    MUST(write(pair[0], "ab", 2));
    pid = LATER(20, write(pair[0], "cdef", 4));
    got("SO_RCVLOWAT", recv(pair[1], buffer, 100, 0));
    reap("it", pid);
    got("SO_RCVLOWAT, short read", (MUST(write(pair[0], "xy", 2)), recv(pair[1], buffer, 2, 0)));

    // Time-outs and signals.
    fresh(SOCK_STREAM);
    struct timeval limit = { 0, 30000 }, none = { 0, 0 };
    MUST(setsockopt(pair[1], SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit));
    int64_t start = now_ns();
    TRY("SO_RCVTIMEO", recv(pair[1], buffer, 1, 0));
    CHECK("waited", now_ns() - start >= 30000000);
    MUST(write(pair[0], "ab", 2));
    got("part of MSG_WAITALL", recv(pair[1], buffer, 5, MSG_WAITALL));
    handle(SIGALRM, on_signal, SA_RESTART);
    struct itimerval soon = { .it_value = { 0, 10000 } };
    MUST(setitimer(ITIMER_REAL, &soon, NULL));
    TRY("a time-out never restarts", recv(pair[1], buffer, 1, 0));
    MUST(setsockopt(pair[1], SOL_SOCKET, SO_RCVTIMEO, &none, sizeof none));
    MUST(setitimer(ITIMER_REAL, &soon, NULL));
    pid = LATER(50, write(pair[0], "r", 1));
    got("SA_RESTART", recv(pair[1], buffer, 1, 0));
    reap("it", pid);
    handle(SIGALRM, on_signal, 0);
    MUST(setitimer(ITIMER_REAL, &soon, NULL));
    TRY("without", recv(pair[1], buffer, 1, 0));
    TRY("microseconds out of range", setsockopt(pair[1], SOL_SOCKET, SO_RCVTIMEO, &(struct timeval){ 0, 1000000 }, sizeof limit));
    MUST(write(pair[0], "abc", 3));
    MUST(setitimer(ITIMER_REAL, &soon, NULL));
    got("interrupted with a part", recv(pair[1], buffer, 10, MSG_WAITALL));
    // A full peer.
    MUST(setsockopt(pair[0], SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit));
    ssize_t part = send(pair[0], buffer, sizeof buffer, 0);
    CHECK("part of a send", part > 60000 && part < (ssize_t)sizeof buffer);
    TRY("SO_SNDTIMEO", send(pair[0], buffer, sizeof buffer, 0));
    FACT("full", "%s", poll_events(pair[0], POLLIN | POLLOUT, 0));
    MUST(setsockopt(pair[0], SOL_SOCKET, SO_SNDTIMEO, &none, sizeof none));
    pid = (pid_t)MUST(fork());
    if (pid == 0) {
        size_t total = 0;
        while (total < (size_t)part + sizeof buffer) {
            ssize_t count = read(pair[1], buffer, 7777);
            if (count <= 0) break;
            total += (size_t)count;
        }
        FACT("reader got all", "%d", total == (size_t)part + sizeof buffer);
        _exit(0);
    }
    FACT("a send waits for the reader", "%d", send(pair[0], buffer, sizeof buffer, 0) == sizeof buffer);
    reap("reader", pid);
    FACT("empty", "%s", poll_events(pair[0], POLLIN | POLLOUT, 0));

    // Ends.
    fresh(SOCK_STREAM);
    MUST(shutdown(pair[1], SHUT_RD));
    TRY("peer does not read", send(pair[0], "x", 1, 0));
    TRY("quietly", send(pair[0], "x", 1, MSG_NOSIGNAL));
    FACT("events", "%s", poll_events(pair[0], POLLIN | POLLOUT | POLLRDHUP, 0));
    FACT("events of the reader", "%s", poll_events(pair[1], POLLIN | POLLOUT | POLLRDHUP, 0));
    fresh(SOCK_STREAM);
    MUST(shutdown(pair[0], SHUT_WR));
    TRY("write after SHUT_WR", write(pair[0], "x", 1));
    FACT("events", "%s", poll_events(pair[0], POLLIN | POLLOUT | POLLRDHUP, 0));
    FACT("events of the peer", "%s", poll_events(pair[1], POLLIN | POLLOUT | POLLRDHUP, 0));
    MUST(write(pair[1], "unread", 6));
    MUST(close(pair[0])), pair[0] = open("/dev/null", O_RDWR);
    FACT("closed with data", "%s", poll_events(pair[1], POLLIN | POLLOUT | POLLRDHUP, 0));
    FACT("SO_ERROR", "%s", so_error(pair[1]));
    FACT("SO_ERROR, once", "%s", so_error(pair[1]));
    got("end", read(pair[1], buffer, 1));
    int64_t ended = now_ns();
    fresh(SOCK_STREAM);
    pid = LATER(20, close(pair[0]));
    MUST(close(pair[0])), pair[0] = open("/dev/null", O_RDWR);
    got("waits until the last descriptor is closed", read(pair[1], buffer, 1));
    CHECK("waited", now_ns() - ended >= 20000000);
    reap("it", pid);

    // ioctl, vectors, files.
    fresh(SOCK_STREAM);
    int count = -1;
    MUST(writev(pair[0], (struct iovec[]){ { "vec", 3 }, { "", 0 }, { "tors", 4 } }, 3));
    MUST(ioctl(pair[1], FIONREAD, &count));
    FACT("FIONREAD", "%d", count);
    MUST(ioctl(pair[0], SIOCOUTQ, &count));
    CHECK("SIOCOUTQ", count > 0);
    char first[4] = "", second[10] = "";
    FACT("readv", "%zd %.3s %.4s", readv(pair[1], (struct iovec[]){ { first, 3 }, { second, 9 } }, 2), first, second);
    MUST(ioctl(pair[0], SIOCOUTQ, &count));
    FACT("SIOCOUTQ", "%d", count);
    TRY("unknown ioctl", ioctl(pair[0], 0x12345678, buffer));
    write_file("file", "content of a file");
    int file = (int)MUST(open("file", O_RDONLY));
    FACT("sendfile", "%zd", sendfile(pair[0], file, NULL, 100));
    got("sendfile", read(pair[1], buffer, 100));
    int p[2];
    MUST(pipe(p)), MUST(write(p[1], "pipe", 4));
    FACT("splice in", "%zd", splice(p[0], NULL, pair[0], NULL, 100, 0));
    FACT("splice out", "%zd", splice(pair[1], NULL, p[1], NULL, 100, 0));
    got("spliced", read(p[0], buffer, 100));
    TRY("lseek", lseek(pair[0], 0, SEEK_SET));
    TRY("pread", pread(pair[0], buffer, 1, 0));
    TRY("fsync", fsync(pair[0]));
    TRY("ftruncate", ftruncate(pair[0], 0));

    // Many messages in one call.
    struct mmsghdr many[4];
    struct iovec parts[4] = { { "a", 1 }, { "bb", 2 }, { "ccc", 3 }, { "dddd", 4 } }, into[4];
    for (int i = 0; i < 4; i++) many[i] = (struct mmsghdr){ .msg_hdr = { .msg_iov = &parts[i], .msg_iovlen = 1 } };
    FACT("sendmmsg", "%d: %u %u %u %u", sendmmsg(pair[0], many, 4, 0), many[0].msg_len, many[1].msg_len, many[2].msg_len, many[3].msg_len);
    for (int i = 0; i < 4; i++) into[i] = (struct iovec){ buffer + 10 * i, 2 }, many[i].msg_hdr = (struct msghdr){ .msg_iov = &into[i], .msg_iovlen = 1 };
    FACT("recvmmsg", "%d: %u %u %u %u", recvmmsg(pair[1], many, 4, MSG_DONTWAIT, NULL), many[0].msg_len, many[1].msg_len, many[2].msg_len, many[3].msg_len);
    FACT("the rest", "%d", recvmmsg(pair[1], many, 4, MSG_WAITFORONE, NULL));
    TRY("nothing", recvmmsg(pair[1], many, 4, MSG_DONTWAIT, NULL));
    MUST(write(pair[0], "x", 1));
    pid = LATER(60, write(pair[0], "y", 1));
    FACT("recvmmsg with a time-out", "%d", recvmmsg(pair[1], many, 4, 0, &(struct timespec){ 0, 20000000 }));
    reap("it", pid);

    // Options.
    FACT("type, domain, protocol", "%d %d %d", option(pair[0], SOL_SOCKET, SO_TYPE), option(pair[0], SOL_SOCKET, SO_DOMAIN), option(pair[0], SOL_SOCKET, SO_PROTOCOL));
    FACT("raw is datagrams", "%d", option((int)MUST(socket(AF_UNIX, SOCK_RAW, 0)), SOL_SOCKET, SO_TYPE));
    FACT("buffers", "%d %d", option(pair[0], SOL_SOCKET, SO_SNDBUF), option(pair[0], SOL_SOCKET, SO_RCVBUF));
    MUST(setsockopt(pair[0], SOL_SOCKET, SO_SNDBUF, &(int){ 10000 }, sizeof(int)));
    FACT("doubled", "%d", option(pair[0], SOL_SOCKET, SO_SNDBUF));
    MUST(setsockopt(pair[0], SOL_SOCKET, SO_SNDBUF, &(int){ 1 }, sizeof(int)));
    FACT("least", "%d", option(pair[0], SOL_SOCKET, SO_SNDBUF));
    set_nonblocking(pair[0]);
    int fits = 0;
    while (write(pair[0], "1", 1) == 1) fits++;
    FACT("bytes in the least buffer", "%d", fits);
    struct linger linger = { 1, 5 };
    MUST(setsockopt(pair[0], SOL_SOCKET, SO_LINGER, &linger, sizeof linger));
    memset(&linger, 0, sizeof linger);
    length = sizeof linger;
    MUST(getsockopt(pair[0], SOL_SOCKET, SO_LINGER, &linger, &length));
    FACT("SO_LINGER", "%d %d %u", linger.l_onoff, linger.l_linger, length);
    char byte = 9;
    length = 1;
    MUST(getsockopt(pair[0], SOL_SOCKET, SO_TYPE, &byte, &length));
    FACT("one byte of an option", "%d %u", byte, length);
    TRY("unknown option", setsockopt(pair[0], SOL_SOCKET, 9999, &(int){ 1 }, sizeof(int)));
    TRY("unknown option", getsockopt(pair[0], SOL_SOCKET, 9999, &byte, &length));
    TRY("read-only option", setsockopt(pair[0], SOL_SOCKET, SO_TYPE, &(int){ 1 }, sizeof(int)));
    TRY("another level", setsockopt(pair[0], IPPROTO_TCP, TCP_NODELAY, &(int){ 1 }, sizeof(int)));
    TRY("another level", getsockopt(pair[0], IPPROTO_TCP, TCP_NODELAY, &byte, &length));
    TRY("too short", setsockopt(pair[0], SOL_SOCKET, SO_KEEPALIVE, &byte, 1));
    TRY("negative", setsockopt(pair[0], SOL_SOCKET, SO_KEEPALIVE, &byte, (socklen_t)-1));
    TRY("unknown type", socket(AF_UNIX, 77, 0));
    TRY("type without a family", socket(AF_UNIX, SOCK_RDM, 0));
    TRY("protocol 1", close(socket(AF_UNIX, SOCK_STREAM, 1)));
    TRY("protocol 7", socket(AF_UNIX, SOCK_STREAM, 7));
    TRY("unknown family", socket(45, SOCK_STREAM, 0));
    TRY("family out of range", socket(77, SOCK_STREAM, 0));
    TRY("not a socket", listen(file, 1));
    TRY("closed", getpeername(99, (struct sockaddr *)&name, &length));
    TRY("socketpair, bad address", socketpair(AF_UNIX, SOCK_STREAM, 0, OPAQUE((int *)8)));
    return done();
}
