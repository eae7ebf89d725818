//: group = "C"
//: summary = "epoll on AF_UNIX sockets: connecting, both ways, full and drained, half closed, datagrams"
//: link = ["static", "dynamic"]
#include "epoll.h"

int main(void) {
    epoll = (int)TRY("epoll_create1", epoll_create1(EPOLL_CLOEXEC));
    char buffer[100];
    int server = (int)MUST(socket(AF_UNIX, SOCK_STREAM, 0)), client = (int)MUST(socket(AF_UNIX, SOCK_STREAM, 0));
    struct sockaddr_un name = { .sun_family = AF_UNIX, .sun_path = "\0epoll" };
    MUST(bind(server, (struct sockaddr *)&name, sizeof name)), MUST(listen(server, 5));
    MUST(control(EPOLL_CTL_ADD, server, EPOLLIN, 7));
    MUST(control(EPOLL_CTL_ADD, client, EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET, 11));
    wait_for("not connected", 0);
    MUST(connect(client, (struct sockaddr *)&name, sizeof name));
    wait_for("listening socket", 1000);
    int accepted = (int)MUST(accept(server, NULL, NULL));
    wait_for("accepted", 0);
    MUST(control(EPOLL_CTL_ADD, accepted, EPOLLIN | EPOLLRDHUP | EPOLLET, 8));
    MUST(write(client, "unix", 4));
    wait_for("edge", 1000);
    MUST(write(accepted, "back", 4));
    wait_for("edge, other side", 1000);
    static char plenty[300000];
    set_nonblocking(client);
    while (write(client, plenty, sizeof plenty) > 0) {}
    wait_for("filled", 0);
    while (recv(accepted, plenty, sizeof plenty, MSG_DONTWAIT) > 0) {}
    wait_for("drained: writable again", 0);
    MUST(shutdown(client, SHUT_WR));
    wait_for("half closed", 1000);
    MUST(close(client));
    wait_for("closed", 1000);
    // A closed descriptor leaves the set by itself, unless another refers to the same open file.
    int twin = dup(accepted);
    MUST(close(accepted));
    MUST(close(twin));
    wait_for("all closed", 0);
    int datagrams[2];
    MUST(socketpair(AF_UNIX, SOCK_DGRAM, 0, datagrams));
    MUST(control(EPOLL_CTL_ADD, datagrams[0], EPOLLIN | EPOLLET, 12));
    MUST(write(datagrams[1], "1", 1)), MUST(write(datagrams[1], "2", 1));
    wait_for("two datagrams", 1000);
    MUST(read(datagrams[0], buffer, 10));
    wait_for("one left, edge", 0);
    MUST(close(datagrams[1]));
    wait_for("datagram peer closed", 0);
    return done();
}
