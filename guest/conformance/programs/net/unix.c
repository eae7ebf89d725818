//: group = "C"
//: summary = "AF_UNIX: stream, datagram and seqpacket, paths and abstract names, socketpair, descriptors and credentials passed"
//: link = ["static", "dynamic"]
#include "net.h"

static struct sockaddr_un at(const char *path) {
    struct sockaddr_un address = { .sun_family = AF_UNIX };
    strncpy(address.sun_path, path, sizeof address.sun_path - 1);
    return address;
}

static void send_descriptor(int over, int fd) {
    union { struct cmsghdr header; char space[CMSG_SPACE(sizeof(int))]; } control = { 0 };
    struct iovec part = { "f", 1 };
    struct msghdr message = { .msg_iov = &part, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control };
    struct cmsghdr *header = CMSG_FIRSTHDR(&message);
    *header = (struct cmsghdr){ CMSG_LEN(sizeof(int)), SOL_SOCKET, SCM_RIGHTS };
    memcpy(CMSG_DATA(header), &fd, sizeof fd);
    TRY("SCM_RIGHTS sent", sendmsg(over, &message, 0));
}

static int receive_descriptor(int over) {
    union { struct cmsghdr header; char space[CMSG_SPACE(sizeof(int))]; } control;
    char byte;
    struct iovec part = { &byte, 1 };
    struct msghdr message = { .msg_iov = &part, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control };
    MUST(recvmsg(over, &message, MSG_CMSG_CLOEXEC));
    int fd = -1;
    if (CMSG_FIRSTHDR(&message)) memcpy(&fd, CMSG_DATA(CMSG_FIRSTHDR(&message)), sizeof fd);
    return fd;
}

int main(void) {
    enter_scratch();
    char buffer[200000] = "";
    int pair[2];
    TRY("socketpair", socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair));
    MUST(write(pair[0], "there", 5)), MUST(write(pair[1], "and back", 8));
    FACT("one way", "%zd %.5s", read(pair[1], buffer, 100), buffer);
    FACT("other way", "%zd %.8s", read(pair[0], buffer, 100), buffer);
    MUST(shutdown(pair[0], SHUT_WR));
    FACT("half closed", "%zd", read(pair[1], buffer, 1));
    MUST(write(pair[1], "still", 5));
    FACT("the other half", "%zd", read(pair[0], buffer, 10));
    MUST(close(pair[1]));
    FACT("peer gone", "%zd", read(pair[0], buffer, 1));
    FACT("events", "%s", poll_events(pair[0], POLLIN | POLLOUT | POLLRDHUP, 0));
    TRY("write", send(pair[0], "x", 1, MSG_NOSIGNAL));
    MUST(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, pair));
    size_t filled = 0;
    ssize_t wrote;
    while ((wrote = write(pair[0], buffer, sizeof buffer)) > 0) filled += (size_t)wrote;
    FACT("full", "%s", errno_name(errno));
    size_t drained = 0;
    while ((wrote = read(pair[1], buffer, sizeof buffer)) > 0) drained += (size_t)wrote;
    CHECK("all of it arrived", filled == drained && filled > 60000);

    int server = (int)MUST(socket(AF_UNIX, SOCK_STREAM, 0)), client = (int)MUST(socket(AF_UNIX, SOCK_STREAM, 0));
    struct sockaddr_un address = at("socket");
    TRY("connect, no such path", connect(client, (struct sockaddr *)&address, sizeof address));
    TRY("bind", bind(server, (struct sockaddr *)&address, sizeof address));
    struct stat status;
    MUST(stat("socket", &status));
    FACT("file", "%d %o", S_ISSOCK(status.st_mode), status.st_mode & 07777);
    TRY("bind, path exists", bind(client, (struct sockaddr *)&address, sizeof address));
    TRY("connect, not listening", connect(client, (struct sockaddr *)&address, sizeof address));
    MUST(listen(server, 2));
    TRY("connect", connect(client, (struct sockaddr *)&address, sizeof address));
    int fd = (int)MUST(accept(server, NULL, NULL));
    struct sockaddr_un name;
    socklen_t length = sizeof name;
    MUST(getsockname(fd, (struct sockaddr *)&name, &length));
    FACT("its name", "%s %u", name.sun_path, length);
    length = sizeof name;
    MUST(getpeername(fd, (struct sockaddr *)&name, &length));
    FACT("peer has none", "%u", length);
    struct ucred credentials;
    length = sizeof credentials;
    MUST(getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &credentials, &length));
    FACT("SO_PEERCRED", "%d %u %u", credentials.pid == getpid(), credentials.uid, credentials.gid);
    TRY("open the path", open("socket", O_RDWR));
    TRY("connect to a file", (write_file("plain", ""), address = at("plain"), connect((int)MUST(socket(AF_UNIX, SOCK_STREAM, 0)), (struct sockaddr *)&address, sizeof address)));

    write_file("passed", "content of the file");
    int file = (int)MUST(open("passed", O_RDONLY));
    MUST(lseek(file, 8, SEEK_SET));
    pid_t pid = (pid_t)MUST(fork());
    if (pid == 0) {
        int got = receive_descriptor(client);
        ssize_t length_of = read(got, buffer, 100);
        FACT("through the passed descriptor", "%.*s, close-on-exec %d", (int)length_of, buffer, fcntl(got, F_GETFD));
        _exit(0);
    }
    send_descriptor(fd, file);
    reap("receiver", pid);
    FACT("the offset is shared", "%ld", (long)lseek(file, 0, SEEK_CUR));
    MUST(close(server)), MUST(unlink("socket"));

    address = at("");
    memcpy(address.sun_path, "\0abstract", 9);
    socklen_t size = offsetof(struct sockaddr_un, sun_path) + 9;
    server = (int)MUST(socket(AF_UNIX, SOCK_SEQPACKET, 0));
    TRY("abstract name", bind(server, (struct sockaddr *)&address, size));
    MUST(listen(server, 1));
    client = (int)MUST(socket(AF_UNIX, SOCK_SEQPACKET, 0));
    TRY("connect, seqpacket", connect(client, (struct sockaddr *)&address, size));
    fd = (int)MUST(accept(server, NULL, NULL));
    MUST(write(client, "one", 3)), MUST(write(client, "three", 5));
    FACT("records", "%zd", read(fd, buffer, 100));
    FACT("records", "%zd", read(fd, buffer, 2));
    MUST(close(client));
    FACT("end of file, the rest of the record is gone", "%zd", read(fd, buffer, 100));
    TRY("stream to a seqpacket", connect((int)MUST(socket(AF_UNIX, SOCK_STREAM, 0)), (struct sockaddr *)&address, size));

    int a = (int)MUST(socket(AF_UNIX, SOCK_DGRAM, 0)), b = (int)MUST(socket(AF_UNIX, SOCK_DGRAM, 0));
    struct sockaddr_un to = at("dgram");
    MUST(bind(b, (struct sockaddr *)&to, sizeof to));
    FACT("datagram", "%zd", sendto(a, "message", 7, 0, (struct sockaddr *)&to, sizeof to));
    length = sizeof name;
    FACT("received", "%zd", recvfrom(b, buffer, 100, 0, (struct sockaddr *)&name, &length));
    FACT("sender has no name", "%u", length);
    struct sockaddr_un from = at("sender");
    MUST(bind(a, (struct sockaddr *)&from, sizeof from));
    MUST(sendto(a, "again", 5, 0, (struct sockaddr *)&to, sizeof to));
    length = sizeof name;
    MUST(recvfrom(b, buffer, 100, 0, (struct sockaddr *)&name, &length));
    FACT("sender", "%s", name.sun_path);
    MUST(close(b));
    TRY("receiver closed", sendto(a, "x", 1, 0, (struct sockaddr *)&to, sizeof to));
    TRY("autobind", bind((int)MUST(socket(AF_UNIX, SOCK_STREAM, 0)), (struct sockaddr *)&(struct sockaddr_un){ .sun_family = AF_UNIX }, sizeof(sa_family_t)));
    memset(address.sun_path, 'x', sizeof address.sun_path);
    TRY("path of 108 bytes", bind((int)MUST(socket(AF_UNIX, SOCK_STREAM, 0)), (struct sockaddr *)&address, sizeof address));
    TRY("path too long", bind((int)MUST(socket(AF_UNIX, SOCK_STREAM, 0)), (struct sockaddr *)&address, sizeof address + 1));
    return done();
}
