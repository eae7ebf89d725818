//: group = "C"
//: summary = "TCP over loopback: bind, listen, accept, connect, echo, names, half-close, end of file, big transfers, several clients"
//: link = ["static", "dynamic"]
#include "net.h"

static void serve_echo(int fd) {
    char buffer[5000];
    ssize_t got;
    while ((got = read(fd, buffer, sizeof buffer)) > 0)
        for (ssize_t at = 0; at < got;) at += MUST(write(fd, buffer + at, (size_t)(got - at)));
    close(fd);
}

int main(void) {
    int server = (int)TRY("socket", socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    FACT("close-on-exec", "%d", fcntl(server, F_GETFD));
    struct sockaddr_in address = loopback(0), peer;
    TRY("bind", bind(server, (struct sockaddr *)&address, sizeof address));
    CHECK("a free port", port_of(server) > 1023);
    TRY("bind again", bind(server, (struct sockaddr *)&address, sizeof address));
    FACT("SO_ACCEPTCONN", "%d", option(server, SOL_SOCKET, SO_ACCEPTCONN));
    TRY("listen", listen(server, 10));
    FACT("SO_ACCEPTCONN", "%d", option(server, SOL_SOCKET, SO_ACCEPTCONN));
    int port = port_of(server);
    pid_t pid = (pid_t)MUST(fork());
    if (pid == 0) {
        for (int i = 0; i < 3; i++) serve_echo((int)MUST(accept(server, NULL, NULL)));
        _exit(0);
    }
    int fd = connected(port);
    char buffer[200000] = "";
    FACT("write", "%zd", write(fd, "hello", 5));
    FACT("read", "%zd", recv(fd, buffer, 5, MSG_WAITALL));
    FACT("echo", "%s", buffer);
    socklen_t length = sizeof peer;
    MUST(getpeername(fd, (struct sockaddr *)&peer, &length));
    FACT("peer", "%s %d %u", inet_ntoa(peer.sin_addr), ntohs(peer.sin_port) == port, length);
    MUST(getsockname(fd, (struct sockaddr *)&peer, &length));
    FACT("own", "%s %d", inet_ntoa(peer.sin_addr), ntohs(peer.sin_port) != port);
    TRY("connect again", connect(fd, (struct sockaddr *)&address, sizeof address));
    // Both directions at once, more than the buffers hold.
    pid_t writer = (pid_t)MUST(fork());
    if (writer == 0) {
        for (int i = 0; i < 40; i++) {
            memset(buffer, 'a' + i % 26, sizeof buffer);
            for (size_t at = 0; at < sizeof buffer;) at += (size_t)MUST(write(fd, buffer + at, sizeof buffer - at));
        }
        MUST(shutdown(fd, SHUT_WR));
        _exit(0);
    }
    size_t total = 0, wrong = 0;
    ssize_t got;
    while ((got = read(fd, buffer, sizeof buffer)) > 0)
        for (ssize_t i = 0; i < got; i++) wrong += buffer[i] != (char)('a' + total++ / sizeof buffer % 26);
    FACT("through the echo", "%zu, wrong %zu", total, wrong);
    reap("writer", writer);
    FACT("end of file stays", "%zd", read(fd, buffer, 1));
    MUST(close(fd));

    fd = connected(port);
    TRY("shutdown", shutdown(fd, SHUT_WR));
    TRY("write after it", send(fd, "x", 1, MSG_NOSIGNAL));
    FACT("read", "%zd", read(fd, buffer, 1));
    CHILD("SIGPIPE") write(fd, "x", 1);
    MUST(close(fd));
    fd = connected(port);
    MUST(write(fd, "0123456789", 10));
    FACT("MSG_PEEK", "%zd", recv(fd, buffer, 4, MSG_PEEK | MSG_WAITALL));
    int available = 0;
    while (available < 10) MUST(ioctl(fd, FIONREAD, &available));
    FACT("FIONREAD", "%d", available);
    FACT("recv", "%zd", recv(fd, buffer, 100, 0));
    TRY("MSG_DONTWAIT, nothing there", recv(fd, buffer, 1, MSG_DONTWAIT));
    set_nonblocking(fd);
    TRY("O_NONBLOCK, nothing there", read(fd, buffer, 1));
    MUST(close(fd));
    reap("server", pid);
    TRY("accept, nonblocking", (set_nonblocking(server), accept(server, NULL, NULL)));

    int pair[2];
    tcp_pair(pair);
    struct iovec parts[] = { { "one ", 4 }, { "two ", 4 }, { "three", 5 } };
    struct msghdr message = { .msg_iov = parts, .msg_iovlen = 3 };
    FACT("sendmsg", "%zd", sendmsg(pair[0], &message, 0));
    memset(buffer, 0, 20);
    struct iovec in[] = { { buffer, 6 }, { buffer + 100, 100 } };
    message = (struct msghdr){ .msg_iov = in, .msg_iovlen = 2, .msg_name = &peer, .msg_namelen = sizeof peer };
    FACT("recvmsg", "%zd", recvmsg(pair[1], &message, 0));
    FACT("parts", "[%.6s] [%.7s] name %u flags %d", buffer, buffer + 100, message.msg_namelen, message.msg_flags);
    MUST(write(pair[0], "last words", 10));
    MUST(close(pair[0]));
    FACT("data, then end of file", "%zd", read(pair[1], buffer, 100));
    FACT("end of file", "%zd", read(pair[1], buffer, 100));
    MUST(close(pair[1]));

    // Closing with unread data resets the connection.
    tcp_pair(pair);
    MUST(write(pair[0], "never read", 10));
    poll_events(pair[1], POLLIN, 1000);
    MUST(close(pair[1]));
    poll_events(pair[0], POLLIN, 1000);
    TRY("read of a reset connection", read(pair[0], buffer, 10));
    FACT("then end of file", "%zd", read(pair[0], buffer, 10));
    TRY("write", send(pair[0], "x", 1, MSG_NOSIGNAL));
    tcp_pair(pair);
    MUST(setsockopt(pair[1], SOL_SOCKET, SO_LINGER, &(struct linger){ 1, 0 }, sizeof(struct linger)));
    MUST(close(pair[1]));
    FACT("SO_LINGER 0", "%s", poll_events(pair[0], POLLIN | POLLOUT | POLLRDHUP, 1000));
    FACT("SO_ERROR", "%s", so_error(pair[0]));
    FACT("cleared", "%s", so_error(pair[0]));
    return done();
}
