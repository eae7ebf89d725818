//: group = "F"
//: summary = "inotify: create, modify, move, delete; nonblocking; rm_watch; errors"
//: link = ["dynamic"]
#include "check.h"
#include <poll.h>
#include <sys/inotify.h>

static void show(int fd) {
    static const struct { uint32_t bit; const char *name; } names[] = { { IN_CREATE, "CREATE" }, { IN_MODIFY, "MODIFY" }, { IN_CLOSE_WRITE, "CLOSE_WRITE" },
        { IN_MOVED_FROM, "MOVED_FROM" }, { IN_MOVED_TO, "MOVED_TO" }, { IN_DELETE, "DELETE" }, { IN_DELETE_SELF, "DELETE_SELF" }, { IN_IGNORED, "IGNORED" },
        { IN_ISDIR, "ISDIR" }, { IN_ATTRIB, "ATTRIB" }, { IN_MOVE_SELF, "MOVE_SELF" } };
    char buffer[4096] __attribute__((aligned(8)));
    ssize_t got = read(fd, buffer, sizeof buffer);
    if (got == -1) FACT("read", "%s", errno_name(errno));
    for (char *at = buffer; at < buffer + got;) {
        struct inotify_event *event = (struct inotify_event *)at;
        char text[200] = "";
        for (size_t i = 0; i < LEN(names); i++)
            if (event->mask & names[i].bit) strcat(strcat(text, names[i].name), " ");
        FACT("event", "%s%s%s", text, event->len ? event->name : "", event->cookie ? " cookie" : "");
        at += sizeof *event + event->len;
    }
}

int main(void) {
    enter_scratch();
    MUST(mkdir("watched", 0755));
    int fd = (int)TRY("inotify_init1", inotify_init1(IN_NONBLOCK | IN_CLOEXEC));
    int watch = (int)MUST(inotify_add_watch(fd, "watched", IN_CREATE | IN_MODIFY | IN_CLOSE_WRITE | IN_MOVE | IN_DELETE | IN_DELETE_SELF | IN_ATTRIB));
    FACT("watch", "%d", watch);
    show(fd);
    write_file("watched/file", "x");
    show(fd);
    MUST(chmod("watched/file", 0600));
    MUST(rename("watched/file", "watched/moved"));
    show(fd);
    MUST(mkdir("watched/sub", 0755));
    MUST(unlink("watched/moved"));
    MUST(rmdir("watched/sub"));
    show(fd);
    struct pollfd p = { .fd = fd, .events = POLLIN };
    FACT("poll, nothing", "%d", poll(&p, 1, 0));
    write_file("watched/again", "");
    FACT("poll", "%d", poll(&p, 1, 1000));
    show(fd);
    MUST(unlink("watched/again"));
    show(fd);
    MUST(rmdir("watched"));
    show(fd);
    TRY("rm_watch of one that is gone", inotify_rm_watch(fd, watch));
    write_file("file", "");
    watch = (int)MUST(inotify_add_watch(fd, "file", IN_MODIFY));
    TRY("rm_watch", inotify_rm_watch(fd, watch));
    show(fd);
    TRY("of nothing", inotify_add_watch(fd, "nothing", IN_MODIFY));
    TRY("no events", inotify_add_watch(fd, "file", 0));
    TRY("bad descriptor", inotify_add_watch(0, "file", IN_MODIFY));
    TRY("bad flags", inotify_init1(0x1));
    return done();
}
