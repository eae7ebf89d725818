//: group = "A"
//: summary = "dup, dup2, dup3, fcntl: lowest number, shared offset and flags, close-on-exec, limits, errors"
//: link = ["static"]
#include "check.h"
#include <sys/resource.h>

int main(void) {
    enter_scratch();
    int fd = (int)MUST(open("file", O_RDWR | O_CREAT, 0600));
    FACT("open", "%d", fd);
    FACT("dup", "%d", dup(fd));
    MUST(close(fd));
    FACT("lowest free number", "%d", open("file", O_RDWR));
    MUST(write(3, "0123456789", 10));
    MUST(close(4));
    int twin = dup(3);
    MUST(lseek(twin, 4, SEEK_SET));
    FACT("offset is shared", "%ld", (long)lseek(3, 0, SEEK_CUR));
    MUST(fcntl(twin, F_SETFL, O_APPEND));
    FACT("flags are shared", "%d", !!(fcntl(3, F_GETFL) & O_APPEND));
    MUST(fcntl(twin, F_SETFD, FD_CLOEXEC));
    FACT("close-on-exec is not", "%d %d", fcntl(3, F_GETFD), fcntl(twin, F_GETFD));
    int own = (int)MUST(open("file", O_RDONLY));
    FACT("another open has its own offset", "%ld", (long)lseek(own, 0, SEEK_CUR));

    FACT("dup2", "%d", dup2(3, 20));
    FACT("dup2 to itself", "%d", dup2(20, 20));
    FACT("dup2 over an open one", "%d", dup2(own, 20));
    FACT("it is the other now", "%ld", (long)lseek(20, 0, SEEK_CUR));
    MUST(fcntl(20, F_SETFD, FD_CLOEXEC));
    MUST(dup2(3, 20));
    FACT("dup2 clears close-on-exec", "%d", fcntl(20, F_GETFD));
    FACT("dup3", "%d", dup3(3, 21, O_CLOEXEC));
    FACT("close-on-exec", "%d", fcntl(21, F_GETFD));
    TRY("dup3 to itself", dup3(3, 3, 0));
    TRY("dup3, bad flags", dup3(3, 22, O_APPEND));
    TRY("dup of a closed one", dup(50));
    TRY("dup2 of a closed one", dup2(50, 20));
    TRY("and the target stays", fcntl(20, F_GETFD));
    TRY("dup2 to -1", dup2(3, -1));
    TRY("dup2 beyond the limit", dup2(3, 1 << 24));
    FACT("F_DUPFD", "%d", fcntl(3, F_DUPFD, 30));
    FACT("F_DUPFD again", "%d", fcntl(3, F_DUPFD, 30));
    FACT("F_DUPFD_CLOEXEC", "%d", fcntl(3, F_DUPFD_CLOEXEC, 30));
    FACT("close-on-exec", "%d", fcntl(32, F_GETFD));
    TRY("F_DUPFD, negative", fcntl(3, F_DUPFD, -1));
    TRY("F_DUPFD beyond the limit", fcntl(3, F_DUPFD, 1 << 24));

    FACT("access mode", "%d %d", fcntl(3, F_GETFL) & O_ACCMODE, fcntl(own, F_GETFL) & O_ACCMODE);
    MUST(fcntl(own, F_SETFL, O_NONBLOCK | O_RDWR | O_CREAT));
    FACT("F_SETFL changes only some", "%x", fcntl(own, F_GETFL) & ~0100000);
    TRY("F_GETFL of a closed one", fcntl(50, F_GETFL));
    TRY("unknown command", fcntl(3, 9999, 0));
    TRY("F_GETOWN", fcntl(3, F_GETOWN));
    TRY("close of a closed one", close(50));
    TRY("close of -1", close(-1));
    TRY("close_range", close_range(30, 40, 0));
    TRY("closed by it", fcntl(31, F_GETFD));
    TRY("close_range, set close-on-exec", close_range(20, 21, CLOSE_RANGE_CLOEXEC));
    FACT("set", "%d", fcntl(20, F_GETFD));
    TRY("close_range, first beyond last", close_range(5, 4, 0));

    struct rlimit limit = { 24, 24 };
    struct rlimit old;
    MUST(getrlimit(RLIMIT_NOFILE, &old));
    limit.rlim_max = old.rlim_max;
    MUST(setrlimit(RLIMIT_NOFILE, &limit));
    int count = 0, last = 0, next;
    while ((next = dup(3)) != -1) count++, last = next;
    FACT("descriptors until the limit", "%d, last %d, then %s", count, last, errno_name(errno));
    TRY("open", open("file", O_RDONLY));
    int p[2];
    MUST(close(last));
    TRY("pipe with one free", pipe(p));
    FACT("and it is free again", "%d", dup(3));
    TRY("dup2 to the limit", dup2(3, 24));
    CHILD("the child has them all") _exit(fcntl(last, F_GETFD) == -1);
    return done();
}
