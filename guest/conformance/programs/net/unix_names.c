//: group = "C"
//: summary = "AF_UNIX addresses: lengths, autobind, abstract names, permissions, removal; listen, backlog and accept; /proc/net/unix"
//: link = ["static", "dynamic"]
#include "net.h"

static struct sockaddr_un address;

static socklen_t named(const char *path) {
    memset(&address, 0, sizeof address);
    address.sun_family = AF_UNIX;
    memcpy(address.sun_path, path, strlen(path));
    return (socklen_t)(offsetof(struct sockaddr_un, sun_path) + strlen(path) + 1);
}

static socklen_t abstract(const char *name) {
    memset(&address, 0, sizeof address);
    address.sun_family = AF_UNIX;
    memcpy(address.sun_path + 1, name, strlen(name));
    return (socklen_t)(offsetof(struct sockaddr_un, sun_path) + strlen(name) + 1);
}

static int fresh(int type) { return (int)MUST(socket(AF_UNIX, type, 0)); }

static int try_bind(const char *what, int fd, socklen_t length) { return (int)TRY(what, bind(fd, (struct sockaddr *)&address, length)); }
static int try_connect(const char *what, int fd, socklen_t length) { return (int)TRY(what, connect(fd, (struct sockaddr *)&address, length)); }

static void show(const char *what, int fd, bool of_peer) {
    struct sockaddr_un name;
    memset(&name, 'z', sizeof name);
    socklen_t length = sizeof name;
    int result = of_peer ? getpeername(fd, (struct sockaddr *)&name, &length) : getsockname(fd, (struct sockaddr *)&name, &length);
    if (result == -1) FACT(what, "%s", errno_name(errno));
    else if (length <= offsetof(struct sockaddr_un, sun_path)) FACT(what, "no name, %u", length);
    else if (name.sun_path[0] == 0) FACT(what, "abstract, %u", length);
    else FACT(what, "%.*s, %u", (int)(length - offsetof(struct sockaddr_un, sun_path) - 1), name.sun_path, length);
}

int main(void) {
    enter_scratch();
    umask(027);
    int fd = fresh(SOCK_STREAM);
    show("new", fd, false);
    show("new, peer", fd, true);
    try_bind("bind", fd, named("first"));
    show("bound", fd, false);
    struct stat status;
    MUST(stat("first", &status));
    FACT("mode", "%o", status.st_mode);
    try_bind("again, elsewhere", fd, named("second"));
    TRY("the other path", access("second", F_OK));
    try_bind("again, at its own path", fd, named("first"));
    char small[6];
    socklen_t length = sizeof small;
    MUST(getsockname(fd, (struct sockaddr *)small, &length));
    FACT("cut name, full length", "%.4s %u", small + 2, length);
    length = (socklen_t)-1;
    TRY("negative room", getsockname(fd, (struct sockaddr *)small, &length));
    TRY("bad pointer", getsockname(fd, OPAQUE((struct sockaddr *)8), &(socklen_t){ 10 }));
    TRY("no length", getsockname(fd, (struct sockaddr *)small, OPAQUE((socklen_t *)8)));
    try_bind("not terminated", fresh(SOCK_STREAM), (named("short"), (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 3)));
    TRY("its path", access("sho", F_OK));
    try_bind("no directory", fresh(SOCK_STREAM), named("none/such"));
    try_bind("through a file", fresh(SOCK_STREAM), named("first/x"));
    MUST(mkdir("dir", 0700)), MUST(symlink("dir", "link")), MUST(symlink("gone", "dangling"));
    try_bind("through a link", fresh(SOCK_STREAM), named("link/sock"));
    try_bind("at a dangling link", fresh(SOCK_STREAM), named("dangling"));
    try_bind("at a directory", fresh(SOCK_STREAM), named("dir"));
    try_bind("wrong family", fresh(SOCK_STREAM), (named("x"), address.sun_family = AF_INET, sizeof address));
    try_bind("too short", fresh(SOCK_STREAM), (named("x"), 1));
    TRY("length of a year", bind(fd, (struct sockaddr *)&address, 10000));
    TRY("bad pointer", bind(fresh(SOCK_STREAM), OPAQUE((struct sockaddr *)8), 10));

    // Abstract names are bytes; every type has its own.
    try_bind("abstract", fd = fresh(SOCK_STREAM), abstract("conformance"));
    show("abstract", fd, false);
    try_bind("taken", fresh(SOCK_STREAM), abstract("conformance"));
    try_bind("another type", fresh(SOCK_DGRAM), abstract("conformance"));
    try_bind("one byte more", fresh(SOCK_STREAM), abstract("conformance") + 1);
    try_bind("the empty name", fresh(SOCK_STREAM), (abstract(""), 3));
    MUST(close(fd));
    try_bind("free again", fd = fresh(SOCK_STREAM), abstract("conformance"));
    struct sockaddr_un chosen;
    fd = fresh(SOCK_DGRAM);
    try_bind("autobind", fd, (abstract(""), sizeof(sa_family_t)));
    length = sizeof chosen;
    MUST(getsockname(fd, (struct sockaddr *)&chosen, &length));
    bool is_hex = chosen.sun_path[0] == 0;
    for (int i = 1; i < 6; i++) is_hex &= strchr("0123456789abcdef", chosen.sun_path[i]) != NULL;
    FACT("chosen", "%u %d", length, is_hex);
    try_bind("autobind again changes nothing", fd, (abstract(""), sizeof(sa_family_t)));

    // Listening.
    fd = fresh(SOCK_STREAM);
    TRY("listen without a name", listen(fd, 1));
    TRY("listen, datagrams", listen(fresh(SOCK_DGRAM), 1));
    TRY("accept, not listening", accept(fd, NULL, NULL));
    TRY("accept, datagrams", accept(fresh(SOCK_DGRAM), NULL, NULL));
    try_bind("listener", fd, named("listener"));
    MUST(listen(fd, 1));
    FACT("SO_ACCEPTCONN", "%d", option(fd, SOL_SOCKET, SO_ACCEPTCONN));
    FACT("events", "%s", poll_events(fd, POLLIN | POLLOUT, 0));
    try_connect("a listener connects", fd, named("listener"));
    int clients[4];
    for (int i = 0; i < 4; i++) clients[i] = fresh(SOCK_STREAM | SOCK_NONBLOCK);
    FACT("unconnected", "%s", poll_events(clients[0], POLLIN | POLLOUT | POLLRDHUP, 0));
    for (int i = 0; i < 4; i++) try_connect("connect, backlog of 1", clients[i], named("listener"));
    try_connect("connected already", clients[0], named("listener"));
    FACT("events", "%s", poll_events(fd, POLLIN | POLLOUT, 0));
    show("peer of a client", clients[0], true);
    MUST(write(clients[0], "early", 5));
    struct sockaddr_un from;
    memset(&from, 'z', sizeof from);
    length = sizeof from;
    int accepted = (int)MUST(accept4(fd, (struct sockaddr *)&from, &length, SOCK_NONBLOCK | SOCK_CLOEXEC));
    FACT("accepted", "%u %d %d %d", length, from.sun_family, fcntl(accepted, F_GETFD), !!(fcntl(accepted, F_GETFL) & O_NONBLOCK));
    show("accepted", accepted, false);
    show("accepted, peer", accepted, true);
    char buffer[100];
    FACT("sent before accept", "%zd", read(accepted, buffer, 100));
    TRY("bad flags", accept4(fd, NULL, NULL, 0x1000));
    // Closed before it is accepted: accept gives it all the same.
    MUST(close(clients[1]));
    accepted = (int)MUST(accept(fd, NULL, NULL));
    FACT("gone before accept", "%zd", read(accepted, buffer, 100));
    try_connect("bound client", clients[2], (MUST(bind(clients[2], (struct sockaddr *)&address, named("client"))), named("listener")));
    length = sizeof from;
    accepted = (int)MUST(accept(fd, (struct sockaddr *)&from, &length));
    FACT("its name", "%s %u", from.sun_path, length);
    set_nonblocking(fd);
    TRY("nobody waits", accept(fd, NULL, NULL));
    // A client that waits for room in the backlog.
    MUST(fcntl(fd, F_SETFL, 0));
    try_connect("fills it", clients[3], named("listener"));
    int waiting = fresh(SOCK_STREAM | SOCK_NONBLOCK);
    try_connect("fills it", waiting, named("listener"));
    pid_t pid = (pid_t)MUST(fork());
    if (pid == 0) {
        int late = fresh(SOCK_STREAM);
        MUST(setsockopt(late, SOL_SOCKET, SO_SNDTIMEO, &(struct timeval){ 0, 20000 }, sizeof(struct timeval)));
        try_connect("time-out", late, named("listener"));
        MUST(setsockopt(late, SOL_SOCKET, SO_SNDTIMEO, &(struct timeval){ 0, 0 }, sizeof(struct timeval)));
        try_connect("waits", late, named("listener"));
        _exit(0);
    }
    sleep_ms(100);
    MUST(close((int)MUST(accept(fd, NULL, NULL))));
    reap("late client", pid);
    // The listener is closed: those who were not accepted are reset.
    MUST(close(fd));
    FACT("reset", "%s", poll_events(waiting, POLLIN | POLLOUT | POLLRDHUP, 0));
    TRY("reset", read(waiting, buffer, 1));
    FACT("then the end", "%zd", read(waiting, buffer, 1));
    try_connect("path of a closed listener", fresh(SOCK_STREAM), named("listener"));
    TRY("unlink", unlink("listener"));
    try_connect("path that was removed", fresh(SOCK_STREAM), named("listener"));
    try_connect("no name", fresh(SOCK_STREAM), (named("listener"), sizeof(sa_family_t)));
    try_connect("abstract, nobody", fresh(SOCK_STREAM), abstract("nobody"));

    // Renamed and linked paths lead to the same socket.
    fd = fresh(SOCK_STREAM);
    MUST(bind(fd, (struct sockaddr *)&address, named("here"))), MUST(listen(fd, 5));
    MUST(link("here", "also")), MUST(rename("here", "there")), MUST(symlink("there", "via"));
    try_connect("renamed", fresh(SOCK_STREAM), named("there"));
    try_connect("linked", fresh(SOCK_STREAM), named("also"));
    try_connect("by a symbolic link", fresh(SOCK_STREAM), named("via"));
    show("its name stays", fd, false);
    try_connect("datagrams to a stream", fresh(SOCK_DGRAM), named("there"));
    try_connect("packets to a stream", fresh(SOCK_SEQPACKET), named("there"));
    MUST(chmod(".", 0755));
    CHILD("permissions") {
        MUST(setuid(1000));
        try_connect("no permission to write", fresh(SOCK_STREAM), named("there"));
        try_bind("no permission to make", fresh(SOCK_STREAM), named("mine"));
    }
    MUST(chmod("there", 0222));
    CHILD("permissions") {
        MUST(setuid(1000));
        try_connect("may write", fresh(SOCK_STREAM), named("there"));
        struct ucred who;
        length = sizeof who;
        int server = (int)MUST(accept(fd, NULL, NULL));
        MUST(getsockopt(server, SOL_SOCKET, SO_PEERCRED, &who, &length));
        FACT("root's, still", "%u %u %u", who.uid, who.gid, length);
    }
    MUST(shutdown(fd, SHUT_RD));
    try_connect("shut down", fresh(SOCK_STREAM), named("there"));
    while (accept4(fd, NULL, NULL, SOCK_NONBLOCK) != -1) {}
    TRY("accept, shut down", accept(fd, NULL, NULL));

    // The list.
    fd = fresh(SOCK_SEQPACKET);
    MUST(bind(fd, (struct sockaddr *)&address, abstract("in the list"))), MUST(listen(fd, 1));
    const char *list = read_file("/proc/net/unix"), *line = strstr(list, "@in the list");
    FACT("head", "%.52s", list);
    CHECK("listed", line);
    unsigned flags = 0, type = 0, state = 0;
    unsigned long inode = 0;
    while (line > list && line[-1] != '\n') line--;
    sscanf(line, "%*s %*x %*x %x %x %x %lu", &flags, &type, &state, &inode);
    MUST(fstat(fd, &status));
    FACT("flags, type, state, inode", "%x %x %x %d", flags, type, state, inode == status.st_ino);
    char link_path[64], own[64];
    snprintf(own, sizeof own, "/proc/self/fd/%d", fd);
    length = (socklen_t)MUST(readlink(own, link_path, sizeof link_path - 1));
    link_path[length] = 0;
    snprintf(own, sizeof own, "socket:[%lu]", inode);
    CHECK("link in /proc", strcmp(link_path, own) == 0);
    return done();
}
