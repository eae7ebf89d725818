// Sockets for the programs of net/.
#pragma once
#include "check.h"
#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/un.h>

__attribute__((unused)) static struct sockaddr_in loopback(int port) {
    return (struct sockaddr_in){ .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK), .sin_port = htons((uint16_t)port) };
}

__attribute__((unused)) static int port_of(int fd) {
    struct sockaddr_in address;
    socklen_t length = sizeof address;
    MUST(getsockname(fd, (struct sockaddr *)&address, &length));
    return ntohs(address.sin_port);
}

// A socket that listens on a free port of the loopback interface.
__attribute__((unused)) static int listener(int backlog) {
    int fd = (int)MUST(socket(AF_INET, SOCK_STREAM, 0));
    struct sockaddr_in address = loopback(0);
    MUST(bind(fd, (struct sockaddr *)&address, sizeof address));
    MUST(listen(fd, backlog));
    return fd;
}

__attribute__((unused)) static int connected(int port) {
    int fd = (int)MUST(socket(AF_INET, SOCK_STREAM, 0));
    struct sockaddr_in address = loopback(port);
    MUST(connect(fd, (struct sockaddr *)&address, sizeof address));
    return fd;
}

// Both ends of a TCP connection.
__attribute__((unused)) static void tcp_pair(int pair[2]) {
    int server = listener(1);
    pair[0] = connected(port_of(server));
    pair[1] = (int)MUST(accept(server, NULL, NULL));
    MUST(close(server));
}

__attribute__((unused)) static int option(int fd, int level, int name) {
    int value = -1;
    socklen_t length = sizeof value;
    return getsockopt(fd, level, name, &value, &length) == -1 ? -errno : value;
}

// SO_ERROR as a name; reading it clears it.
__attribute__((unused)) static const char *so_error(int fd) {
    int value = option(fd, SOL_SOCKET, SO_ERROR);
    return value == 0 ? "none" : errno_name(value < 0 ? -value : value);
}

__attribute__((unused)) static const char *poll_events(int fd, short want, int ms) {
    static const struct { short bit; const char *name; } names[] = { { POLLIN, "IN " }, { POLLOUT, "OUT " }, { POLLRDHUP, "RDHUP " },
        { POLLHUP, "HUP " }, { POLLERR, "ERR " }, { POLLPRI, "PRI " }, { POLLNVAL, "NVAL " } };
    static char text[100];
    struct pollfd p = { .fd = fd, .events = want };
    text[0] = 0;
    poll(&p, 1, ms);
    for (size_t i = 0; i < LEN(names); i++)
        if (p.revents & names[i].bit) strcat(text, names[i].name);
    return text;
}

__attribute__((unused)) static void set_nonblocking(int fd) { MUST(fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK)); }
