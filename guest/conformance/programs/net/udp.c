//: group = "C"
//: summary = "UDP over loopback: datagrams keep their bounds, connected sockets, truncation, ECONNREFUSED, sendmmsg"
//: link = ["static"]
#include "net.h"

static int bound(void) {
    int fd = (int)MUST(socket(AF_INET, SOCK_DGRAM, 0));
    struct sockaddr_in address = loopback(0);
    MUST(bind(fd, (struct sockaddr *)&address, sizeof address));
    return fd;
}

int main(void) {
    int a = bound(), b = bound();
    char buffer[70000] = "";
    struct sockaddr_in to = loopback(port_of(b)), from;
    socklen_t length = sizeof from;
    FACT("sendto", "%zd", sendto(a, "one", 3, 0, (struct sockaddr *)&to, sizeof to));
    FACT("sendto", "%zd", sendto(a, "second", 6, 0, (struct sockaddr *)&to, sizeof to));
    FACT("sendto, empty", "%zd", sendto(a, "", 0, 0, (struct sockaddr *)&to, sizeof to));
    FACT("recvfrom", "%zd", recvfrom(b, buffer, sizeof buffer, 0, (struct sockaddr *)&from, &length));
    FACT("from", "%d %s", ntohs(from.sin_port) == port_of(a), inet_ntoa(from.sin_addr));
    FACT("peek", "%zd", recv(b, buffer, 2, MSG_PEEK));
    FACT("truncated", "%zd", recv(b, buffer, 2, MSG_TRUNC));
    FACT("empty", "%zd", recv(b, buffer, sizeof buffer, 0));
    TRY("nothing left", recv(b, buffer, 1, MSG_DONTWAIT));
    TRY("write, not connected", write(a, "x", 1));
    TRY("too big", sendto(a, buffer, 66000, 0, (struct sockaddr *)&to, sizeof to));
    memset(buffer, 'z', sizeof buffer);
    FACT("biggest", "%zd", sendto(a, buffer, 65507, 0, (struct sockaddr *)&to, sizeof to));
    FACT("received", "%zd", recv(b, buffer, sizeof buffer, 0));
    struct iovec part = { buffer, 4 };
    struct msghdr message = { .msg_iov = &part, .msg_iovlen = 1 };
    MUST(sendto(a, "longer than four", 16, 0, (struct sockaddr *)&to, sizeof to));
    FACT("recvmsg", "%zd", recvmsg(b, &message, 0));
    FACT("MSG_TRUNC", "%d", !!(message.msg_flags & MSG_TRUNC));

    TRY("connect", connect(a, (struct sockaddr *)&to, sizeof to));
    FACT("send", "%zd", send(a, "connected", 9, 0));
    FACT("received", "%zd", recv(b, buffer, sizeof buffer, 0));
    // A connected socket takes from its peer alone.
    int c = bound();
    struct sockaddr_in back = loopback(port_of(a));
    MUST(sendto(c, "stranger", 8, 0, (struct sockaddr *)&back, sizeof back));
    MUST(sendto(b, "friend", 6, 0, (struct sockaddr *)&back, sizeof back));
    FACT("from the peer", "%zd %.6s", recv(a, buffer, sizeof buffer, 0), buffer);
    TRY("stranger's is gone", recv(a, buffer, 1, MSG_DONTWAIT));
    struct sockaddr_in peer;
    length = sizeof peer;
    TRY("getpeername", getpeername(a, (struct sockaddr *)&peer, &length));
    TRY("disconnect", connect(a, &(struct sockaddr){ .sa_family = AF_UNSPEC }, sizeof(struct sockaddr)));
    TRY("getpeername", getpeername(a, (struct sockaddr *)&peer, &length));

    int closed = bound();
    to = loopback(port_of(closed));
    MUST(close(closed));
    a = bound();
    MUST(connect(a, (struct sockaddr *)&to, sizeof to));
    TRY("send to nobody", send(a, "x", 1, 0));
    poll_events(a, POLLIN, 500);
    TRY("told afterwards", recv(a, buffer, 1, MSG_DONTWAIT));
    TRY("once", recv(a, buffer, 1, MSG_DONTWAIT));
    TRY("listen", listen(a, 1));
    TRY("accept", accept(a, NULL, NULL));

    struct sockaddr_in target = loopback(port_of(b));
    struct iovec parts[2] = { { "first", 5 }, { "other", 5 } };
    struct mmsghdr many[2] = { { .msg_hdr = { &target, sizeof target, &parts[0], 1, NULL, 0, 0 } }, { .msg_hdr = { &target, sizeof target, &parts[1], 1, NULL, 0, 0 } } };
    FACT("sendmmsg", "%d", sendmmsg(c, many, 2, 0));
    char one[10] = "", two[10] = "";
    parts[0] = (struct iovec){ one, 9 }, parts[1] = (struct iovec){ two, 9 };
    memset(many, 0, sizeof many);
    for (int i = 0; i < 2; i++) many[i].msg_hdr.msg_iov = &parts[i], many[i].msg_hdr.msg_iovlen = 1;
    FACT("recvmmsg", "%d", recvmmsg(b, many, 2, 0, NULL));
    FACT("them", "%s %u %s %u", one, many[0].msg_len, two, many[1].msg_len);
    FACT("poll, idle", "%s", poll_events(b, POLLIN | POLLOUT, 0));
    int available = 0;
    MUST(sendto(c, "12345", 5, 0, (struct sockaddr *)&target, sizeof target));
    poll_events(b, POLLIN, 500);
    MUST(ioctl(b, FIONREAD, &available));
    FACT("FIONREAD: the next datagram", "%d", available);
    return done();
}
