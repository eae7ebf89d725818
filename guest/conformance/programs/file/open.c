//: group = "B"
//: summary = "open: every flag on a file, a missing one, a directory, a link; modes and umask; errors"
//: link = ["static", "dynamic"]
#include "check.h"

static const struct { int flag; const char *name; } FLAGS[] = { { O_RDONLY, "RDONLY" }, { O_WRONLY, "WRONLY" }, { O_RDWR, "RDWR" },
    { O_CREAT, "CREAT" }, { O_CREAT | O_EXCL, "CREAT|EXCL" }, { O_WRONLY | O_TRUNC, "WRONLY|TRUNC" }, { O_RDWR | O_CREAT | O_TRUNC, "RDWR|CREAT|TRUNC" },
    { O_WRONLY | O_APPEND, "WRONLY|APPEND" }, { O_DIRECTORY, "DIRECTORY" }, { O_WRONLY | O_DIRECTORY, "WRONLY|DIRECTORY" },
    { O_NOFOLLOW, "NOFOLLOW" }, { O_RDWR | O_NOFOLLOW | O_CREAT, "RDWR|NOFOLLOW|CREAT" }, { O_PATH, "PATH" }, { O_PATH | O_NOFOLLOW, "PATH|NOFOLLOW" },
    { O_PATH | O_DIRECTORY, "PATH|DIRECTORY" }, { O_RDONLY | O_NONBLOCK, "NONBLOCK" }, { O_RDWR | O_SYNC, "RDWR|SYNC" }, { O_CREAT | O_DIRECTORY, "CREAT|DIRECTORY" } };

static void build(void) {
    write_file("file", "0123456789");
    mkdir("directory", 0755);
    symlink("file", "link"), symlink("directory", "link-to-directory"), symlink("nowhere", "dangling"), symlink("loop", "loop");
}

static void tear_down(void) {
    unlink("file"), unlink("link"), unlink("link-to-directory"), unlink("dangling"), unlink("loop"), unlink("nowhere"), unlink("missing");
    rmdir("directory");
}

int main(void) {
    enter_scratch();
    static const char *const names[] = { "file", "missing", "directory", "link", "link-to-directory", "dangling", "loop", "file/", "directory/", "missing/", "file/x", "directory/x/y", "" };
    for (size_t n = 0; n < LEN(names); n++)
        for (size_t f = 0; f < LEN(FLAGS); f++) {
            build();
            errno = 0;
            int fd = open(names[n], FLAGS[f].flag, 0600);
            int error = errno;
            struct stat status = { 0 };
            if (fd != -1) fstat(fd, &status);
            const char *kind = S_ISREG(status.st_mode) ? "file" : S_ISDIR(status.st_mode) ? "directory" : S_ISLNK(status.st_mode) ? "link" : "?";
            char name[100];
            snprintf(name, sizeof name, "[%s] %s", names[n], FLAGS[f].name);
            if (fd == -1) FACT(name, "%s", errno_name(error));
            else if (S_ISREG(status.st_mode)) FACT(name, "file of %ld", (long)status.st_size);
            else FACT(name, "%s", kind);
            close(fd);
            tear_down();
            unlink("directory/x");
        }

    static const mode_t modes[] = { 0, 0644, 0777, 04755, 01777, 07777 };
    for (size_t m = 0; m < LEN(modes); m++)
        for (int mask = 0; mask < 2; mask++) {
            umask(mask ? 027 : 0);
            struct stat status;
            MUST(close((int)MUST(open("mode", O_CREAT | O_RDWR, modes[m]))));
            MUST(stat("mode", &status));
            MUST(unlink("mode"));
            char name[64];
            snprintf(name, sizeof name, "mode %o, umask %o", modes[m], mask ? 027 : 0);
            FACT(name, "%o", status.st_mode & 07777);
        }
    umask(022);
    int fd = (int)MUST(open("read-only", O_CREAT | O_RDWR, 0400));
    FACT("the creator may write", "%zd", write(fd, "x", 1));
    MUST(close(fd));
    MUST(close((int)MUST(creat("created", 0600))));
    write_file("file", "0123456789");
    int path = (int)MUST(open("file", O_PATH));
    char byte;
    TRY("read of O_PATH", read(path, &byte, 1));
    TRY("write of O_PATH", write(path, "x", 1));
    TRY("fchmod of O_PATH", fchmod(path, 0600));
    struct stat status;
    TRY("fstat of O_PATH", fstat(path, &status));
    TRY("dup of O_PATH", dup(path));
    TRY("mmap of O_PATH", mmap(NULL, PAGE, PROT_READ, MAP_PRIVATE, path, 0));
    char own[64];
    snprintf(own, sizeof own, "/proc/self/fd/%d", path);
    TRY("reopen through /proc", open(own, O_RDWR));
    int write_only = (int)MUST(open("file", O_WRONLY));
    TRY("read of O_WRONLY", read(write_only, &byte, 1));
    int read_only = (int)MUST(open("file", O_RDONLY));
    TRY("write of O_RDONLY", write(read_only, "x", 1));
    TRY("ftruncate of O_RDONLY", ftruncate(read_only, 1));
    TRY("read of a directory", read((int)MUST(open(".", O_RDONLY)), &byte, 1));
    int append = (int)MUST(open("file", O_RDWR | O_APPEND));
    MUST(lseek(append, 0, SEEK_SET));
    MUST(write(append, "abc", 3));
    FACT("append goes to the end", "%s", read_file("file"));
    FACT("offset after it", "%ld", (long)lseek(append, 0, SEEK_CUR));
    MUST(pwrite(append, "Z", 1, 0));
    FACT("pwrite too", "%s", read_file("file"));
    TRY("bad path", open(OPAQUE((char *)8), O_RDONLY));
    TRY("program that runs, for writing", open("/proc/self/exe", O_WRONLY));
    return done();
}
