//: group = "B"
//: summary = "path names: ENAMETOOLONG, dots, slashes, odd bytes, the *at calls and their directory descriptors"
//: link = ["static"]
#include "check.h"

int main(void) {
    enter_scratch();
    static char name[8000];
    memset(name, 'n', 255);
    TRY("255 bytes", open(name, O_CREAT | O_WRONLY, 0600));
    name[255] = 'n';
    TRY("256 bytes, create", open(name, O_CREAT | O_WRONLY, 0600));
    TRY("256 bytes, open", open(name, O_RDONLY));
    TRY("256 bytes, mkdir", mkdir(name, 0700));
    TRY("256 bytes, unlink", unlink(name));
    TRY("256 bytes in a missing directory", access(strcat(strcpy(name + 4000, "missing/"), name), F_OK));
    for (int i = 0; i < 2047; i++) name[2 * i] = '.', name[2 * i + 1] = '/';
    name[4094] = '.', name[4095] = 0;
    TRY("path of 4095 bytes", access(name, F_OK));
    name[4095] = '/', name[4096] = 0;
    TRY("path of 4096 bytes", access(name, F_OK));
    memset(name, '/', 4000), name[4000] = 0;
    TRY("4000 slashes", access(name, F_OK));
    static char target[5000];
    memset(target, 't', 4095);
    TRY("symlink of 4095 bytes", symlink(target, "long-link"));
    target[4095] = 't';
    TRY("symlink of 4096 bytes", symlink(target, "longer-link"));

    write_file("file", "content");
    MUST(mkdir("directory", 0755)), MUST(mkdir("directory/sub", 0755));
    static const char *const paths[] = { "./file", ".//file", "directory/../file", "directory/./../file", "directory/sub/../../file", "file/.", "file/..",
        "file/", "directory/", "directory/.", "nothing/..", "nothing/../file", "./.", "..//..//tmp", "/..", "/../etc", "//etc//passwd", "/./etc/./passwd", "/etc/passwd/" };
    for (size_t i = 0; i < LEN(paths); i++) TRY(paths[i], access(paths[i], F_OK));
    static const char *const odd[] = { " ", "a b", "\n", "\1\377", "ä", "日本", "-", "*", "..." , ". .", "\\", "a\tb" };
    int made = 0, found = 0;
    for (size_t i = 0; i < LEN(odd); i++) {
        made += close(open(odd[i], O_CREAT | O_EXCL | O_WRONLY, 0600)) == 0;
        found += access(odd[i], F_OK) == 0;
    }
    FACT("odd names made, found", "%d %d", made, found);
    TRY("case matters", access("FILE", F_OK));

    int directory = (int)MUST(open("directory", O_RDONLY | O_DIRECTORY)), file = (int)MUST(open("file", O_RDONLY));
    int fd = (int)TRY("openat", openat(directory, "inside", O_CREAT | O_RDWR, 0600));
    FACT("place", "%d", access("directory/inside", F_OK));
    TRY("openat, parent", openat(directory, "../file", O_RDONLY));
    TRY("openat, absolute", openat(99, "/etc/passwd", O_RDONLY));
    TRY("openat in a closed one", openat(99, "x", O_RDONLY));
    TRY("openat in a file", openat(file, "x", O_RDONLY));
    TRY("openat of dot", openat(directory, ".", O_RDONLY));
    TRY("mkdirat", mkdirat(directory, "new", 0755));
    TRY("symlinkat", symlinkat("inside", directory, "soft"));
    char text[20] = "";
    FACT("readlinkat", "%zd %s", readlinkat(directory, "soft", text, sizeof text), text);
    TRY("linkat", linkat(directory, "inside", AT_FDCWD, "outside", 0));
    TRY("linkat, empty path", linkat(fd, "", AT_FDCWD, "by-descriptor", AT_EMPTY_PATH));
    TRY("renameat", renameat(AT_FDCWD, "outside", directory, "moved"));
    TRY("faccessat", faccessat(directory, "moved", R_OK, 0));
    TRY("fchmodat", fchmodat(directory, "moved", 0640, 0));
    TRY("fchownat", fchownat(directory, "moved", 1, 1, 0));
    TRY("mkfifoat", mkfifoat(directory, "fifo", 0600));
    TRY("unlinkat", unlinkat(directory, "moved", 0));
    TRY("unlinkat of a directory as a file", unlinkat(directory, "new", 0));
    TRY("unlinkat, AT_REMOVEDIR", unlinkat(directory, "new", AT_REMOVEDIR));
    MUST(rename("directory", "elsewhere"));
    TRY("the descriptor follows a rename", openat(directory, "inside", O_RDONLY));
    MUST(fchdir(directory));
    FACT("getcwd follows too", "%s", strrchr(getcwd(name, sizeof name), '/'));
    TRY("openat2", syscall(SYS_openat2, AT_FDCWD, "inside", &(struct { uint64_t flags, mode, resolve; }){ O_RDONLY, 0, 0 }, 24));
    TRY("openat2, beneath, outside", syscall(SYS_openat2, AT_FDCWD, "../file", &(struct { uint64_t flags, mode, resolve; }){ O_RDONLY, 0, 8 }, 24));
    TRY("openat2, no symlinks", syscall(SYS_openat2, AT_FDCWD, "soft", &(struct { uint64_t flags, mode, resolve; }){ O_RDONLY, 0, 4 }, 24));
    return done();
}
