//: group = "F"
//: summary = "O_TMPFILE, memfd with seals, shm_open, mkstemp, tmpfile"
//: link = ["dynamic"]
#include "check.h"

int main(void) {
    enter_scratch();
    int fd = (int)TRY("O_TMPFILE", open(".", O_TMPFILE | O_RDWR, 0640));
    FACT("write", "%zd", write(fd, "anonymous", 9));
    struct stat s;
    MUST(fstat(fd, &s));
    FACT("links, mode, size", "%ld %o %ld", (long)s.st_nlink, s.st_mode & 07777, (long)s.st_size);
    char own[64];
    snprintf(own, sizeof own, "/proc/self/fd/%d", fd);
    TRY("given a name", linkat(AT_FDCWD, own, AT_FDCWD, "named", AT_SYMLINK_FOLLOW));
    FACT("content", "%s", read_file("named"));
    fd = (int)TRY("O_TMPFILE|O_EXCL", open(".", O_TMPFILE | O_RDWR | O_EXCL, 0600));
    snprintf(own, sizeof own, "/proc/self/fd/%d", fd);
    TRY("may not be given a name", linkat(AT_FDCWD, own, AT_FDCWD, "other", AT_SYMLINK_FOLLOW));
    TRY("read-only", open(".", O_TMPFILE | O_RDONLY, 0600));
    TRY("on a file", open("named", O_TMPFILE | O_RDWR, 0600));

    int memory = (int)TRY("memfd_create", memfd_create("name", MFD_ALLOW_SEALING | MFD_CLOEXEC));
    MUST(ftruncate(memory, 8192));
    char *map = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_SHARED, memory, 0);
    strcpy(map, "in memory");
    char text[64] = "";
    MUST(pread(memory, text, 9, 0));
    FACT("pread", "%s", text);
    snprintf(own, sizeof own, "/proc/self/fd/%d", memory);
    MUST(readlink(own, text, sizeof text));
    FACT("its name", "%s", text);
    FACT("seals", "%d", fcntl(memory, F_GET_SEALS));
    TRY("seal against shrinking", fcntl(memory, F_ADD_SEALS, F_SEAL_SHRINK));
    TRY("shrink", ftruncate(memory, 10));
    TRY("grow", ftruncate(memory, 10000));
    TRY("seal against writing, while mapped", fcntl(memory, F_ADD_SEALS, F_SEAL_WRITE));
    MUST(munmap(map, 8192));
    TRY("seal against writing", fcntl(memory, F_ADD_SEALS, F_SEAL_WRITE | F_SEAL_GROW));
    TRY("write", pwrite(memory, "x", 1, 0));
    TRY("map writable", mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_SHARED, memory, 0));
    TRY("map read-only", mmap(NULL, 8192, PROT_READ, MAP_SHARED, memory, 0));
    TRY("seal the seals", fcntl(memory, F_ADD_SEALS, F_SEAL_SEAL));
    TRY("more seals", fcntl(memory, F_ADD_SEALS, F_SEAL_GROW));
    memory = (int)MUST(memfd_create("plain", 0));
    TRY("without MFD_ALLOW_SEALING", fcntl(memory, F_ADD_SEALS, F_SEAL_WRITE));
    TRY("bad flags", memfd_create("x", 0x1000));

    int shared = (int)TRY("shm_open", shm_open("/conformance", O_RDWR | O_CREAT | O_EXCL, 0600));
    MUST(ftruncate(shared, 4096));
    FACT("in /dev/shm", "%d", access("/dev/shm/conformance", F_OK));
    TRY("shm_open again", shm_open("/conformance", O_RDWR | O_CREAT | O_EXCL, 0600));
    TRY("shm_unlink", shm_unlink("/conformance"));
    TRY("shm_open, gone", shm_open("/conformance", O_RDWR, 0600));
    char name[] = "fileXXXXXX";
    int temporary = (int)TRY("mkstemp", mkstemp(name));
    CHECK("its name", strcmp(name, "fileXXXXXX") != 0 && access(name, F_OK) == 0);
    MUST(fstat(temporary, &s));
    FACT("mode", "%o", s.st_mode & 07777);
    FILE *stream = tmpfile();
    CHECK("tmpfile", stream && fputs("x", stream) >= 0 && fclose(stream) == 0);
    return done();
}
