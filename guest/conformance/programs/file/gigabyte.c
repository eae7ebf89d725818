//: group = "F"
//: summary = "a file of 1 GiB, mostly holes, read to its end; a file of 4 GiB and one of 1 TiB, sizes and offsets"
//: link = ["static"]
//: timeout = 120
#include "check.h"

int main(void) {
    enter_scratch();
    int fd = (int)MUST(open("file", O_RDWR | O_CREAT, 0600));
    const long size = 1L << 30;
    MUST(ftruncate(fd, size));
    for (long at = 0; at < size; at += 64 << 20) MUST(pwrite(fd, &at, sizeof at, at));
    static char buffer[1 << 20];
    long total = 0, marks = 0;
    uint64_t sum = 0;
    ssize_t got;
    while ((got = read(fd, buffer, sizeof buffer)) > 0) {
        long mark;
        memcpy(&mark, buffer, sizeof mark);
        marks += mark != 0 && mark == total;
        for (ssize_t i = 0; i < got; i += 8) sum += *(uint64_t *)(buffer + i);
        total += got;
    }
    FACT("read", "%ld, marks %ld, sum %lu", total, marks, (unsigned long)sum);
    MUST(ftruncate(fd, 4L << 30));
    MUST(pwrite(fd, "end", 3, (4L << 30) - 3));
    struct stat status;
    MUST(fstat(fd, &status));
    FACT("size", "%ld", (long)status.st_size);
    FACT("lseek", "%ld", (long)lseek(fd, -3, SEEK_END));
    FACT("read", "%zd %.3s", read(fd, buffer, 100), buffer);
    MUST(ftruncate(fd, 1L << 40));
    MUST(pwrite(fd, "far", 3, 1L << 39));
    char *map = mmap(NULL, PAGE, PROT_READ, MAP_PRIVATE, fd, 1L << 39);
    FACT("mapped", "%.3s", map);
    TRY("beyond what there may be", ftruncate(fd, INT64_MAX));
    TRY("pwrite at the last offset", pwrite(fd, "x", 1, INT64_MAX));
    return done();
}
