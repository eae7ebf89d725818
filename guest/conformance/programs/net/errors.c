//: group = "C"
//: summary = "errors of sockets: refused, in use, not connected, wrong family and size, nonblocking connect, time-outs, permissions"
//: link = ["static"]
#include "net.h"

int main(void) {
    char buffer[100];
    int server = listener(5), port = port_of(server);
    struct sockaddr_in address = loopback(port), any = { .sin_family = AF_INET }, remote;
    int fd = (int)MUST(socket(AF_INET, SOCK_STREAM, 0));
    TRY("bind, in use", bind(fd, (struct sockaddr *)&address, sizeof address));
    TRY("read, not connected", read(fd, buffer, 1));
    TRY("write, not connected", send(fd, "x", 1, MSG_NOSIGNAL));
    socklen_t length = sizeof remote;
    TRY("getpeername, not connected", getpeername(fd, (struct sockaddr *)&remote, &length));
    TRY("shutdown, not connected", shutdown(fd, SHUT_RDWR));
    TRY("accept, not listening", accept(fd, NULL, NULL));
    TRY("bind, too short", bind(fd, (struct sockaddr *)&address, 4));
    address.sin_family = AF_INET6;
    TRY("bind, wrong family", bind(fd, (struct sockaddr *)&address, sizeof address));
    address = loopback(port);
    address.sin_addr.s_addr = htonl(0x01020304);
    TRY("bind, not our address", bind(fd, (struct sockaddr *)&address, sizeof address));
    TRY("bind, bad pointer", bind(fd, OPAQUE((struct sockaddr *)8), sizeof address));
    TRY("connect, too short", connect(fd, (struct sockaddr *)&any, 4));

    // A port where nobody listens: one that was free a moment ago.
    int gone = listener(1), free_port = port_of(gone);
    MUST(close(gone));
    struct sockaddr_in nobody = loopback(free_port);
    TRY("connect, refused", connect(fd, (struct sockaddr *)&nobody, sizeof nobody));
    TRY("the socket can try again", connect(fd, (struct sockaddr *)&nobody, sizeof nobody));
    address = loopback(port);
    TRY("and succeed", connect(fd, (struct sockaddr *)&address, sizeof address));
    MUST(close(fd));

    fd = (int)MUST(socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0));
    TRY("nonblocking connect", connect(fd, (struct sockaddr *)&address, sizeof address));
    FACT("becomes writable", "%s", poll_events(fd, POLLOUT, 2000));
    FACT("SO_ERROR", "%s", so_error(fd));
    TRY("connect again", connect(fd, (struct sockaddr *)&address, sizeof address));
    MUST(close(fd));
    fd = (int)MUST(socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0));
    TRY("nonblocking connect to nobody", connect(fd, (struct sockaddr *)&nobody, sizeof nobody));
    CHECK("events", strstr(poll_events(fd, POLLOUT, 2000), "ERR") != NULL);
    FACT("SO_ERROR", "%s", so_error(fd));
    MUST(close(fd));
    int at_once = 0, attempts = 0;
    for (; attempts < 500; attempts++) {
        fd = (int)MUST(socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0));
        at_once += connect(fd, (struct sockaddr *)&address, sizeof address) == 0;
        close((int)accept(server, NULL, NULL));
        MUST(close(fd));
    }
    FACT("nonblocking connects at once", "%d of %d", at_once, attempts);

    // A reset behind data that nobody has read: the connection is gone, the data is not.
    int fresh = listener(5);
    int resetting = connected(port_of(fresh)), kept = (int)MUST(accept(fresh, NULL, NULL));
    struct linger at_close = { 1, 0 };
    MUST(setsockopt(resetting, SOL_SOCKET, SO_LINGER, &at_close, sizeof at_close));
    MUST(write(resetting, "data", 4));
    MUST(close(resetting));
    socklen_t name_len = sizeof any;
    TRY("getpeername after a reset", getpeername(kept, (struct sockaddr *)&any, &name_len));
    char data[8];
    FACT("bytes left", "%zd", read(kept, data, sizeof data));
    TRY("then", read(kept, data, sizeof data));
    MUST(close(kept));

    // Buffers of the application's size: a peer that does not read stops the sender.
    int small = 4096, sender = connected(port_of(fresh));
    MUST(setsockopt(sender, SOL_SOCKET, SO_SNDBUF, &small, sizeof small));
    kept = (int)MUST(accept(fresh, NULL, NULL));
    MUST(setsockopt(kept, SOL_SOCKET, SO_RCVBUF, &small, sizeof small));
    MUST(fcntl(sender, F_SETFL, O_NONBLOCK));
    static char block[1024];
    int64_t end = now_ns() + 200000000, taken = 0;
    while (now_ns() < end) {
        ssize_t count = write(sender, block, sizeof block);
        if (count > 0) taken += count;
        else poll_events(sender, POLLOUT, 20);
    }
    CHECK("a small buffer takes little", taken < 150000);
    MUST(close(sender)), MUST(close(kept)), MUST(close(fresh));

    // SO_REUSEADDR and a connection that lingers.
    int first = connected(port), second = (int)MUST(accept(server, NULL, NULL));
    MUST(close(second)), MUST(close(first)), MUST(close(server));
    fd = (int)MUST(socket(AF_INET, SOCK_STREAM, 0));
    MUST(setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &(int){ 1 }, sizeof(int)));
    TRY("bind with SO_REUSEADDR", bind(fd, (struct sockaddr *)&address, sizeof address));
    TRY("listen", listen(fd, 1));
    int other = (int)MUST(socket(AF_INET, SOCK_STREAM, 0));
    MUST(setsockopt(other, SOL_SOCKET, SO_REUSEADDR, &(int){ 1 }, sizeof(int)));
    TRY("beside a listener, no", bind(other, (struct sockaddr *)&address, sizeof address));
    any.sin_port = htons((uint16_t)port);
    TRY("any address beside a listener, no", bind(other, (struct sockaddr *)&any, sizeof any));
    int a = (int)MUST(socket(AF_INET, SOCK_STREAM, 0)), b = (int)MUST(socket(AF_INET, SOCK_STREAM, 0));
    MUST(setsockopt(a, SOL_SOCKET, SO_REUSEPORT, &(int){ 1 }, sizeof(int)));
    MUST(setsockopt(b, SOL_SOCKET, SO_REUSEPORT, &(int){ 1 }, sizeof(int)));
    struct sockaddr_in both = loopback(0);
    MUST(bind(a, (struct sockaddr *)&both, sizeof both));
    both = loopback(port_of(a));
    TRY("SO_REUSEPORT", bind(b, (struct sockaddr *)&both, sizeof both));
    TRY("both listen", listen(a, 1) + listen(b, 1));

    TRY("unknown family", socket(77, SOCK_STREAM, 0));
    TRY("unknown type", socket(AF_INET, 77, 0));
    TRY("protocol that does not fit", socket(AF_INET, SOCK_STREAM, IPPROTO_UDP));
    TRY("socket call on a file", bind((int)MUST(open("/dev/null", O_RDWR)), (struct sockaddr *)&any, sizeof any));
    TRY("closed descriptor", listen(99, 1));
    TRY("lseek of a socket", lseek(fd, 0, SEEK_SET));
    TRY("pread of a socket", pread(fd, buffer, 1, 0));
    TRY("unknown option", setsockopt(fd, SOL_SOCKET, 9999, &(int){ 1 }, sizeof(int)));
    TRY("option of an unknown level", setsockopt(fd, 999, 1, &(int){ 1 }, sizeof(int)));
    TRY("option too short", setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &(char){ 1 }, 1));
    TRY("unknown ioctl", ioctl(fd, 0x12345678, buffer));
    struct stat status;
    MUST(fstat(fd, &status));
    FACT("fstat", "%d", S_ISSOCK(status.st_mode));
    char own[40], link[64] = "";
    snprintf(own, sizeof own, "/proc/self/fd/%d", fd);
    MUST(readlink(own, link, sizeof link));
    CHECK("link in /proc", strncmp(link, "socket:[", 8) == 0);
    TRY("open through /proc", open(own, O_RDWR));

    int pair[2];
    tcp_pair(pair);
    MUST(setsockopt(pair[0], SOL_SOCKET, SO_RCVTIMEO, &(struct timeval){ 0, 30000 }, sizeof(struct timeval)));
    int64_t start = now_ns();
    TRY("SO_RCVTIMEO", read(pair[0], buffer, 1));
    CHECK("waited", now_ns() - start >= 30000000);
    CHILD("a low port as uid 1000") {
        MUST(setuid(1000));
        int low = (int)MUST(socket(AF_INET, SOCK_STREAM, 0));
        struct sockaddr_in eighty = loopback(80);
        TRY("bind", bind(low, (struct sockaddr *)&eighty, sizeof eighty));
    }
    CHILD("a low port as root") {
        int low = (int)MUST(socket(AF_INET, SOCK_STREAM, 0));
        struct sockaddr_in eighty = loopback(80);
        TRY("bind", bind(low, (struct sockaddr *)&eighty, sizeof eighty));
    }
    return done();
}
