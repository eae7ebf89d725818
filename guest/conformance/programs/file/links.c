//: group = "B"
//: summary = "hard and symbolic links: counts, loops, relative and absolute targets, readlink, errors; unlink of open files"
//: link = ["static"]
#include "check.h"

static long links(const char *path) {
    struct stat status;
    return lstat(path, &status) == -1 ? -1 : (long)status.st_nlink;
}

int main(void) {
    enter_scratch();
    write_file("file", "content");
    TRY("link", link("file", "hard"));
    FACT("links", "%ld %ld", links("file"), links("hard"));
    struct stat a, b;
    MUST(stat("file", &a)), MUST(stat("hard", &b));
    CHECK("same inode", a.st_ino == b.st_ino && a.st_dev == b.st_dev);
    TRY("unlink the first", unlink("file"));
    FACT("content", "%s", read_file("hard"));
    FACT("links", "%ld", links("hard"));
    TRY("link to an existing name", link("hard", "hard"));
    TRY("link of nothing", link("nothing", "x"));
    MUST(mkdir("directory", 0755));
    TRY("link of a directory", link("directory", "x"));
    TRY("link into a missing directory", link("hard", "missing/x"));
    FACT("links of a directory", "%ld", links("directory"));
    MUST(mkdir("directory/sub", 0755));
    FACT("with a sub-directory", "%ld", links("directory"));

    TRY("symlink", symlink("hard", "soft"));
    FACT("through it", "%s", read_file("soft"));
    char target[100] = "";
    FACT("readlink", "%zd", readlink("soft", target, sizeof target));
    FACT("target", "%s", target);
    memset(target, 0, sizeof target);
    FACT("readlink, cut", "%zd %s", readlink("soft", target, 2), target);
    TRY("readlink of a file", readlink("hard", target, 10));
    TRY("readlink of nothing", readlink("nothing", target, 10));
    TRY("readlink, size 0", readlink("soft", target, 0));
    TRY("symlink onto an existing name", symlink("x", "soft"));
    TRY("symlink to the empty string", symlink("", "empty-target"));
    MUST(lstat("soft", &a));
    FACT("size of the link, mode", "%ld %o %d", (long)a.st_size, a.st_mode & 07777, S_ISLNK(a.st_mode));
    MUST(stat("soft", &a));
    FACT("followed", "%ld", (long)a.st_size);
    MUST(symlink("nowhere", "dangling"));
    TRY("stat of a dangling link", stat("dangling", &a));
    TRY("lstat of it", lstat("dangling", &a));
    write_file("dangling", "made");
    FACT("writing through it makes the target", "%s", read_file("nowhere"));
    TRY("link of a symlink", link("soft", "hard-to-soft"));
    MUST(lstat("hard-to-soft", &a));
    FACT("is a symlink", "%d", S_ISLNK(a.st_mode));
    TRY("linkat, followed", linkat(AT_FDCWD, "soft", AT_FDCWD, "followed", AT_SYMLINK_FOLLOW));
    MUST(lstat("followed", &a));
    FACT("is a file", "%d", S_ISREG(a.st_mode));

    MUST(symlink("directory", "way"));
    write_file("way/inside", "inside");
    FACT("through a directory link", "%s", read_file("directory/inside"));
    FACT("dot dot after a link", "%s", read_file("way/sub/../inside"));
    MUST(symlink("../directory/inside", "directory/up"));
    FACT("relative to the link's place", "%s", read_file("way/up"));
    MUST(symlink("/etc/passwd", "absolute"));
    CHECK("absolute target", strncmp(read_file("absolute"), "root", 4) == 0);
    MUST(symlink("loop-b", "loop-a")), MUST(symlink("loop-a", "loop-b"));
    TRY("loop", open("loop-a", O_RDONLY));
    TRY("lstat of the loop", lstat("loop-a", &a));
    TRY("through the loop", open("loop-a/x", O_RDONLY));
    char name[32], next[32];
    write_file("chain0", "end of the chain");
    for (int i = 1; i <= 41; i++) {
        snprintf(name, sizeof name, "chain%d", i), snprintf(next, sizeof next, "chain%d", i - 1);
        MUST(symlink(next, name));
    }
    TRY("forty links", open("chain40", O_RDONLY));
    TRY("forty-one", open("chain41", O_RDONLY));

    int fd = (int)MUST(open("hard", O_RDWR));
    MUST(unlink("hard")), MUST(unlink("followed"));
    MUST(fstat(fd, &a));
    FACT("links of an open, unlinked file", "%ld", (long)a.st_nlink);
    char text[20] = "";
    FACT("read it", "%zd %s", pread(fd, text, 10, 0), text);
    FACT("write it", "%zd", pwrite(fd, "C", 1, 0));
    MUST(pread(fd, text, 10, 0));
    FACT("read again", "%s", text);
    char own[40], place[300] = "";
    snprintf(own, sizeof own, "/proc/self/fd/%d", fd);
    MUST(readlink(own, place, sizeof place - 1));
    CHECK("/proc says deleted", strstr(place, "/hard (deleted)") != NULL);
    TRY("open through /proc", open(own, O_RDONLY));
    TRY("link of a deleted file", linkat(AT_FDCWD, own, AT_FDCWD, "again", AT_SYMLINK_FOLLOW));
    TRY("unlink of a directory", unlink("directory"));
    TRY("unlink of nothing", unlink("nothing"));
    TRY("unlink of a link", unlink("way"));
    TRY("the directory stays", access("directory", F_OK));
    TRY("unlink with a slash", unlink("nowhere/"));
    TRY("unlinkat, bad flag", unlinkat(AT_FDCWD, "x", 0x1));
    TRY("unlinkat of a directory", unlinkat(AT_FDCWD, "directory", AT_REMOVEDIR));
    return done();
}
