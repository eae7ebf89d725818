//: group = "B"
//: summary = "uid 1000 against modes of files and directories; sticky and set-id bits; access against the real id"
//: link = ["static"]
#include "check.h"
#include <grp.h>

static void become(uid_t uid, gid_t gid) {
    MUST(setgroups(0, NULL));
    MUST(setgid(gid));
    MUST(setuid(uid));
}

int main(void) {
    umask(0);
    enter_scratch();
    MUST(chmod(".", 0777));
    static const mode_t modes[] = { 0000, 0400, 0200, 0100, 0600, 0040, 0020, 0004, 0002, 0006, 0644, 0755, 0777 };
    char name[64];
    for (int owner = 0; owner < 3; owner++)
        for (size_t i = 0; i < LEN(modes); i++) {
            snprintf(name, sizeof name, "f%d-%04o", owner, modes[i]);
            MUST(close((int)MUST(open(name, O_CREAT | O_WRONLY, 0600))));
            // Owner, group or neither is 1000.
            MUST(chown(name, owner == 0 ? 1000 : 0, owner == 1 ? 1000 : 0));
            MUST(chmod(name, modes[i]));
        }
    write_file("image-like", "#!/bin/true\n");
    MUST(mkdir("no-search", 0600)), MUST(mkdir("no-read", 0711)), MUST(mkdir("no-write", 0755)), MUST(mkdir("sticky", 01777));
    write_file("no-search/file", ""), write_file("no-read/file", ""), write_file("no-write/file", ""), write_file("sticky/file", "");
    CHILD("uid 1000") {
        become(1000, 1000);
        for (int owner = 0; owner < 3; owner++)
            for (size_t i = 0; i < LEN(modes); i++) {
                snprintf(name, sizeof name, "f%d-%04o", owner, modes[i]);
                int r = open(name, O_RDONLY), w = open(name, O_WRONLY);
                FACT(name, "%c%c%c", r == -1 ? '-' : 'r', w == -1 ? '-' : 'w', access(name, X_OK) ? '-' : 'x');
                close(r), close(w);
            }
        TRY("chmod of one's own", chmod("f0-0000", 0600));
        TRY("chmod of another's", chmod("f1-0777", 0600));
        TRY("chown", chown("f0-0600", 1001, -1));
        TRY("chgrp to one's own", chown("f0-0600", -1, 1000));
        TRY("chgrp to another's", chown("f0-0600", -1, 7));
        TRY("utimes of another's, writable", utimensat(AT_FDCWD, "f1-0777", NULL, 0));
        TRY("utimes of another's, set", utimensat(AT_FDCWD, "f1-0777", (struct timespec[2]){ 0 }, 0));
        TRY("no search", access("no-search/file", F_OK));
        TRY("no search, list", open("no-search", O_RDONLY));
        TRY("no read, known name", access("no-read/file", F_OK));
        TRY("no read, list", open("no-read", O_RDONLY));
        TRY("no write, create", open("no-write/new", O_CREAT | O_WRONLY, 0600));
        TRY("no write, unlink", unlink("no-write/file"));
        TRY("no write, rename", rename("no-write/file", "x"));
        TRY("no write, mkdir", mkdir("no-write/x", 0755));
        TRY("sticky, create", open("sticky/new", O_CREAT | O_WRONLY, 0600));
        TRY("sticky, another's", unlink("sticky/file"));
        TRY("sticky, one's own", unlink("sticky/new"));
        TRY("file of the image, for writing", open("/etc/passwd", O_WRONLY));
        TRY("new file in /etc", open("/etc/new", O_CREAT | O_WRONLY, 0600));
        TRY("new file in /tmp", open("/tmp/of-1000", O_CREAT | O_WRONLY | O_EXCL, 0600));
        TRY("new file in /dev/shm", open("/dev/shm/of-1000", O_CREAT | O_WRONLY, 0600));
        TRY("device node", mknod("device", S_IFCHR | 0600, 0x103));
        TRY("set-group-id of a strange group", chmod("f0-0600", 02755));
        TRY("exec without x", execl("f0-0400", "x", NULL));
        TRY("/proc/1/environ of root", open("/proc/1/environ", O_RDONLY));
        struct stat s;
        MUST(stat("/tmp/of-1000", &s));
        FACT("owner of a new file", "%u %u", s.st_uid, s.st_gid);
        TRY("raise the priority", nice(-5));
    }
    CHILD("supplementary group") {
        gid_t groups[] = { 1000, 44 };
        MUST(setgroups(2, groups));
        MUST(setgid(5));
        MUST(setuid(5));
        TRY("group may read", open("f1-0040", O_RDONLY));
        TRY("group may not write", open("f1-0040", O_WRONLY));
    }
    CHILD("real and effective") {
        MUST(setresuid(1000, 0, 0));
        TRY("access asks for the real", access("f1-0400", R_OK));
        TRY("open for the effective", open("f1-0400", O_RDONLY));
        TRY("faccessat, AT_EACCESS", faccessat(AT_FDCWD, "f1-0400", R_OK, AT_EACCESS));
    }
    // What root may: everything but execute a file without any x.
    TRY("root reads 0000", open("f0-0000", O_RDWR));
    TRY("root, access X of 0600", access("f1-0600", X_OK));
    TRY("root, access X of 0100", access("f0-0100", X_OK));
    TRY("root executes 0600", execl("f1-0600", "x", NULL));
    TRY("access, bad mode", access("f0-0000", 9));
    TRY("access of nothing", access("nothing", F_OK));
    // A change of content or owner drops set-id bits, unless root writes.
    write_file("set-id", "x");
    MUST(chown("set-id", 1000, 1000)), MUST(chmod("set-id", 06777));
    CHILD("writer") {
        become(1000, 1000);
        MUST(write((int)MUST(open("set-id", O_WRONLY)), "y", 1));
    }
    struct stat s;
    MUST(stat("set-id", &s));
    FACT("after a write", "%o", s.st_mode & 07777);
    return done();
}
