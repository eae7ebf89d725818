//: group = "B"
//: summary = "stat, lstat, fstatat, statx: fields of every kind of file; chmod, chown, utimensat; statfs"
//: link = ["static", "dynamic"]
#include "check.h"
#include <sys/statfs.h>
#include <sys/statvfs.h>
#include <sys/sysmacros.h>
#include <utime.h>

static void show(const char *path) {
    struct stat s;
    if (lstat(path, &s) == -1) {
        FACT(path, "%s", errno_name(errno));
        return;
    }
    const char *kind = S_ISREG(s.st_mode) ? "file" : S_ISDIR(s.st_mode) ? "directory" : S_ISLNK(s.st_mode) ? "link" : S_ISFIFO(s.st_mode) ? "fifo" : S_ISCHR(s.st_mode) ? "character device" : S_ISSOCK(s.st_mode) ? "socket" : "?";
    FACT(path, "%s %o uid %u gid %u rdev %u:%u", kind, s.st_mode & 07777, s.st_uid, s.st_gid, major(s.st_rdev), minor(s.st_rdev));
}

int main(void) {
    static const char *const paths[] = { "/", "/tmp", "/etc", "/etc/passwd", "/bin", "/usr/bin/env", "/dev/null", "/dev/zero", "/dev/full", "/dev/random",
        "/dev/urandom", "/dev/fd", "/dev/stdin", "/dev/shm", "/proc", "/proc/1", "/proc/self/fd", "/proc/self/exe", "/proc/meminfo", "/no/such" };
    for (size_t i = 0; i < LEN(paths); i++) show(paths[i]);
    enter_scratch();
    write_file("file", "0123456789");
    struct stat s;
    MUST(stat("file", &s));
    FACT("file", "%o %ld %ld", s.st_mode, (long)s.st_nlink, (long)s.st_size);
    CHECK("blocks", s.st_blocks > 0 && s.st_blocks <= 8 && s.st_blksize >= 512);
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    CHECK("times are now", llabs(s.st_mtim.tv_sec - now.tv_sec) < 5 && s.st_ctim.tv_sec == s.st_mtim.tv_sec);
    MUST(mkdir("directory", 0750)), MUST(mkfifo("fifo", 0600)), MUST(symlink("file", "link"));
    TRY("mknod of a device", mknod("device", S_IFCHR | 0600, makedev(1, 3)));
    TRY("mknod of a file", mknod("plain", S_IFREG | 0600, 0));
    show("directory"), show("fifo"), show("link"), show("device"), show("plain");
    TRY("stat, file as directory", stat("file/x", &s));
    TRY("stat, empty name", stat("", &s));
    TRY("stat, bad path", stat(OPAQUE((char *)8), &s));
    TRY("stat, bad buffer", stat("file", OPAQUE((struct stat *)8)));
    TRY("fstat of a closed one", fstat(99, &s));
    TRY("fstatat, nofollow", fstatat(AT_FDCWD, "link", &s, AT_SYMLINK_NOFOLLOW));
    FACT("link", "%d", S_ISLNK(s.st_mode));
    int fd = (int)MUST(open("file", O_RDWR));
    TRY("fstatat, empty path", fstatat(fd, "", &s, AT_EMPTY_PATH));
    TRY("fstatat, empty path without the flag", fstatat(fd, "", &s, 0));
    TRY("fstatat in a file", fstatat(fd, "x", &s, 0));
    TRY("fstatat, absolute, descriptor does not matter", fstatat(99, "/etc", &s, 0));
    TRY("fstatat, bad flag", fstatat(AT_FDCWD, "file", &s, 0x8000));
    struct statx x;
    TRY("statx", statx(AT_FDCWD, "file", 0, STATX_BASIC_STATS, &x));
    FACT("statx", "%o %lu %u %d", x.stx_mode, (unsigned long)x.stx_size, x.stx_nlink, (x.stx_mask & STATX_BASIC_STATS) == STATX_BASIC_STATS);
    MUST(stat("file", &s));
    CHECK("same inode in both", x.stx_ino == s.st_ino && makedev(x.stx_dev_major, x.stx_dev_minor) == s.st_dev);
    TRY("statx, bad flags", statx(AT_FDCWD, "file", 0x8000, STATX_BASIC_STATS, &x));

    TRY("chmod", chmod("file", 06755));
    show("file");
    MUST(pwrite(fd, "x", 1, 0));
    show("file");
    TRY("fchmod", fchmod(fd, 0));
    show("file");
    FACT("root reads it all the same", "%s", read_file("file"));
    TRY("chmod through the link", chmod("link", 0644));
    show("file"), show("link");
    TRY("fchmodat", fchmodat(AT_FDCWD, "directory", 01711, 0));
    show("directory");
    TRY("chmod of nothing", chmod("nothing", 0644));
    TRY("chown", chown("file", 12, 34));
    show("file");
    TRY("chown, only the group", chown("file", (uid_t)-1, 35));
    show("file");
    TRY("lchown", lchown("link", 5, 6));
    show("link"), show("file");
    MUST(chmod("file", 06755));
    TRY("fchown", fchown(fd, 1, 2));
    show("file");

    struct timespec times[2] = { { 1000, 1 }, { 2000, 999999999 } };
    TRY("utimensat", utimensat(AT_FDCWD, "file", times, 0));
    MUST(stat("file", &s));
    FACT("times", "%ld.%09ld %ld.%09ld", (long)s.st_atim.tv_sec, s.st_atim.tv_nsec, (long)s.st_mtim.tv_sec, s.st_mtim.tv_nsec);
    CHECK("ctime is now", llabs(s.st_ctim.tv_sec - now.tv_sec) < 5);
    times[0].tv_nsec = UTIME_OMIT, times[1] = (struct timespec){ 5, 0 };
    TRY("omit one", utimensat(AT_FDCWD, "file", times, 0));
    MUST(stat("file", &s));
    FACT("times", "%ld %ld", (long)s.st_atim.tv_sec, (long)s.st_mtim.tv_sec);
    times[1].tv_nsec = UTIME_NOW;
    TRY("now", futimens(fd, times));
    MUST(stat("file", &s));
    CHECK("mtime is now", llabs(s.st_mtim.tv_sec - now.tv_sec) < 5 && s.st_atim.tv_sec == 1000);
    times[1].tv_nsec = 1000000000;
    TRY("bad nanoseconds", futimens(fd, times));
    TRY("utime before 1970", utime("file", &(struct utimbuf){ -100, -200 }));
    MUST(stat("file", &s));
    FACT("times", "%ld %ld", (long)s.st_atim.tv_sec, (long)s.st_mtim.tv_sec);
    TRY("of a link itself", utimensat(AT_FDCWD, "link", (struct timespec[2]){ { 7, 0 }, { 8, 0 } }, AT_SYMLINK_NOFOLLOW));
    MUST(lstat("link", &s));
    FACT("link", "%ld", (long)s.st_mtim.tv_sec);
    TRY("of nothing", utimensat(AT_FDCWD, "nothing", NULL, 0));

    // A change of the directory moves its times.
    MUST(utimensat(AT_FDCWD, "directory", (struct timespec[2]){ { 7, 0 }, { 8, 0 } }, 0));
    write_file("directory/new", "");
    MUST(stat("directory", &s));
    CHECK("directory's mtime is now", llabs(s.st_mtim.tv_sec - now.tv_sec) < 5);
    MUST(pwrite(fd, "", 0, 0));
    // Copy-up keeps what a file of the image had.
    MUST(stat("/etc/passwd", &s));
    struct stat after;
    MUST(chmod("/etc/passwd", 0600));
    MUST(stat("/etc/passwd", &after));
    CHECK("chmod of a file of the image", after.st_size == s.st_size && after.st_mtim.tv_sec == s.st_mtim.tv_sec && (after.st_mode & 07777) == 0600);

    struct statfs f;
    TRY("statfs", statfs("/", &f));
    CHECK("its sizes", f.f_bsize > 0 && f.f_blocks > 0 && f.f_bavail <= f.f_blocks && f.f_namelen == 255);
    TRY("fstatfs", fstatfs(fd, &f));
    TRY("statfs of nothing", statfs("/nothing", &f));
    FACT("type of /proc", "%lx", ({ MUST(statfs("/proc", &f)); (long)f.f_type; }));
    struct statvfs v;
    TRY("statvfs", statvfs("/", &v));
    CHECK("name length", v.f_namemax == 255);
    return done();
}
