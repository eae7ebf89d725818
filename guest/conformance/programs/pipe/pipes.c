//: group = "A"
//: summary = "pipes: partial reads, end of file, EPIPE and SIGPIPE, O_NONBLOCK, capacity, atomic writes, O_CLOEXEC"
//: link = ["static", "dynamic"]
#include "check.h"
#include <sys/ioctl.h>

static volatile int sigpipes;
static void on_sigpipe(int number) { sigpipes++; }

int main(void) {
    int p[2];
    char text[100] = "";
    TRY("pipe", pipe(p));
    FACT("descriptors", "%d %d", p[0], p[1]);
    FACT("write", "%zd", write(p[1], "hello world", 11));
    int available = 0;
    TRY("FIONREAD", ioctl(p[0], FIONREAD, &available));
    FACT("available", "%d", available);
    FACT("partial read", "%zd %.5s", read(p[0], text, 5), text);
    MUST(write(p[1], "!", 1));
    FACT("rest of two writes", "%zd %.7s", read(p[0], text, 100), text);
    TRY("write to the reading end", write(p[0], "x", 1));
    TRY("read from the writing end", read(p[1], text, 1));
    TRY("lseek", lseek(p[0], 0, SEEK_SET));
    TRY("pread", pread(p[0], text, 1, 0));
    TRY("ftruncate", ftruncate(p[1], 0));
    TRY("fsync", fsync(p[1]));
    FACT("read of nothing", "%zd", read(p[0], text, 0));
    struct stat status;
    MUST(fstat(p[0], &status));
    FACT("fifo", "%d %o", S_ISFIFO(status.st_mode), status.st_mode & 07777);
    FACT("flags", "%x %x", fcntl(p[0], F_GETFL), fcntl(p[1], F_GETFL));

    MUST(close(p[1]));
    FACT("end of file", "%zd", read(p[0], text, 10));
    MUST(close(p[0]));

    MUST(pipe2(p, O_NONBLOCK | O_CLOEXEC));
    FACT("flags", "%x %d", fcntl(p[0], F_GETFL), fcntl(p[0], F_GETFD));
    TRY("empty, nonblocking", read(p[0], text, 1));
    FACT("capacity", "%d", fcntl(p[0], F_GETPIPE_SZ));
    static char big[70000];
    FACT("filled", "%zd", write(p[1], big, sizeof big));
    TRY("full", write(p[1], big, 1));
    FACT("take 4095", "%zd", read(p[0], big, 4095));
    TRY("less than PIPE_BUF free: nothing", write(p[1], big, 4096));
    FACT("take 1 more", "%zd", read(p[0], big, 1));
    FACT("now 4096 fit", "%zd", write(p[1], big, 4096));
    TRY("F_SETPIPE_SZ below what is in it", fcntl(p[1], F_SETPIPE_SZ, 4096));
    FACT("F_SETPIPE_SZ", "%d", fcntl(p[1], F_SETPIPE_SZ, 100000));
    FACT("more fits", "%zd", write(p[1], big, sizeof big));
    MUST(close(p[0]));
    handle(SIGPIPE, on_sigpipe, 0);
    TRY("no reader", write(p[1], "x", 1));
    FACT("SIGPIPE", "%d", sigpipes);
    handle(SIGPIPE, SIG_IGN, 0);
    TRY("no reader, SIGPIPE ignored", write(p[1], "x", 1));
    TRY("no reader, nothing to write", write(p[1], "x", 0));
    CHILD("default of SIGPIPE") {
        handle(SIGPIPE, SIG_DFL, 0);
        write(p[1], "x", 1);
    }
    MUST(close(p[1]));

    // A reader that waits, a writer that comes later; then a writer that waits for room.
    MUST(pipe(p));
    pid_t pid = (pid_t)MUST(fork());
    if (pid == 0) {
        close(p[0]);
        sleep_ms(20);
        write(p[1], "late", 4);
        sleep_ms(20);
        _exit(0);
    }
    MUST(close(p[1]));
    FACT("late", "%zd %.4s", read(p[0], text, 100), text);
    FACT("then end of file", "%zd", read(p[0], text, 100));
    reap("writer", pid);
    MUST(close(p[0]));
    MUST(pipe(p));
    pid = (pid_t)MUST(fork());
    if (pid == 0) {
        close(p[0]);
        for (int i = 0; i < 20; i++) {
            memset(big, 'a' + i, sizeof big);
            if (write(p[1], big, sizeof big) != (ssize_t)sizeof big) _exit(1);
        }
        _exit(0);
    }
    MUST(close(p[1]));
    size_t total = 0, wrong = 0;
    ssize_t got;
    while ((got = read(p[0], big, 3000)) > 0)
        for (ssize_t i = 0; i < got; i++) wrong += big[i] != (char)('a' + total++ / sizeof big);
    FACT("through a full pipe", "%zu %zu", total, wrong);
    reap("writer", pid);
    MUST(close(p[0]));

    // Writes of up to PIPE_BUF bytes are never mixed.
    MUST(pipe(p));
    for (int k = 0; k < 4; k++)
        if (MUST(fork()) == 0) {
            char record[512];
            memset(record, 'A' + k, sizeof record);
            for (int i = 0; i < 200; i++)
                if (write(p[1], record, sizeof record) != (ssize_t)sizeof record) _exit(1);
            _exit(0);
        }
    MUST(close(p[1]));
    int records = 0, mixed = 0;
    FILE *from = fdopen(p[0], "r");
    char record[512];
    while (fread(record, sizeof record, 1, from) == 1) {
        records++;
        for (size_t i = 1; i < sizeof record; i++) mixed += record[i] != record[0];
    }
    FACT("records, mixed", "%d %d", records, mixed);
    int ended = 0, status_of;
    while (wait(&status_of) > 0) ended += status_of == 0;
    FACT("writers", "%d", ended);
    fclose(from);

    // Opening an end through /proc never waits for the other side, as a FIFO would (bash's process substitution).
    MUST(pipe(p));
    MUST(write(p[1], "left", 4)), MUST(close(p[1]));
    char own[32];
    snprintf(own, sizeof own, "/proc/self/fd/%d", p[0]);
    int again = (int)TRY("open the reading end, no writer", open(own, O_RDONLY));
    MUST(close(p[0]));
    FACT("read", "%zd %.4s", read(again, text, 10), text);
    FACT("end of file", "%zd", read(again, text, 10));
    snprintf(own, sizeof own, "/dev/fd/%d", again);
    int other = (int)TRY("open it for writing", open(own, O_WRONLY));
    FACT("through it", "%zd", write(other, "back", 4));
    FACT("read", "%zd %.4s", read(again, text, 10), text);
    MUST(close(again)), MUST(close(other));

    enter_scratch();
    TRY("mkfifo", mkfifo("fifo", 0640));
    TRY("open for writing, nonblocking, no reader", open("fifo", O_WRONLY | O_NONBLOCK));
    int reader = (int)TRY("open for reading, nonblocking", open("fifo", O_RDONLY | O_NONBLOCK));
    FACT("no writer", "%zd", read(reader, text, 1));
    int writer = (int)TRY("open for writing", open("fifo", O_WRONLY));
    TRY("empty", read(reader, text, 1));
    MUST(write(writer, "named", 5));
    FACT("read", "%zd %.5s", read(reader, text, 10), text);
    MUST(close(writer)), MUST(close(reader));
    pid = (pid_t)MUST(fork());
    if (pid == 0) {
        int fd = open("fifo", O_WRONLY);
        write(fd, "meet", 4);
        _exit(0);
    }
    reader = (int)MUST(open("fifo", O_RDONLY));
    FACT("both waited in open", "%zd %.4s", read(reader, text, 10), text);
    reap("writer", pid);
    return done();
}
