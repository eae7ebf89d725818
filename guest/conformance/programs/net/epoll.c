//: group = "C"
//: summary = "epoll: level, edge, oneshot, RDHUP, many descriptors, closing, nesting, time-outs, errors"
//: link = ["static", "dynamic"]
#include "epoll.h"

int main(void) {
    epoll = (int)TRY("epoll_create1", epoll_create1(EPOLL_CLOEXEC));
    char buffer[100];
    int pair[2];
    MUST(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, pair));
    TRY("add", control(EPOLL_CTL_ADD, pair[0], EPOLLIN, 1));
    TRY("add again", control(EPOLL_CTL_ADD, pair[0], EPOLLIN, 1));
    wait_for("nothing", 0);
    int64_t start = now_ns();
    wait_for("time-out", 30);
    CHECK("waited", now_ns() - start >= 30000000);
    MUST(write(pair[1], "abc", 3));
    wait_for("level", 1000);
    wait_for("level, still there", 0);
    MUST(read(pair[0], buffer, 1));
    wait_for("level, partly read", 0);
    MUST(read(pair[0], buffer, 100));
    wait_for("level, all read", 0);
    TRY("modify", control(EPOLL_CTL_MOD, pair[0], EPOLLIN | EPOLLOUT, 2));
    wait_for("writable", 0);

    MUST(control(EPOLL_CTL_MOD, pair[0], EPOLLIN | EPOLLET, 3));
    MUST(write(pair[1], "abc", 3));
    wait_for("edge", 1000);
    wait_for("edge, told once", 0);
    MUST(read(pair[0], buffer, 1));
    wait_for("edge, partly read", 0);
    MUST(write(pair[1], "d", 1));
    wait_for("edge, more came", 1000);
    MUST(read(pair[0], buffer, 100));
    MUST(control(EPOLL_CTL_MOD, pair[0], EPOLLIN | EPOLLOUT | EPOLLET, 3));
    wait_for("edge, modified while ready", 0);
    wait_for("edge, once", 0);

    MUST(control(EPOLL_CTL_MOD, pair[0], EPOLLIN | EPOLLONESHOT, 4));
    MUST(write(pair[1], "abc", 3));
    wait_for("oneshot", 1000);
    wait_for("oneshot, spent", 0);
    MUST(write(pair[1], "abc", 3));
    wait_for("oneshot, still spent", 0);
    MUST(control(EPOLL_CTL_MOD, pair[0], EPOLLIN | EPOLLONESHOT, 5));
    wait_for("oneshot, armed again", 0);
    MUST(control(EPOLL_CTL_MOD, pair[0], EPOLLIN | EPOLLRDHUP, 6));
    MUST(read(pair[0], buffer, 100));
    MUST(shutdown(pair[1], SHUT_WR));
    wait_for("half closed", 1000);
    MUST(close(pair[1]));
    wait_for("closed", 1000);
    TRY("delete", control(EPOLL_CTL_DEL, pair[0], 0, 0));
    TRY("delete again", control(EPOLL_CTL_DEL, pair[0], 0, 0));
    TRY("modify what is not there", control(EPOLL_CTL_MOD, pair[0], EPOLLIN, 0));
    wait_for("deleted", 0);

    int server = listener(5);
    MUST(control(EPOLL_CTL_ADD, server, EPOLLIN, 7));
    int client = connected(port_of(server));
    wait_for("listening socket", 1000);
    int accepted = (int)MUST(accept(server, NULL, NULL));
    wait_for("accepted", 0);
    MUST(control(EPOLL_CTL_ADD, accepted, EPOLLIN | EPOLLRDHUP | EPOLLET, 8));
    MUST(write(client, "tcp", 3));
    wait_for("TCP, edge", 1000);
    MUST(close(client));
    wait_for("TCP, closed", 1000);
    // A closed descriptor leaves the set by itself, unless another refers to the same open file.
    int twin = dup(accepted);
    MUST(close(accepted));
    MUST(close(twin));
    wait_for("all closed", 0);

    int p[2];
    MUST(pipe(p));
    TRY("pipe", control(EPOLL_CTL_ADD, p[0], EPOLLIN, 9));
    pid_t pid = (pid_t)MUST(fork());
    if (pid == 0) {
        sleep_ms(30);
        write(p[1], "x", 1);
        _exit(0);
    }
    wait_for("woken by another process", 10000);
    reap("it", pid);
    int outer = (int)MUST(epoll_create1(0));
    TRY("nested", epoll_ctl(outer, EPOLL_CTL_ADD, epoll, &(struct epoll_event){ .events = EPOLLIN }));
    struct epoll_event event;
    FACT("outer", "%d", epoll_wait(outer, &event, 1, 0));
    FACT("poll of an epoll", "%s", poll_events(epoll, POLLIN, 0));
    TRY("a loop of two", control(EPOLL_CTL_ADD, outer, EPOLLIN, 0));
    TRY("itself", control(EPOLL_CTL_ADD, epoll, EPOLLIN, 0));
    enter_scratch();
    TRY("a file", control(EPOLL_CTL_ADD, (int)MUST(open("file", O_CREAT | O_RDWR, 0600)), EPOLLIN, 0));
    TRY("a directory", control(EPOLL_CTL_ADD, (int)MUST(open(".", O_RDONLY)), EPOLLIN, 0));
    TRY("closed", control(EPOLL_CTL_ADD, 99, EPOLLIN, 0));
    TRY("not an epoll", epoll_ctl(p[0], EPOLL_CTL_ADD, p[1], &event));
    TRY("bad operation", control(77, p[0], EPOLLIN, 0));
    TRY("no room for events", epoll_wait(epoll, &event, 0, 0));
    TRY("bad address", epoll_wait(epoll, OPAQUE((struct epoll_event *)8), 1, 0));
    TRY("epoll_create(0)", epoll_create(0));
    TRY("EPOLLEXCLUSIVE", control(EPOLL_CTL_ADD, p[1], EPOLLOUT | EPOLLEXCLUSIVE, 10));
    MUST(control(EPOLL_CTL_DEL, p[1], 0, 0)), MUST(control(EPOLL_CTL_DEL, p[0], 0, 0));

    // Two hundred pairs, every tenth ready; with room for 8 at a time nobody is left out.
    static int many[200][2];
    for (int i = 0; i < 200; i++) {
        MUST(socketpair(AF_UNIX, SOCK_STREAM, 0, many[i]));
        MUST(control(EPOLL_CTL_ADD, many[i][0], EPOLLIN, 1000 + (unsigned long)i));
        if (i % 10 == 0) MUST(write(many[i][1], "x", 1));
    }
    static bool seen[200];
    int rounds = 0, found = 0;
    while (found < 20 && rounds++ < 100) {
        struct epoll_event events[8];
        int count = epoll_wait(epoll, events, 8, 100);
        for (int i = 0; i < count; i++) {
            unsigned long k = events[i].data.u64 - 1000;
            if (k < 200 && !seen[k]) seen[k] = true, found++, MUST(read(many[k][0], buffer, 1));
        }
    }
    FACT("found of two hundred", "%d", found);
    sigset_t none;
    sigemptyset(&none);
    FACT("epoll_pwait", "%d", epoll_pwait(epoll, &event, 1, 10, &none));
    FACT("epoll_pwait2", "%d", epoll_pwait2(epoll, &event, 1, &(struct timespec){ 0, 10000000 }, NULL));
    return done();
}
