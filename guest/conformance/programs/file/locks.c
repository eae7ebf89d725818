//: group = "F"
//: summary = "flock, fcntl record locks and open-file-description locks between processes"
//: link = ["dynamic"]
#include "check.h"
#include <sys/file.h>

static int record(int fd, int command, short type, off_t start, off_t length, struct flock *out) {
    struct flock lock = { .l_type = type, .l_whence = SEEK_SET, .l_start = start, .l_len = length };
    int result = fcntl(fd, command, &lock);
    if (out) *out = lock;
    return result;
}

int main(void) {
    enter_scratch();
    write_file("file", "0123456789");
    int a = (int)MUST(open("file", O_RDWR)), b = (int)MUST(open("file", O_RDWR));
    TRY("flock exclusive", flock(a, LOCK_EX));
    TRY("by another open", flock(b, LOCK_EX | LOCK_NB));
    TRY("shared by another open", flock(b, LOCK_SH | LOCK_NB));
    TRY("by a duplicate", flock(dup(a), LOCK_EX | LOCK_NB));
    TRY("to shared", flock(a, LOCK_SH));
    TRY("two shared", flock(b, LOCK_SH | LOCK_NB));
    TRY("to exclusive", flock(a, LOCK_EX | LOCK_NB));
    TRY("unlock", flock(b, LOCK_UN));
    CHILD("a child shares the lock") {
        int own = (int)MUST(open("file", O_RDWR));
        _exit(flock(a, LOCK_EX | LOCK_NB) != 0 || flock(own, LOCK_SH | LOCK_NB) == 0);
    }
    MUST(flock(a, LOCK_UN));
    MUST(flock(b, LOCK_EX));
    pid_t pid = (pid_t)MUST(fork());
    if (pid == 0) {
        int own = (int)MUST(open("file", O_RDWR));
        close(a), close(b);
        int64_t start = now_ns();
        MUST(flock(own, LOCK_EX));
        _exit(now_ns() - start > 10000000 ? 0 : 1);
    }
    sleep_ms(40);
    MUST(flock(b, LOCK_UN));
    reap("waits for the lock", pid);
    TRY("bad operation", flock(a, 77));

    TRY("record lock 0-4", record(a, F_SETLK, F_WRLCK, 0, 5, NULL));
    TRY("same process, another descriptor", record(b, F_SETLK, F_WRLCK, 0, 5, NULL));
    CHILD("another process") {
        struct flock got;
        TRY("0-4", record(b, F_SETLK, F_WRLCK, 0, 5, NULL));
        TRY("4-6 for reading", record(b, F_SETLK, F_RDLCK, 4, 3, NULL));
        TRY("5-9", record(b, F_SETLK, F_WRLCK, 5, 5, NULL));
        MUST(record(b, F_GETLK, F_WRLCK, 0, 0, &got));
        FACT("who has it", "%d %ld %ld %d", got.l_type == F_WRLCK, (long)got.l_start, (long)got.l_len, got.l_pid == getppid());
    }
    TRY("unlock the middle", record(a, F_SETLK, F_UNLCK, 2, 1, NULL));
    CHILD("split in two") {
        TRY("2", record(b, F_SETLK, F_WRLCK, 2, 1, NULL));
        TRY("1", record(b, F_SETLK, F_WRLCK, 1, 1, NULL));
        TRY("3", record(b, F_SETLK, F_WRLCK, 3, 1, NULL));
    }
    pid = (pid_t)MUST(fork());
    if (pid == 0) {
        int64_t start = now_ns();
        MUST(record(b, F_SETLKW, F_WRLCK, 0, 1, NULL));
        _exit(now_ns() - start > 10000000 ? 0 : 1);
    }
    sleep_ms(40);
    MUST(record(a, F_SETLK, F_UNLCK, 0, 0, NULL));
    reap("waits for the record", pid);
    MUST(record(a, F_SETLK, F_WRLCK, 0, 0, NULL));
    MUST(close((int)MUST(open("file", O_RDONLY))));
    CHILD("any close drops the process's locks") _exit(record(b, F_SETLK, F_WRLCK, 0, 0, NULL) != 0);
    struct flock got;
    MUST(record(a, F_GETLK, F_WRLCK, 0, 0, &got));
    FACT("a dead process has none", "%d", got.l_type == F_UNLCK);
    TRY("write lock of a read-only descriptor", record((int)MUST(open("file", O_RDONLY)), F_SETLK, F_WRLCK, 0, 0, NULL));
    TRY("lockf", lockf(a, F_TLOCK, 0));

    // Deadlock is told.
    int ready[2], back[2];
    MUST(pipe(ready)), MUST(pipe(back));
    MUST(record(a, F_SETLK, F_UNLCK, 0, 0, NULL));
    MUST(record(a, F_SETLK, F_WRLCK, 0, 1, NULL));
    pid = (pid_t)MUST(fork());
    if (pid == 0) {
        MUST(record(b, F_SETLK, F_WRLCK, 1, 1, NULL));
        write(ready[1], "x", 1);
        _exit(record(b, F_SETLKW, F_WRLCK, 0, 1, NULL) != 0);
    }
    char c;
    MUST(read(ready[0], &c, 1));
    sleep_ms(30);
    TRY("deadlock", record(a, F_SETLKW, F_WRLCK, 1, 1, NULL));
    MUST(record(a, F_SETLK, F_UNLCK, 0, 1, NULL));
    reap("the other goes on", pid);

    TRY("OFD lock", record(a, F_OFD_SETLK, F_WRLCK, 0, 0, NULL));
    TRY("another open of the same process", record(b, F_OFD_SETLK, F_WRLCK, 0, 0, NULL));
    MUST(record(b, F_OFD_GETLK, F_WRLCK, 0, 0, &got));
    FACT("whose", "%d", got.l_pid);
    TRY("unlock", record(a, F_OFD_SETLK, F_UNLCK, 0, 0, NULL));
    TRY("now it goes", record(b, F_OFD_SETLK, F_WRLCK, 0, 0, NULL));
    return done();
}
