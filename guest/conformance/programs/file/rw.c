//: group = "B"
//: summary = "read, write, lseek, pread, pwrite, readv, writev, truncate, holes, SEEK_DATA and SEEK_HOLE, fallocate, sendfile, copy_file_range"
//: link = ["static", "dynamic"]
#include "check.h"
#include <sys/sendfile.h>
#include <sys/uio.h>

static char text[300000];

static long size_of(int fd) {
    struct stat status;
    MUST(fstat(fd, &status));
    return status.st_size;
}

int main(void) {
    enter_scratch();
    int fd = (int)MUST(open("file", O_RDWR | O_CREAT, 0600));
    FACT("write", "%zd", write(fd, "hello world", 11));
    FACT("offset", "%ld", (long)lseek(fd, 0, SEEK_CUR));
    FACT("read at the end", "%zd", read(fd, text, 10));
    FACT("SEEK_SET, CUR, END", "%ld %ld %ld", (long)lseek(fd, 3, SEEK_SET), (long)lseek(fd, 2, SEEK_CUR), (long)lseek(fd, -1, SEEK_END));
    TRY("before the start", lseek(fd, -1, SEEK_SET));
    TRY("before the start, from the end", lseek(fd, -12, SEEK_END));
    TRY("bad whence", lseek(fd, 0, 9));
    FACT("far beyond the end", "%ld", (long)lseek(fd, 1L << 40, SEEK_SET));
    FACT("read there", "%zd", read(fd, text, 10));
    FACT("size is the same", "%ld", size_of(fd));
    FACT("pread", "%zd %.5s", pread(fd, text, 5, 6), text);
    FACT("pread across the end", "%zd", pread(fd, text, 100, 9));
    TRY("pread, negative", pread(fd, text, 1, -1));
    FACT("pwrite", "%zd", pwrite(fd, "W", 1, 6));
    FACT("offset untouched", "%d", (long)lseek(fd, 0, SEEK_CUR) == 1L << 40);
    FACT("file", "%s", read_file("file"));

    MUST(lseek(fd, 0, SEEK_SET));
    char a[6] = "", b[6] = "", c[10] = "";
    struct iovec vector[] = { { a, 5 }, { NULL, 0 }, { b, 1 }, { c, 9 } };
    FACT("readv", "%zd", readv(fd, vector, 4));
    FACT("parts", "[%s] [%s] [%s]", a, b, c);
    struct iovec out[] = { { "one ", 4 }, { "", 0 }, { "two", 3 } };
    FACT("writev", "%zd", writev(fd, out, 3));
    FACT("preadv", "%zd", preadv(fd, vector, 1, 11));
    FACT("it", "%s", a);
    FACT("pwritev", "%zd", pwritev(fd, out + 2, 1, 0));
    FACT("file", "%s", read_file("file"));
    TRY("readv, negative count", readv(fd, vector, -1));
    TRY("readv, too many", readv(fd, vector, 1025));
    vector[0].iov_len = (size_t)-1;
    TRY("readv, absurd length", readv(fd, vector, 2));
    FACT("readv of nothing", "%zd", readv(fd, vector, 0));
    TRY("read to a bad address", pread(fd, OPAQUE((char *)8), 1, 0));
    TRY("write from a bad address", write(fd, OPAQUE((char *)8), 1));
    FACT("size", "%ld", size_of(fd));

    TRY("truncate to less", ftruncate(fd, 5));
    TRY("truncate to more", ftruncate(fd, 10));
    MUST(pread(fd, text, 10, 0));
    FACT("bytes beyond", "%d %d %d", text[4], text[5], text[9]);
    TRY("truncate, negative", ftruncate(fd, -1));
    TRY("truncate by name", truncate("file", 3));
    TRY("truncate of nothing", truncate("missing", 3));
    TRY("truncate of a directory", truncate(".", 3));
    FACT("size", "%ld", size_of(fd));

    // A file with holes: 1 MiB, data in the middle.
    int holes = (int)MUST(open("holes", O_RDWR | O_CREAT, 0600));
    MUST(ftruncate(holes, 1 << 20));
    MUST(pwrite(holes, "data", 4, 512 << 10));
    struct stat status;
    MUST(fstat(holes, &status));
    CHECK("holes take no room", status.st_blocks * 512 < 100000 && status.st_size == 1 << 20);
    FACT("SEEK_DATA from 0", "%ld", (long)lseek(holes, 0, SEEK_DATA));
    FACT("SEEK_HOLE from 0", "%ld", (long)lseek(holes, 0, SEEK_HOLE));
    FACT("SEEK_HOLE from the data", "%ld", (long)lseek(holes, 512 << 10, SEEK_HOLE));
    TRY("SEEK_DATA after the data", lseek(holes, 600 << 10, SEEK_DATA));
    TRY("SEEK_DATA beyond the end", lseek(holes, 2 << 20, SEEK_DATA));
    FACT("SEEK_HOLE in the last hole", "%ld", (long)lseek(holes, 600 << 10, SEEK_HOLE));
    size_t sum = 0;
    for (long at = 0; at < 1 << 20; at += (long)sizeof text) {
        ssize_t got = pread(holes, text, sizeof text, at);
        for (ssize_t i = 0; i < got; i++) sum += (unsigned char)text[i];
    }
    FACT("sum of all bytes", "%zu", sum);

    TRY("fallocate", fallocate(fd, 0, 0, 8192));
    FACT("size", "%ld", size_of(fd));
    TRY("fallocate, keep size", fallocate(fd, FALLOC_FL_KEEP_SIZE, 0, 100000));
    FACT("size", "%ld", size_of(fd));
    memset(text, 'x', 12288);
    MUST(pwrite(fd, text, 12288, 0));
    TRY("punch a hole", fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 4096, 4096));
    MUST(pread(fd, text, 12288, 0));
    FACT("around it", "%d %d %d %d", text[4095], text[4096], text[8191], text[8192]);
    FACT("posix_fallocate", "%d", posix_fallocate(fd, 12000, 1000));
    FACT("size", "%ld", size_of(fd));
    TRY("fallocate, length 0", fallocate(fd, 0, 0, 0));
    TRY("posix_fadvise", posix_fadvise(fd, 0, 0, POSIX_FADV_SEQUENTIAL));
    TRY("readahead", readahead(fd, 0, 4096));
    TRY("fsync", fsync(fd));
    TRY("fdatasync", fdatasync(fd));
    TRY("sync_file_range", sync_file_range(fd, 0, 0, 0));
    TRY("syncfs", syncfs(fd));

    memset(text, 'y', sizeof text);
    int source = (int)MUST(open("source", O_RDWR | O_CREAT, 0600)), target = (int)MUST(open("target", O_RDWR | O_CREAT, 0600));
    MUST(write(source, text, sizeof text) == (ssize_t)sizeof text ? 0 : -1);
    off_t offset = 100000;
    FACT("sendfile with an offset", "%zd", sendfile(target, source, &offset, 50000));
    FACT("offset", "%ld %ld", (long)offset, size_of(target));
    MUST(lseek(source, 290000, SEEK_SET));
    FACT("sendfile to the end", "%zd", sendfile(target, source, NULL, 50000));
    int p[2];
    MUST(pipe(p));
    MUST(lseek(source, 0, SEEK_SET));
    FACT("sendfile to a pipe", "%zd", sendfile(p[1], source, NULL, 10000));
    FACT("splice from a pipe", "%zd", splice(p[0], NULL, target, NULL, 10000, 0));
    FACT("copy_file_range", "%zd", copy_file_range(source, &(off_t){ 0 }, target, &(off_t){ 0 }, 1000, 0));
    FACT("size", "%ld", size_of(target));
    TRY("copy_file_range, flags", copy_file_range(source, NULL, target, NULL, 10, 1));
    TRY("sendfile to a read-only descriptor", sendfile((int)MUST(open("target", O_RDONLY)), source, NULL, 10));

    // Many small writes, many big ones, read back.
    int big = (int)MUST(open("big", O_RDWR | O_CREAT, 0600));
    for (int i = 0; i < 20000; i++) MUST(write(big, &i, sizeof i));
    for (int i = 0; i < 20; i++) MUST(write(big, text, sizeof text));
    unsigned wrong = 0;
    for (int i = 0; i < 20000; i += 7) {
        int value = -1;
        MUST(pread(big, &value, sizeof value, i * (long)sizeof value));
        wrong += value != i;
    }
    FACT("size, wrong", "%ld %u", size_of(big), wrong);
    return done();
}
