//: group = "B"
//: summary = "MAP_SHARED anonymous memory across fork; /dev/shm and file mappings between processes"
//: link = ["static", "dynamic"]
#include "check.h"

int main(void) {
    int *shared = mmap(NULL, 4 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    int *private = map_anonymous(PAGE);
    shared[0] = 1, private[0] = 1;
    CHILD("child writes") {
        shared[0] += 10, private[0] += 10;
        shared[3 * 1024] = 77;  // a page nobody has touched before
    }
    FACT("shared, private", "%d %d", shared[0], private[0]);
    FACT("page first touched by the child", "%d", shared[3 * 1024]);

    // Both increment without a lock being lost: atomic operations work across address spaces.
    shared[1] = 0;
    for (int i = 0; i < 4; i++)
        if (MUST(fork()) == 0) {
            for (int k = 0; k < 10000; k++) __atomic_add_fetch(&shared[1], 1, __ATOMIC_SEQ_CST);
            _exit(0);
        }
    while (wait(NULL) > 0) {}
    FACT("four children counted", "%d", shared[1]);
    CHILD("grandchild shares too") {
        if (MUST(fork()) == 0) {
            shared[2] = 5;
            _exit(0);
        }
        wait(NULL);
    }
    FACT("from the grandchild", "%d", shared[2]);

    int fd = (int)MUST(open("/dev/shm/conformance", O_RDWR | O_CREAT | O_EXCL, 0600));
    MUST(ftruncate(fd, 2 * PAGE));
    char *first = mmap(NULL, 2 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    char *second = mmap(NULL, PAGE, PROT_READ, MAP_SHARED, fd, (off_t)PAGE);
    strcpy(first + PAGE, "through the other mapping");
    FACT("two mappings", "%s", second);
    char text[64];
    FACT("pread", "%zd", pread(fd, text, 25, (off_t)PAGE));
    FACT("what a mapping wrote", "%.25s", text);
    MUST(pwrite(fd, "written", 8, 0));
    FACT("what pwrite wrote", "%s", first);
    CHILD("another process maps it by name") {
        int own = (int)MUST(open("/dev/shm/conformance", O_RDWR));
        char *map = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, own, 0);
        if (strcmp(map, "written") != 0) _exit(1);
        strcpy(map, "by the child");
    }
    FACT("then", "%s", first);
    TRY("msync", msync(first, PAGE, MS_SYNC));
    MUST(unlink("/dev/shm/conformance"));
    strcpy(first, "still there");
    FACT("after unlink", "%s", first);
    MUST(pread(fd, text, 12, 0));
    FACT("the descriptor sees it", "%s", text);

    enter_scratch();
    fd = (int)MUST(open("file", O_RDWR | O_CREAT, 0600));
    MUST(ftruncate(fd, 100));
    char *file = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    strcpy(file, "to the file");
    file[200] = 'x';  // beyond the end: lost
    MUST(munmap(file, PAGE));
    FACT("file", "%s", read_file("file"));
    struct stat status;
    MUST(fstat(fd, &status));
    FACT("size", "%ld", (long)status.st_size);
    CHILD("MAP_SHARED beyond the end") {
        char *map = mmap(NULL, 2 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
        map[PAGE] = 1;
    }
    return done();
}
