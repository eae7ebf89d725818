//: group = "C"
//: summary = "AF_UNIX datagrams and sequenced packets: borders, cut messages, full receivers, connections, ends, readiness"
//: link = ["static", "dynamic"]
#include "net.h"

static char buffer[300000];
static struct sockaddr_un address;

static socklen_t abstract(const char *name) {
    memset(&address, 0, sizeof address);
    address.sun_family = AF_UNIX;
    memcpy(address.sun_path + 1, name, strlen(name));
    return (socklen_t)(offsetof(struct sockaddr_un, sun_path) + strlen(name) + 1);
}

static int bound(int type, const char *name) {
    int fd = (int)MUST(socket(AF_UNIX, type, 0));
    MUST(bind(fd, (struct sockaddr *)&address, abstract(name)));
    return fd;
}

static void got(const char *name, ssize_t count) {
    if (count == -1) FACT(name, "%s", errno_name(errno));
    else FACT(name, "%zd %.*s", count, (int)(count < 40 ? count : 40), buffer);
}

static void cut(int fd, int flags, size_t room, const char *name) {
    struct iovec part = { buffer, room };
    struct msghdr message = { .msg_iov = &part, .msg_iovlen = 1 };
    ssize_t count = recvmsg(fd, &message, flags);
    if (count == -1) FACT(name, "%s", errno_name(errno));
    else FACT(name, "%zd%s%s", count, message.msg_flags & MSG_TRUNC ? " TRUNC" : "", message.msg_flags & MSG_EOR ? " EOR" : "");
}

static void events(const char *name, int fd) { FACT(name, "%s", poll_events(fd, POLLIN | POLLOUT | POLLRDHUP, 0)); }

static void both(int type, const char *kind) {
    FACT("type", "%s", kind);
    int pair[2];
    MUST(socketpair(AF_UNIX, type, 0, pair));
    MUST(write(pair[0], "first", 5)), MUST(write(pair[0], "", 0)), MUST(write(pair[0], "third", 5));
    int count = -1;
    MUST(ioctl(pair[1], FIONREAD, &count));
    FACT("FIONREAD", "%d", count);
    got("message", recv(pair[1], buffer, 100, 0));
    got("empty message", recv(pair[1], buffer, 100, 0));
    got("peek", recv(pair[1], buffer, 3, MSG_PEEK));
    got("peek, full length", recv(pair[1], buffer, 3, MSG_PEEK | MSG_TRUNC));
    cut(pair[1], 0, 3, "cut");
    cut(pair[1], MSG_DONTWAIT, 3, "its rest is gone");
    MUST(write(pair[0], "whole", 5));
    cut(pair[1], MSG_TRUNC, 2, "cut, full length");
    MUST(write(pair[0], "whole", 5));
    cut(pair[1], MSG_WAITALL, 100, "MSG_WAITALL does not wait");
    MUST(write(pair[0], "bad", 3));
    TRY("bad buffer", recv(pair[1], OPAQUE((char *)8), 3, 0));
    got("the message is gone", recv(pair[1], buffer, 100, MSG_DONTWAIT));
    TRY("too long", send(pair[0], buffer, 250000, 0));
    MUST(setsockopt(pair[0], SOL_SOCKET, SO_SNDBUF, &(int){ 5000 }, sizeof(int)));
    TRY("too long", send(pair[0], buffer, 10000 - 31, 0));
    FACT("fits", "%zd", send(pair[0], buffer, 10000 - 32, 0));
    events("one large message", pair[0]);
    MUST(read(pair[1], buffer, 1));
    set_nonblocking(pair[0]);
    int fit = 0;
    while (write(pair[0], "1", 1) == 1) fit++;
    FACT("until the buffer is full", "%d, then %s", fit, errno_name(errno));
    events("full", pair[0]);
    while (recv(pair[1], buffer, 100, MSG_DONTWAIT) == 1) {}
    events("empty", pair[0]);
    MUST(shutdown(pair[0], SHUT_WR));
    TRY("send after SHUT_WR", send(pair[0], "x", 1, 0));
    events("SHUT_WR", pair[0]), events("SHUT_WR, peer", pair[1]);
    if (type == SOCK_SEQPACKET) got("end", recv(pair[1], buffer, 100, 0));
    MUST(shutdown(pair[1], SHUT_RD));
    got("SHUT_RD, no wait", recv(pair[1], buffer, 100, MSG_DONTWAIT));
    got("SHUT_RD", recv(pair[1], buffer, 100, 0));
    MUST(close(pair[0])), MUST(close(pair[1]));
    MUST(socketpair(AF_UNIX, type, 0, pair));
    MUST(write(pair[1], "unread", 6));
    MUST(close(pair[0]));
    events("peer closed with data", pair[1]);
    got("recv", recv(pair[1], buffer, 100, MSG_DONTWAIT));
    got("recv", recv(pair[1], buffer, 100, MSG_DONTWAIT));
    TRY("send", send(pair[1], "x", 1, 0));
    TRY("send", send(pair[1], "x", 1, 0));
    events("then", pair[1]);
    MUST(close(pair[1]));
}

int main(void) {
    signal(SIGPIPE, SIG_DFL);
    both(SOCK_DGRAM, "datagrams"), both(SOCK_SEQPACKET, "packets");

    // A receiver that does not read.
    int server = bound(SOCK_DGRAM, "server"), client = bound(SOCK_DGRAM, "client");
    socklen_t length = abstract("server");
    int fit = 0;
    while (sendto(client, "m", 1, MSG_DONTWAIT, (struct sockaddr *)&address, length) == 1) fit++;
    FACT("queue", "%d, then %s", fit, errno_name(errno));
    events("sender, not connected", client);
    TRY("connect to it", connect(client, (struct sockaddr *)&address, length));
    events("sender, connected", client);
    struct sockaddr_un from;
    length = sizeof from;
    got("recvfrom", recvfrom(server, buffer, 100, 0, (struct sockaddr *)&from, &length));
    FACT("from", "%s %u", from.sun_path + 1, length);
    events("sender, room for one", client);
    MUST(send(client, "m", 1, 0));
    pid_t pid = (pid_t)MUST(fork());
    if (pid == 0) {
        sleep_ms(20);
        read(server, buffer, 1);
        _exit(0);
    }
    FACT("a full queue makes send wait", "%zd", send(client, "m", 1, 0));
    reap("reader", pid);
    pid = (pid_t)MUST(fork());
    if (pid == 0) {
        sleep_ms(20);
        read(server, buffer, 1);
        _exit(0);
    }
    FACT("and poll", "%s", poll_events(client, POLLOUT, 5000));
    reap("reader", pid);

    // Connections of datagram sockets.
    int other = bound(SOCK_DGRAM, "other");
    length = abstract("client");
    TRY("connect back", connect(server, (struct sockaddr *)&address, length));
    TRY("to one that is connected to another", sendto(other, "x", 1, MSG_DONTWAIT, (struct sockaddr *)&address, abstract("server")));
    TRY("connect to it", connect(other, (struct sockaddr *)&address, abstract("server")));
    TRY("sendto another than the peer", sendto(client, "x", 1, 0, (struct sockaddr *)&address, abstract("other")));
    got("it arrived", recv(other, buffer, 10, 0));
    length = sizeof from;
    MUST(getpeername(client, (struct sockaddr *)&from, &length));
    FACT("peer", "%s %u", from.sun_path + 1, length);
    while (recv(server, buffer, 10, MSG_DONTWAIT) == 1) {}
    MUST(send(client, "last", 4, 0));
    from = (struct sockaddr_un){ .sun_family = AF_UNSPEC };
    TRY("server turns away", connect(server, (struct sockaddr *)&from, sizeof from));
    got("what was there", recv(server, buffer, 10, MSG_DONTWAIT));
    FACT("client learns", "%s", so_error(client));
    TRY("getpeername", getpeername(server, (struct sockaddr *)&from, &length));
    TRY("too short", connect(server, (struct sockaddr *)&from, 1));
    MUST(close(server));
    TRY("server closed", send(client, "x", 1, 0));
    TRY("and forgotten", send(client, "x", 1, 0));
    TRY("by name", sendto(client, "x", 1, 0, (struct sockaddr *)&address, abstract("server")));
    TRY("to no name", sendto(client, "x", 1, 0, (struct sockaddr *)&address, sizeof(sa_family_t)));
    TRY("no destination", send(other, "x", 1, 0));
    // To oneself.
    FACT("to itself", "%zd", sendto(other, "self", 4, 0, (struct sockaddr *)&address, abstract("other")));
    got("from itself", recv(other, buffer, 10, 0));

    // Packets are connected, and do not look at destinations.
    server = bound(SOCK_SEQPACKET, "server");
    int fd = (int)MUST(socket(AF_UNIX, SOCK_SEQPACKET, 0));
    TRY("send, not connected", send(fd, "x", 1, 0));
    TRY("recv, not connected", recv(fd, buffer, 1, 0));
    events("not connected", fd);
    MUST(listen(server, 1)), MUST(connect(fd, (struct sockaddr *)&address, abstract("server")));
    FACT("destination is ignored", "%zd", sendto(fd, "x", 1, 0, (struct sockaddr *)&address, abstract("nobody")));
    int accepted = (int)MUST(accept(server, NULL, NULL));
    got("arrived", recv(accepted, buffer, 10, 0));
    struct mmsghdr many[20];
    struct iovec part = { "packet", 6 };
    for (size_t i = 0; i < LEN(many); i++) many[i] = (struct mmsghdr){ .msg_hdr = { .msg_iov = &part, .msg_iovlen = 1 } };
    FACT("sendmmsg", "%d", sendmmsg(fd, many, 20, MSG_DONTWAIT));
    part = (struct iovec){ buffer, 4 };
    FACT("recvmmsg", "%d", recvmmsg(accepted, many, 20, MSG_DONTWAIT, NULL));
    FACT("lengths, flags", "%u %x", many[19].msg_len, many[19].msg_hdr.msg_flags);
    TRY("recvmmsg", recvmmsg(accepted, many, 20, MSG_DONTWAIT, NULL));
    return done();
}
