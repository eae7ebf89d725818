//: group = "B"
//: summary = "user and group ids: set and get, what root may and others may not"
//: link = ["static"]
#include "check.h"
#include <grp.h>
#include <sys/fsuid.h>

int main(void) {
    uid_t r, e, s;
    MUST(getresuid(&r, &e, &s));
    FACT("uids", "%u %u %u", r, e, s);
    gid_t gr, ge, gs;
    MUST(getresgid(&gr, &ge, &gs));
    FACT("gids", "%u %u %u", gr, ge, gs);
    CHILD("become 1000") {
        gid_t groups[] = { 5, 6, 7 };
        TRY("setgroups", setgroups(3, groups));
        gid_t back[8];
        FACT("getgroups", "%d", getgroups(8, back));
        FACT("groups", "%u %u %u", back[0], back[1], back[2]);
        FACT("getgroups(0)", "%d", getgroups(0, NULL));
        TRY("getgroups, too small", getgroups(1, back));
        TRY("setgid", setgid(1000));
        TRY("setuid", setuid(1000));
        FACT("now", "%u %u %u %u", getuid(), geteuid(), getgid(), getegid());
        TRY("setuid back", setuid(0));
        TRY("seteuid back", seteuid(0));
        TRY("setgid back", setgid(0));
        TRY("setgroups", setgroups(0, NULL));
        TRY("kill of pid 1", kill(1, 0));
        TRY("setuid to itself", setuid(1000));
        TRY("sethostname", sethostname("x", 1));
        TRY("chroot", chroot("/"));
        CHILD("child inherits") _exit(getuid() == 1000 && getegid() == 1000 ? 0 : 1);
    }
    CHILD("saved id") {
        MUST(setresuid(1000, 1001, 0));
        TRY("seteuid to the saved", seteuid(0));
        TRY("seteuid to the real", seteuid(1000));
        TRY("seteuid to another", seteuid(1001));
        MUST(getresuid(&r, &e, &s));
        FACT("uids", "%u %u %u", r, e, s);
        TRY("setreuid", setreuid(-1, 0));
        MUST(getresuid(&r, &e, &s));
        FACT("uids", "%u %u %u", r, e, s);
    }
    CHILD("setreuid") {
        MUST(setreuid(500, 600));
        MUST(getresuid(&r, &e, &s));
        FACT("uids", "%u %u %u", r, e, s);
    }
    CHILD("fsuid") {
        FACT("setfsuid", "%d", setfsuid(1000));
        FACT("then", "%d", setfsuid(-1));
        setegid(77);
        FACT("fsgid follows egid", "%d", setfsgid(-1));
    }
    FACT("parent unchanged", "%u %u", getuid(), geteuid());
    return done();
}
