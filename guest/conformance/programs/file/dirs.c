//: group = "B"
//: summary = "mkdir, rmdir, chdir, getcwd, getdents with 5,000 entries, seeking and changing while reading; deleted working directory"
//: link = ["static", "dynamic"]
#include "check.h"
#include <dirent.h>

static int count(const char *path) {
    DIR *directory = opendir(path);
    if (!directory) return -errno;
    int n = 0;
    while (readdir(directory)) n++;
    closedir(directory);
    return n;
}

int main(void) {
    enter_scratch();
    TRY("mkdir", mkdir("a", 0755));
    TRY("again", mkdir("a", 0755));
    TRY("with a slash", mkdir("b/", 0755));
    TRY("in a missing one", mkdir("x/y", 0755));
    write_file("file", "");
    TRY("onto a file", mkdir("file", 0755));
    TRY("in a file", mkdir("file/x", 0755));
    TRY("dot", mkdir(".", 0755));
    TRY("empty name", mkdir("", 0755));
    TRY("root", mkdir("/", 0755));
    struct stat status;
    umask(077);
    MUST(mkdir("masked", 01777));
    MUST(stat("masked", &status));
    FACT("mode under umask", "%o", status.st_mode & 07777);
    umask(022);
    MUST(mkdir("group", 0755)), MUST(chmod("group", 02755)), MUST(mkdir("group/sub", 0755));
    MUST(stat("group/sub", &status));
    FACT("set-group-id is inherited", "%o", status.st_mode & 07777);
    MUST(mkdir("a/sub", 0755));
    TRY("rmdir of a full one", rmdir("a"));
    TRY("rmdir", rmdir("a/sub"));
    TRY("rmdir of nothing", rmdir("a/sub"));
    TRY("rmdir of a file", rmdir("file"));
    TRY("rmdir of dot", rmdir("."));
    TRY("rmdir of dot dot", rmdir("a/.."));
    TRY("rmdir of a/.", rmdir("a/."));
    TRY("rmdir of the root", rmdir("/"));
    TRY("rmdir of /proc", rmdir("/proc"));
    TRY("rmdir with a slash", rmdir("b/"));

    MUST(mkdir("many", 0755));
    char name[64];
    for (int i = 0; i < 5000; i++) {
        snprintf(name, sizeof name, "many/a-file-with-a-rather-long-name-%d", i);
        MUST(close((int)MUST(open(name, O_CREAT | O_WRONLY, 0600))));
    }
    FACT("entries", "%d", count("many"));
    DIR *directory = opendir("many");
    static bool seen[5000];
    int twice = 0, odd = 0;
    long middle = 0;
    char at_middle[256] = "";
    struct dirent *entry;
    for (int n = 0; (entry = readdir(directory)); n++) {
        int i = -1;
        if (sscanf(entry->d_name, "a-file-with-a-rather-long-name-%d", &i) == 1 && i >= 0 && i < 5000) twice += seen[i], seen[i] = true, odd += entry->d_type != DT_REG;
        else odd += entry->d_type != DT_DIR;
        if (n == 2500) middle = telldir(directory);
        if (n == 2501) strcpy(at_middle, entry->d_name);
    }
    FACT("twice, wrong type", "%d %d", twice, odd);
    seekdir(directory, middle);
    entry = readdir(directory);
    CHECK("seekdir", entry && strcmp(entry->d_name, at_middle) == 0);
    rewinddir(directory);
    int removed = 0;
    while ((entry = readdir(directory)))
        if (entry->d_name[0] == 'a') removed += unlinkat(dirfd(directory), entry->d_name, 0) == 0;
    FACT("removed while reading", "%d", removed);
    closedir(directory);
    FACT("left", "%d", count("many"));
    TRY("rmdir", rmdir("many"));
    FACT("opendir of a file", "%s", errno_name(-count("file")));
    char small[10];
    TRY("getdents, too small", syscall(SYS_getdents64, (int)MUST(open("/usr", O_RDONLY)), small, sizeof small));
    TRY("getdents of a file", syscall(SYS_getdents64, (int)MUST(open("file", O_RDONLY)), name, sizeof name));
    CHECK("root has the usual", count("/") > 10);
    int in_lib = count("/usr/lib");
    MUST(mkdir("/usr/lib/new-directory", 0755));
    FACT("directory of the image, one more", "%d", count("/usr/lib") - in_lib);
    MUST(rmdir("/usr/lib/new-directory"));

    char path[300], expected[300];
    MUST(mkdir("deep", 0755)), MUST(mkdir("deep/er", 0755)), MUST(symlink("deep/er", "short"));
    MUST(getcwd(expected, sizeof expected) ? 0 : -1);
    strcat(expected, "/deep/er");
    TRY("chdir through a link", chdir("short"));
    CHECK("getcwd", getcwd(path, sizeof path) && strcmp(path, expected) == 0);
    FACT("getcwd too small", "%s", getcwd(path, 5) ? "?" : errno_name(errno));
    int here = (int)MUST(open(".", O_RDONLY | O_DIRECTORY));
    TRY("chdir up", chdir("../.."));
    TRY("chdir to a file", chdir("file"));
    TRY("chdir to nothing", chdir("nothing"));
    TRY("chdir to the empty name", chdir(""));
    TRY("fchdir", fchdir(here));
    CHECK("getcwd", getcwd(path, sizeof path) && strcmp(path, expected) == 0);
    TRY("fchdir to a file", fchdir((int)MUST(open("../../file", O_RDONLY))));
    CHILD("a child's chdir is its own") _exit(chdir("/") != 0);
    CHECK("getcwd", getcwd(path, sizeof path) && strcmp(path, expected) == 0);

    TRY("remove the working directory", rmdir("../er"));
    FACT("getcwd", "%s", getcwd(path, sizeof path) ? path : errno_name(errno));
    TRY("make a file in it", open("file", O_CREAT | O_WRONLY, 0600));
    TRY("make a directory in it", mkdir("sub", 0755));
    TRY("open dot", open(".", O_RDONLY));
    FACT("entries", "%d", count("."));
    TRY("dot dot", access("..", F_OK));
    MUST(readlink("/proc/self/cwd", path, sizeof path));
    TRY("chdir away", chdir("/"));
    FACT("getcwd", "%s", getcwd(path, sizeof path));
    TRY("chdir above the root", chdir("../../.."));
    FACT("getcwd", "%s", getcwd(path, sizeof path));
    CHILD("chroot") {
        MUST(mkdir("/tmp/new-root", 0755)), MUST(mkdir("/tmp/new-root/inside", 0755));
        if (chroot("/tmp/new-root") != 0 || chdir("/") != 0) _exit(1);
        _exit(access("/inside", F_OK) != 0 || access("/etc", F_OK) == 0 || access("/../..", F_OK) != 0);
    }
    return done();
}
