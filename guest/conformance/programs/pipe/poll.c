//: group = "B"
//: summary = "poll and select on pipes and files: readiness, hang-up, errors, time-outs, waiting"
//: link = ["static", "dynamic"]
#include "check.h"
#include <poll.h>
#include <sys/select.h>

static const char *events(short bits) {
    static char text[100];
    text[0] = 0;
    static const struct { short bit; const char *name; } names[] = { { POLLIN, "IN " }, { POLLOUT, "OUT " }, { POLLHUP, "HUP " },
        { POLLERR, "ERR " }, { POLLNVAL, "NVAL " }, { POLLRDNORM, "RDNORM " }, { POLLWRNORM, "WRNORM " }, { POLLPRI, "PRI " } };
    for (size_t i = 0; i < LEN(names); i++)
        if (bits & names[i].bit) strcat(text, names[i].name);
    return text;
}

static void ask(const char *name, int fd) {
    struct pollfd p = { .fd = fd, .events = POLLIN | POLLOUT | POLLPRI | POLLRDNORM | POLLWRNORM };
    int count = poll(&p, 1, 0);
    FACT(name, "%d %s", count, events(p.revents));
}

int main(void) {
    int p[2];
    MUST(pipe(p));
    ask("empty, reading end", p[0]);
    ask("empty, writing end", p[1]);
    MUST(write(p[1], "x", 1));
    ask("filled, reading end", p[0]);
    static char big[70000];
    MUST(fcntl(p[1], F_SETFL, O_NONBLOCK));
    while (write(p[1], big, sizeof big) > 0) {}
    ask("full, writing end", p[1]);
    MUST(read(p[0], big, 100));
    ask("100 bytes free", p[1]);
    MUST(read(p[0], big, 4096));
    ask("a page free", p[1]);
    int q[2];
    MUST(pipe(q));
    MUST(close(q[1]));
    ask("no writer", q[0]);
    MUST(pipe(q));
    MUST(write(q[1], "x", 1));
    MUST(close(q[1]));
    ask("no writer, data left", q[0]);
    MUST(pipe(q));
    MUST(close(q[0]));
    ask("no reader", q[1]);
    ask("closed", 77);
    ask("negative", -1);
    enter_scratch();
    int file = (int)MUST(open("file", O_RDWR | O_CREAT, 0600));
    ask("file", file);
    ask("directory", (int)MUST(open(".", O_RDONLY)));
    ask("/dev/null", (int)MUST(open("/dev/null", O_RDWR)));
    ask("/dev/zero", (int)MUST(open("/dev/zero", O_RDWR)));

    int r[2];
    MUST(pipe(r));
    struct pollfd set[] = { { .fd = r[0], .events = POLLIN }, { .fd = -5, .events = POLLIN, .revents = 7 }, { .fd = p[0], .events = POLLIN }, { .fd = r[0], .events = POLLIN } };
    FACT("four", "%d", poll(set, 4, -1));
    FACT("revents", "%d %d %d %d", set[0].revents, set[1].revents, set[2].revents, set[3].revents);
    int64_t start = now_ns();
    FACT("time-out", "%d", poll(set, 1, 40));
    int64_t took = (now_ns() - start) / 1000000;
    CHECK("waited", took >= 40 && took < 2000);
    FACT("none at all", "%d", poll(NULL, 0, 10));
    TRY("bad address", poll(OPAQUE((struct pollfd *)8), 1, 0));
    TRY("too many", poll(set, OPAQUE(1 << 24), 0));
    pid_t pid = (pid_t)MUST(fork());
    if (pid == 0) {
        sleep_ms(20);
        write(r[1], "x", 1);
        _exit(0);
    }
    FACT("woken by a write", "%d", poll(set, 1, 10000));
    FACT("events", "%s", events(set[0].revents));
    reap("writer", pid);
    MUST(read(r[0], big, 1));
    pid = (pid_t)MUST(fork());
    if (pid == 0) {
        close(r[0]);
        close(r[1]);
        sleep_ms(20);
        _exit(0);
    }
    MUST(close(r[1]));
    FACT("woken by the last writer's end", "%d", poll(set, 1, 10000));
    FACT("events", "%s", events(set[0].revents));
    reap("writer", pid);

    fd_set in, out, error;
    MUST(pipe(r));
    FD_ZERO(&in);
    FD_ZERO(&out);
    FD_ZERO(&error);
    FD_SET(r[0], &in);
    FD_SET(r[1], &out);
    FD_SET(r[0], &error);
    FD_SET(p[0], &in);
    int most = (r[1] > p[0] ? r[1] : p[0]) + 1;
    FACT("select", "%d", select(most, &in, &out, &error, NULL));
    FACT("sets", "%d %d %d %d", FD_ISSET(r[0], &in), FD_ISSET(r[1], &out), FD_ISSET(r[0], &error), FD_ISSET(p[0], &in));
    FD_ZERO(&in);
    FD_SET(r[0], &in);
    struct timeval wait_for = { 0, 30000 };
    start = now_ns();
    FACT("time-out", "%d", select(r[0] + 1, &in, NULL, NULL, &wait_for));
    took = (now_ns() - start) / 1000000;
    FACT("set is empty, time is up", "%d %d", FD_ISSET(r[0], &in), wait_for.tv_usec == 0);
    CHECK("waited", took >= 30 && took < 2000);
    wait_for = (struct timeval){ 5, 0 };
    FD_SET(r[1], &out);
    select(r[1] + 1, NULL, &out, NULL, &wait_for);
    CHECK("what is left of the time", wait_for.tv_sec == 4 || wait_for.tv_sec == 5);
    FD_ZERO(&in);
    // Below 64, the least size of the table of descriptors: Linux looks at no descriptor beyond the table.
    FD_SET(60, &in);
    TRY("closed descriptor", select(61, &in, NULL, NULL, NULL));
    TRY("negative count", select(-1, &in, NULL, NULL, NULL));
    wait_for.tv_sec = -1;
    TRY("negative time", select(0, NULL, NULL, NULL, &wait_for));
    wait_for = (struct timeval){ 0, 10000 };
    FACT("as a sleep", "%d", select(0, NULL, NULL, NULL, &wait_for));
    return done();
}
