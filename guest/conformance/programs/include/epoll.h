// An epoll instance under test, and what it tells: for programs on epoll.
#pragma once
#include "net.h"
#include <sys/epoll.h>

static int epoll;

static void wait_for(const char *name, int ms) {
    static const struct { uint32_t bit; const char *name; } names[] = { { EPOLLIN, "IN" }, { EPOLLOUT, "OUT" }, { EPOLLRDHUP, "RDHUP" },
        { EPOLLHUP, "HUP" }, { EPOLLERR, "ERR" }, { EPOLLPRI, "PRI" } };
    struct epoll_event events[8];
    int count = epoll_wait(epoll, events, 8, ms);
    char text[300] = "";
    for (int i = 0; i < count; i++) {
        sprintf(text + strlen(text), " [%lu", (unsigned long)events[i].data.u64);
        for (size_t k = 0; k < LEN(names); k++)
            if (events[i].events & names[k].bit) sprintf(text + strlen(text), " %s", names[k].name);
        strcat(text, "]");
    }
    if (count == -1) FACT(name, "%s", errno_name(errno));
    else FACT(name, "%d%s", count, text);
}

static int control(int op, int fd, uint32_t events, unsigned long data) {
    return epoll_ctl(epoll, op, fd, &(struct epoll_event){ .events = events, .data.u64 = data });
}
