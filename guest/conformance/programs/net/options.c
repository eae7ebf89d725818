//: group = "C"
//: summary = "socket options as servers set and read them; accept4; backlog"
//: link = ["static"]
#include "net.h"

static void toggle(const char *name, int fd, int level, int option_name) {
    int before = option(fd, level, option_name);
    int set = setsockopt(fd, level, option_name, &(int){ 1 }, sizeof(int));
    int error = errno;
    FACT(name, "%d %s %d", before, set == -1 ? errno_name(error) : "ok", option(fd, level, option_name));
}

int main(void) {
    int fd = (int)MUST(socket(AF_INET, SOCK_STREAM, 0));
    FACT("SO_TYPE, DOMAIN, PROTOCOL", "%d %d %d", option(fd, SOL_SOCKET, SO_TYPE), option(fd, SOL_SOCKET, SO_DOMAIN), option(fd, SOL_SOCKET, SO_PROTOCOL));
    FACT("SO_ERROR", "%d", option(fd, SOL_SOCKET, SO_ERROR));
    toggle("SO_REUSEADDR", fd, SOL_SOCKET, SO_REUSEADDR);
    toggle("SO_REUSEPORT", fd, SOL_SOCKET, SO_REUSEPORT);
    toggle("SO_KEEPALIVE", fd, SOL_SOCKET, SO_KEEPALIVE);
    toggle("SO_BROADCAST", fd, SOL_SOCKET, SO_BROADCAST);
    toggle("SO_OOBINLINE", fd, SOL_SOCKET, SO_OOBINLINE);
    toggle("SO_DONTROUTE", fd, SOL_SOCKET, SO_DONTROUTE);
    toggle("TCP_NODELAY", fd, IPPROTO_TCP, TCP_NODELAY);
    toggle("TCP_CORK", fd, IPPROTO_TCP, TCP_CORK);
    toggle("TCP_DEFER_ACCEPT", fd, IPPROTO_TCP, TCP_DEFER_ACCEPT);
    toggle("TCP_QUICKACK", fd, IPPROTO_TCP, TCP_QUICKACK);
    static const struct { int name; const char *text; int value; } numbers[] = { { TCP_KEEPIDLE, "TCP_KEEPIDLE", 33 }, { TCP_KEEPINTVL, "TCP_KEEPINTVL", 7 },
        { TCP_KEEPCNT, "TCP_KEEPCNT", 4 }, { TCP_USER_TIMEOUT, "TCP_USER_TIMEOUT", 5000 } };
    for (size_t i = 0; i < LEN(numbers); i++) {
        TRY(numbers[i].text, setsockopt(fd, IPPROTO_TCP, numbers[i].name, &numbers[i].value, sizeof(int)));
        FACT(numbers[i].text, "%d", option(fd, IPPROTO_TCP, numbers[i].name));
    }
    TRY("SO_SNDBUF", setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &(int){ 50000 }, sizeof(int)));
    FACT("doubled", "%d", option(fd, SOL_SOCKET, SO_SNDBUF));
    TRY("SO_RCVBUF", setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &(int){ 60000 }, sizeof(int)));
    FACT("doubled", "%d", option(fd, SOL_SOCKET, SO_RCVBUF));
    struct linger linger = { 1, 5 };
    TRY("SO_LINGER", setsockopt(fd, SOL_SOCKET, SO_LINGER, &linger, sizeof linger));
    socklen_t length = sizeof linger;
    linger = (struct linger){ 0 };
    MUST(getsockopt(fd, SOL_SOCKET, SO_LINGER, &linger, &length));
    FACT("linger", "%d %d", linger.l_onoff, linger.l_linger);
    struct timeval time = { 1, 500000 };
    TRY("SO_SNDTIMEO", setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &time, sizeof time));
    time = (struct timeval){ 0 };
    length = sizeof time;
    MUST(getsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &time, &length));
    FACT("time", "%ld.%06ld", (long)time.tv_sec, (long)time.tv_usec);
    TRY("IP_TOS", setsockopt(fd, IPPROTO_IP, IP_TOS, &(int){ 0x10 }, sizeof(int)));
    FACT("IP_TOS", "%d", option(fd, IPPROTO_IP, IP_TOS));
    TRY("IP_TTL", setsockopt(fd, IPPROTO_IP, IP_TTL, &(int){ 33 }, sizeof(int)));
    FACT("IP_TTL", "%d", option(fd, IPPROTO_IP, IP_TTL));
    int short_value = 0;
    length = 2;
    TRY("getsockopt, short buffer", getsockopt(fd, SOL_SOCKET, SO_TYPE, &short_value, &length));
    FACT("length", "%u", length);
    TRY("getsockopt, unknown", getsockopt(fd, SOL_SOCKET, 9999, &short_value, &length));
    MUST(close(fd));

    int server = listener(8), client = connected(port_of(server));
    struct sockaddr_in peer;
    length = sizeof peer;
    fd = (int)TRY("accept4", accept4(server, (struct sockaddr *)&peer, &length, SOCK_NONBLOCK | SOCK_CLOEXEC));
    FACT("nonblocking, close-on-exec", "%d %d", !!(fcntl(fd, F_GETFL) & O_NONBLOCK), fcntl(fd, F_GETFD));
    CHECK("peer", ntohs(peer.sin_port) == port_of(client) && length == sizeof peer);
    TRY("accept4, bad flag", accept4(server, NULL, NULL, 1));
    set_nonblocking(server);
    client = connected(port_of(server));
    poll_events(server, POLLIN, 1000);
    length = 4;
    fd = (int)TRY("accept, short buffer", accept(server, (struct sockaddr *)&peer, &length));
    FACT("length told, not inherited nonblocking", "%u %d", length, !!(fcntl(fd, F_GETFL) & O_NONBLOCK));
    struct tcp_info info;
    length = sizeof info;
    TRY("TCP_INFO", getsockopt(client, IPPROTO_TCP, TCP_INFO, &info, &length));
    FACT("established", "%d", info.tcpi_state == TCP_ESTABLISHED);

    // Clients in the backlog are connected before they are accepted, and what they sent waits.
    int waiting[5];
    for (int i = 0; i < 5; i++) {
        waiting[i] = connected(port_of(server));
        MUST(write(waiting[i], &(char){ (char)('0' + i) }, 1));
    }
    char text[6] = "";
    for (int i = 0; i < 5; i++) {
        poll_events(server, POLLIN, 1000);
        int accepted = (int)MUST(accept(server, NULL, NULL));
        MUST(recv(accepted, text + i, 1, 0));
    }
    FACT("backlog, in order", "%s", text);
    return done();
}
