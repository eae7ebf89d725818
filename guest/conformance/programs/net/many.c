//: group = "F"
//: summary = "ten thousand AF_UNIX sockets: in one epoll set, passed, connected; everything works afterwards"
//: link = ["static"]
//: memory = "512M"
#include "net.h"
#include <sys/epoll.h>
#include <sys/resource.h>

#define PAIRS 5000

static int pairs[PAIRS][2];

int main(void) {
    CHILD("ten thousand sockets") {
        struct rlimit limit = { 20000, 20000 };
        MUST(setrlimit(RLIMIT_NOFILE, &limit));
        int epoll = (int)MUST(epoll_create1(0));
        for (int i = 0; i < PAIRS; i++) {
            MUST(socketpair(AF_UNIX, i % 3 == 0 ? SOCK_DGRAM : i % 3 == 1 ? SOCK_SEQPACKET : SOCK_STREAM, 0, pairs[i]));
            struct epoll_event event = { .events = EPOLLIN, .data.u32 = (uint32_t)i };
            MUST(epoll_ctl(epoll, EPOLL_CTL_ADD, pairs[i][0], &event));
        }
        for (int i = 0; i < PAIRS; i++) MUST(write(pairs[i][1], &i, sizeof i));
        int found = 0, right = 0;
        struct epoll_event events[64];
        for (int count; (count = epoll_wait(epoll, events, 64, 0)) > 0;)
            for (int k = 0; k < count; k++) {
                int value = -1, i = (int)events[k].data.u32;
                MUST(read(pairs[i][0], &value, sizeof value));
                found++, right += value == i;
            }
        FACT("all were ready, with their own data", "%d %d", found, right);
    }
    CHILD("until no descriptor is left") {
        struct rlimit limit = { 10000, 10000 };
        MUST(setrlimit(RLIMIT_NOFILE, &limit));
        int count = 0;
        while (socket(AF_UNIX, SOCK_STREAM, 0) != -1) count++;
        FACT("sockets", "%d, then %s", count, errno_name(errno));
        int pair[2];
        TRY("socketpair", socketpair(AF_UNIX, SOCK_STREAM, 0, pair));
        MUST(close(9000));
        TRY("socketpair with one descriptor", socketpair(AF_UNIX, SOCK_STREAM, 0, pair));
        TRY("one socket", socket(AF_UNIX, SOCK_STREAM, 0));
    }
    CHILD("thousands of clients") {
        struct rlimit limit = { 20000, 20000 };
        MUST(setrlimit(RLIMIT_NOFILE, &limit));
        int server = (int)MUST(socket(AF_UNIX, SOCK_STREAM, 0));
        struct sockaddr_un name = { .sun_family = AF_UNIX, .sun_path = "\0many" };
        MUST(bind(server, (struct sockaddr *)&name, sizeof name)), MUST(listen(server, 4096));
        int served = 0;
        for (int round = 0; round < 4; round++) {
            for (int i = 0; i < 2000; i++) {
                pairs[i][0] = (int)MUST(socket(AF_UNIX, SOCK_STREAM, 0));
                MUST(connect(pairs[i][0], (struct sockaddr *)&name, sizeof name));
                MUST(write(pairs[i][0], "request", 7));
            }
            for (int i = 0; i < 2000; i++) {
                char buffer[10];
                int fd = (int)MUST(accept(server, NULL, NULL));
                served += read(fd, buffer, 10) == 7;
                MUST(close(fd)), MUST(close(pairs[i][0]));
            }
        }
        FACT("served", "%d", served);
    }
    CHILD("full buffers") {
        // Each may have some 200 KB under way: far more than there is memory for all.
        struct rlimit limit = { 20000, 20000 };
        MUST(setrlimit(RLIMIT_NOFILE, &limit));
        for (int i = 0; i < PAIRS; i++) {
            MUST(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, pairs[i]));
            char bytes[1000] = "";
            ssize_t sent = write(pairs[i][0], bytes, sizeof bytes);
            MUST(sent == 1000 ? 0 : -1);
        }
        FACT("filled", "%d", PAIRS);
    }
    CHILD("all is well") {
        int pair[2];
        MUST(socketpair(AF_UNIX, SOCK_STREAM, 0, pair));
        MUST(write(pair[0], "x", 1));
    }
    return done();
}
