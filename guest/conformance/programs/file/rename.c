//: group = "B"
//: summary = "rename: files, directories, links and their mixtures; RENAME_NOREPLACE and EXCHANGE; files of the image"
//: link = ["static"]
#include "check.h"
#include <ftw.h>

static void build(void) {
    write_file("file", "file"), write_file("other", "other");
    mkdir("empty", 0755), mkdir("full", 0755), mkdir("full/sub", 0755);
    write_file("full/inner", "inner");
    symlink("file", "link"), symlink("nowhere", "dangling");
}

static int remove_one(const char *path, const struct stat *status, int kind, struct FTW *at) { return at->level == 0 ? 0 : remove(path); }
static int remove_all(void) { return nftw(".", remove_one, 16, FTW_DEPTH | FTW_PHYS); }

int main(void) {
    enter_scratch();
    static const char *const names[] = { "file", "other", "missing", "empty", "full", "link", "dangling", "full/inner", "full/sub", "file/x", ".", "empty/", "missing/", "file/" };
    for (size_t from = 0; from < LEN(names); from++)
        for (size_t to = 0; to < LEN(names); to++) {
            build();
            char name[100];
            snprintf(name, sizeof name, "%s -> %s", names[from], names[to]);
            TRY(name, rename(names[from], names[to]));
            MUST(remove_all());
        }

    build();
    int fd = (int)MUST(open("other", O_RDONLY));
    MUST(rename("file", "other"));
    FACT("content moved", "%s", read_file("other"));
    char text[10] = "";
    MUST(read(fd, text, 5));
    FACT("replaced file stays for who has it open", "%s", text);
    struct stat status;
    MUST(fstat(fd, &status));
    FACT("its links", "%ld", (long)status.st_nlink);
    TRY("old name", access("file", F_OK));
    MUST(rename("full", "moved"));
    FACT("in the moved directory", "%s", read_file("moved/inner"));
    TRY("into itself", rename("moved", "moved/sub/x"));
    MUST(rename("moved/sub", "sub"));
    TRY("directory out of its parent", access("sub/..", F_OK));
    MUST(link("other", "twin"));
    TRY("onto another name of itself", rename("other", "twin"));
    FACT("both names stay", "%d %d", access("other", F_OK), access("twin", F_OK));

    TRY("NOREPLACE onto an existing", renameat2(AT_FDCWD, "other", AT_FDCWD, "link", RENAME_NOREPLACE));
    TRY("NOREPLACE onto nothing", renameat2(AT_FDCWD, "other", AT_FDCWD, "new", RENAME_NOREPLACE));
    write_file("left", "left"), mkdir("right", 0755);
    TRY("EXCHANGE", renameat2(AT_FDCWD, "left", AT_FDCWD, "right", RENAME_EXCHANGE));
    FACT("file is right", "%s", read_file("right"));
    MUST(stat("left", &status));
    FACT("directory is left", "%d", S_ISDIR(status.st_mode));
    TRY("EXCHANGE with nothing", renameat2(AT_FDCWD, "left", AT_FDCWD, "nothing", RENAME_EXCHANGE));
    TRY("EXCHANGE and NOREPLACE", renameat2(AT_FDCWD, "left", AT_FDCWD, "x", RENAME_EXCHANGE | RENAME_NOREPLACE));
    TRY("unknown flag", renameat2(AT_FDCWD, "left", AT_FDCWD, "x", 64));

    // Files of the image: they are replaced, moved and removed like any other.
    FACT("image file renamed", "%d", rename("/etc/passwd", "/etc/passwd.moved"));
    TRY("old name", access("/etc/passwd", F_OK));
    CHECK("content", strncmp(read_file("/etc/passwd.moved"), "root:", 5) == 0);
    write_file("replacement", "replaced\n");
    FACT("replaced by a rename", "%d", rename("replacement", "/etc/hosts"));
    FACT("content", "%s", read_file("/etc/hosts"));
    FACT("and back", "%d", rename("/etc/passwd.moved", "/etc/passwd"));
    CHECK("content", strncmp(read_file("/etc/passwd"), "root:", 5) == 0);
    FACT("image file unlinked", "%d", unlink("/etc/hosts"));
    TRY("gone", access("/etc/hosts", F_OK));
    write_file("/etc/hosts", "made anew\n");
    FACT("made anew", "%s", read_file("/etc/hosts"));
    return done();
}
