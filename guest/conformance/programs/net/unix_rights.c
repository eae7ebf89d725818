//: group = "C"
//: summary = "descriptors and credentials passed over AF_UNIX: many, cut, peeked, lost, in circles, too many; what is refused"
//: link = ["static", "dynamic"]
#include "net.h"
#include <sys/resource.h>

static char control_space[4096];

// Sends `count` descriptors with the bytes of `text`.
static ssize_t pass(int over, const char *text, const int *fds, size_t count, int flags) {
    memset(control_space, 0, sizeof control_space);
    struct iovec part = { (char *)text, strlen(text) };
    struct msghdr message = { .msg_iov = &part, .msg_iovlen = 1, .msg_control = control_space, .msg_controllen = CMSG_SPACE(count * sizeof(int)) };
    struct cmsghdr *header = CMSG_FIRSTHDR(&message);
    *header = (struct cmsghdr){ CMSG_LEN(count * sizeof(int)), SOL_SOCKET, SCM_RIGHTS };
    memcpy(CMSG_DATA(header), fds, count * sizeof(int));
    return sendmsg(over, &message, flags);
}

static int received[300];
static int received_flags;

// Receives up to `room` bytes of control messages; returns how many descriptors came.
static size_t take(int over, char *buffer, size_t length, size_t room, int flags, const char *name) {
    struct iovec part = { buffer, length };
    struct msghdr message = { .msg_iov = &part, .msg_iovlen = 1, .msg_control = control_space, .msg_controllen = room };
    ssize_t got = recvmsg(over, &message, flags);
    size_t count = 0;
    if (got == -1) {
        FACT(name, "%s", errno_name(errno));
        return 0;
    }
    char text[200] = "";
    for (struct cmsghdr *header = CMSG_FIRSTHDR(&message); header; header = CMSG_NXTHDR(&message, header)) {
        if (header->cmsg_type == SCM_RIGHTS) {
            count = (header->cmsg_len - CMSG_LEN(0)) / sizeof(int);
            memcpy(received, CMSG_DATA(header), count * sizeof(int));
            sprintf(text + strlen(text), " rights %zu", count);
        } else if (header->cmsg_type == SCM_CREDENTIALS) {
            struct ucred from;
            memcpy(&from, CMSG_DATA(header), sizeof from);
            sprintf(text + strlen(text), " from %s %d %d", from.pid == getpid() ? "me" : from.pid == 0 ? "nobody" : "other", (int)from.uid, (int)from.gid);
        } else sprintf(text + strlen(text), " ? %d", header->cmsg_type);
    }
    received_flags = message.msg_flags;
    FACT(name, "%zd%s%s%s, control %zu", got, text, message.msg_flags & MSG_CTRUNC ? " CTRUNC" : "", message.msg_flags & MSG_CMSG_CLOEXEC ? " CLOEXEC" : "",
         (size_t)message.msg_controllen);
    return count;
}

static void drop(size_t count) {
    for (size_t i = 0; i < count; i++) MUST(close(received[i]));
}

static int open_descriptors(void) {
    int count = 0;
    for (int fd = 0; fd < 1024; fd++) count += fcntl(fd, F_GETFD) != -1;
    return count;
}

int main(void) {
    enter_scratch();
    char buffer[1000];
    int pair[2], p[2], fds[300];
    MUST(socketpair(AF_UNIX, SOCK_STREAM, 0, pair));
    MUST(pipe(p));
    // Borders: bytes before and behind descriptors do not stick to them.
    MUST(write(pair[0], "before", 6));
    FACT("passed", "%zd", pass(pair[0], "with", p, 2, 0));
    MUST(write(pair[0], "behind", 6));
    drop(take(pair[1], buffer, sizeof buffer, sizeof control_space, 0, "bytes before go with it"));
    drop(take(pair[1], buffer, sizeof buffer, sizeof control_space, 0, "bytes behind do not"));
    FACT("passed", "%zd", pass(pair[0], "half", p, 1, 0));
    drop(take(pair[1], buffer, 2, sizeof control_space, 0, "half of it, all descriptors"));
    drop(take(pair[1], buffer, sizeof buffer, sizeof control_space, 0, "the other half, none"));
    // The pipe works through a descriptor that was passed, also when the first one is closed.
    MUST(pass(pair[0], "w", p + 1, 1, 0));
    MUST(close(p[1]));
    FACT("reader sees a writer", "%s", poll_events(p[0], POLLIN, 0));
    take(pair[1], buffer, 1, sizeof control_space, MSG_CMSG_CLOEXEC, "write end");
    FACT("close-on-exec", "%d", fcntl(received[0], F_GETFD));
    MUST(write(received[0], "through", 7));
    FACT("read", "%zd %.7s", read(p[0], buffer, 100), buffer);
    drop(1);
    FACT("reader sees the end", "%s", poll_events(p[0], POLLIN, 0));
    // Peeking copies.
    MUST(pass(pair[0], "peek", p, 1, 0));
    drop(take(pair[1], buffer, sizeof buffer, sizeof control_space, MSG_PEEK, "peek"));
    drop(take(pair[1], buffer, sizeof buffer, sizeof control_space, 0, "take"));
    // No room for them: they are closed.
    for (int i = 0; i < 4; i++) fds[i] = p[0];
    int before = open_descriptors();
    MUST(pass(pair[0], "cut", fds, 4, 0));
    drop(take(pair[1], buffer, sizeof buffer, CMSG_SPACE(2 * sizeof(int)), 0, "room for two"));
    MUST(pass(pair[0], "cut", fds, 4, 0));
    drop(take(pair[1], buffer, sizeof buffer, CMSG_LEN(3 * sizeof(int)), 0, "room for three"));
    MUST(pass(pair[0], "cut", fds, 4, 0));
    drop(take(pair[1], buffer, sizeof buffer, CMSG_LEN(0), 0, "room for none"));
    MUST(pass(pair[0], "cut", fds, 4, 0));
    FACT("plain read", "%zd", read(pair[1], buffer, 100));
    struct rlimit limit = { (rlim_t)open_descriptors() + 2, 1024 };
    MUST(setrlimit(RLIMIT_NOFILE, &limit));
    MUST(pass(pair[0], "cut", fds, 4, 0));
    drop(take(pair[1], buffer, sizeof buffer, sizeof control_space, 0, "two free descriptors"));
    limit.rlim_cur = 1024;
    MUST(setrlimit(RLIMIT_NOFILE, &limit));
    CHECK("none is left over", open_descriptors() == before);
    // Limits and errors.
    for (int i = 0; i < 300; i++) fds[i] = p[0];
    TRY("253 descriptors", pass(pair[0], "x", fds, 253, 0));
    drop(take(pair[1], buffer, sizeof buffer, sizeof control_space, 0, "253"));
    TRY("254 descriptors", pass(pair[0], "x", fds, 254, 0));
    fds[3] = 999;
    TRY("a closed one among them", pass(pair[0], "x", fds, 5, 0));
    FACT("nothing was sent", "%s", poll_events(pair[1], POLLIN, 0));
    FACT("none", "%zd", pass(pair[0], "x", fds, 0, 0));
    take(pair[1], buffer, sizeof buffer, sizeof control_space, 0, "none");
    struct iovec part = { "x", 1 };
    struct msghdr message = { .msg_iov = &part, .msg_iovlen = 1, .msg_control = control_space, .msg_controllen = CMSG_SPACE(4) };
    struct cmsghdr *header = CMSG_FIRSTHDR(&message);
    *header = (struct cmsghdr){ 4, SOL_SOCKET, SCM_RIGHTS };
    TRY("message shorter than its header", sendmsg(pair[0], &message, 0));
    header->cmsg_len = 4000;
    TRY("message longer than the buffer", sendmsg(pair[0], &message, 0));
    *header = (struct cmsghdr){ CMSG_LEN(4), SOL_SOCKET, 77 };
    TRY("unknown type", sendmsg(pair[0], &message, 0));
    header->cmsg_level = 41;
    FACT("another level is ignored", "%zd", sendmsg(pair[0], &message, 0));
    message.msg_control = OPAQUE((void *)8);
    TRY("bad pointer", sendmsg(pair[0], &message, 0));
    message.msg_control = NULL, message.msg_iovlen = 2000;
    TRY("too many pieces", sendmsg(pair[0], &message, 0));
    FACT("left", "%zd", read(pair[1], buffer, 100));
    int opath = (int)MUST(open(".", O_PATH));
    FACT("O_PATH", "%zd", pass(pair[0], "x", &opath, 1, 0));
    take(pair[1], buffer, 1, sizeof control_space, 0, "O_PATH");
    FACT("still O_PATH", "%d", !!(fcntl(received[0], F_GETFL) & O_PATH));
    drop(1);

    // Credentials.
    MUST(setsockopt(pair[1], SOL_SOCKET, SO_PASSCRED, &(int){ 1 }, sizeof(int)));
    MUST(write(pair[0], "mine", 4));
    take(pair[1], buffer, 100, sizeof control_space, 0, "SO_PASSCRED");
    MUST(pass(pair[0], "both", p, 1, 0));
    drop(take(pair[1], buffer, 100, sizeof control_space, 0, "both"));
    struct ucred own = { getpid(), getuid(), getgid() };
    char space[CMSG_SPACE(sizeof own)] = "";
    message = (struct msghdr){ .msg_iov = &part, .msg_iovlen = 1, .msg_control = space, .msg_controllen = sizeof space };
    header = CMSG_FIRSTHDR(&message);
    *header = (struct cmsghdr){ CMSG_LEN(sizeof own), SOL_SOCKET, SCM_CREDENTIALS };
    own.uid = 1234;
    memcpy(CMSG_DATA(header), &own, sizeof own);
    FACT("root may lie about the user", "%zd", sendmsg(pair[0], &message, 0));
    MUST(write(pair[0], "another", 7));
    take(pair[1], buffer, 100, sizeof control_space, 0, "senders do not mix");
    take(pair[1], buffer, 100, sizeof control_space, 0, "senders do not mix");
    own.pid = 99999;
    memcpy(CMSG_DATA(header), &own, sizeof own);
    TRY("not about a process that is not there", sendmsg(pair[0], &message, 0));
    CHILD("as a user") {
        MUST(setgid(1000)), MUST(setuid(1000));
        own = (struct ucred){ getpid(), 0, 1000 };
        memcpy(CMSG_DATA(header), &own, sizeof own);
        TRY("a user may not", sendmsg(pair[0], &message, 0));
        own.uid = 1000;
        memcpy(CMSG_DATA(header), &own, sizeof own);
        FACT("the truth", "%zd", sendmsg(pair[0], &message, 0));
    }
    take(pair[1], buffer, 100, sizeof control_space, 0, "from the user");

    // Circles: nothing may be left of them, however many there are.
    for (int i = 0; i < 3000; i++) {
        int a[2], b[2];
        MUST(socketpair(AF_UNIX, SOCK_STREAM, 0, a)), MUST(socketpair(AF_UNIX, SOCK_DGRAM, 0, b));
        MUST(pass(a[0], "x", a, 2, 0)), MUST(pass(a[1], "x", b, 2, 0)), MUST(pass(b[0], "x", a, 2, 0)), MUST(pass(b[1], "x", b, 1, 0));
        MUST(close(a[0])), MUST(close(a[1])), MUST(close(b[0])), MUST(close(b[1]));
    }
    FACT("circles", "made");
    // A chain: each in the queue of the next.
    int carried = p[0];
    for (int i = 0; i < 2000; i++) {
        int a[2];
        MUST(socketpair(AF_UNIX, SOCK_STREAM, 0, a));
        MUST(pass(a[0], "x", &carried, 1, 0));
        if (carried != p[0]) MUST(close(carried));
        MUST(close(a[0]));
        carried = a[1];
    }
    int depth = 0;
    while (carried != p[0]) {
        struct msghdr next = { .msg_iov = &(struct iovec){ buffer, 1 }, .msg_iovlen = 1, .msg_control = control_space, .msg_controllen = sizeof control_space };
        if (recvmsg(carried, &next, 0) != 1) break;
        MUST(close(carried));
        memcpy(&carried, CMSG_DATA(CMSG_FIRSTHDR(&next)), sizeof carried);
        struct stat status;
        MUST(fstat(carried, &status));
        depth++;
        if (!S_ISSOCK(status.st_mode)) break;
    }
    FACT("a chain and back", "%d", depth);
    CHILD("too many under way") {
        int over[2], count = 0;
        MUST(setuid(1001));
        limit = (struct rlimit){ 100, 100 };
        MUST(setrlimit(RLIMIT_NOFILE, &limit));
        MUST(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, over));
        while (count < 300 && pass(over[0], "x", over, 1, 0) == 1) count++;
        FACT("passed", "%d, then %s", count, errno_name(errno));
        take(over[1], buffer, 1, sizeof control_space, 0, "one arrives");
        FACT("one more", "%zd", pass(over[0], "x", over, 1, 0));
    }
    return done();
}
