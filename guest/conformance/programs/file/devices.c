//: group = "B"
//: summary = "/dev/null, zero, full, urandom, fd, stdin, shm: reading, writing, seeking, stat, ioctl"
//: link = ["static", "dynamic"]
//: stdin = "from standard input"
#include "check.h"
#include <sys/ioctl.h>
#include <termios.h>

int main(void) {
    static char text[200000];
    int fd = (int)MUST(open("/dev/null", O_RDWR));
    FACT("null", "read %zd write %zd seek %ld", read(fd, text, 10), write(fd, text, 100000), (long)lseek(fd, 100, SEEK_SET));
    TRY("truncate", ftruncate(fd, 0));
    TRY("O_TRUNC|O_CREAT", open("/dev/null", O_WRONLY | O_CREAT | O_TRUNC, 0600));
    TRY("O_EXCL", open("/dev/null", O_WRONLY | O_CREAT | O_EXCL, 0600));
    TRY("O_DIRECTORY", open("/dev/null", O_DIRECTORY));
    TRY("ioctl", ioctl(fd, TCGETS, text));
    TRY("mmap", mmap(NULL, PAGE, PROT_READ, MAP_PRIVATE, fd, 0));
    fd = (int)MUST(open("/dev/zero", O_RDWR));
    memset(text, 1, sizeof text);
    FACT("zero", "read %zd write %zd", read(fd, text, 150000), write(fd, text, 5));
    size_t sum = 0;
    for (size_t i = 0; i < sizeof text; i++) sum += (size_t)text[i];
    FACT("sum", "%zu", sum);
    fd = (int)MUST(open("/dev/full", O_RDWR));
    memset(text, 1, 10);
    FACT("full", "read %zd", read(fd, text, 10));
    TRY("write", write(fd, "x", 1));
    FACT("zeroes", "%d", text[5]);
    FILE *stream = fopen("/dev/full", "w");
    fputs("x", stream);
    FACT("fclose", "%d %s", fclose(stream), errno_name(errno));

    static const char *const random[] = { "/dev/urandom", "/dev/random" };
    for (size_t k = 0; k < LEN(random); k++) {
        fd = (int)MUST(open(random[k], O_RDWR));
        memset(text, 0, 100000);
        FACT(random[k], "%zd", read(fd, text, 100000));
        int histogram[256] = { 0 }, low = 1 << 30, high = 0;
        for (int i = 0; i < 100000; i++) histogram[(unsigned char)text[i]]++;
        for (int i = 0; i < 256; i++) low = histogram[i] < low ? histogram[i] : low, high = histogram[i] > high ? histogram[i] : high;
        CHECK("looks even", low > 250 && high < 550);
        char other[16];
        MUST(read(fd, other, 16));
        CHECK("differs", memcmp(other, text, 16) != 0);
        FACT("write is welcome", "%zd", write(fd, "seed", 4));
    }

    FACT("/dev/stdin", "%zd", read((int)MUST(open("/dev/stdin", O_RDONLY)), text, 5));
    FACT("it", "%.5s", text);
    FACT("rest through fd 0", "%zd", read(0, text, 100));
    FACT("it", "%.14s", text);
    fd = (int)MUST(open("/dev/stdout", O_WRONLY));
    MUST(write(fd, "through /dev/stdout\n", 20));
    fd = (int)MUST(open("/dev/fd/1", O_WRONLY));
    MUST(write(fd, "through /dev/fd/1\n", 18));
    FACT("isatty", "%d %d %d", isatty(0), isatty(1), isatty(2));
    char link[100] = "";
    MUST(readlink("/dev/fd", link, sizeof link));
    FACT("/dev/fd", "%s", link);
    TRY("no such device", open("/dev/tty0", O_RDONLY));
    fd = (int)MUST(open("/dev/shm/x", O_RDWR | O_CREAT, 0600));
    FACT("/dev/shm", "%zd", write(fd, "x", 1));
    MUST(unlink("/dev/shm/x"));
    TRY("device of the program's own", mknod("/tmp/my-null", S_IFCHR | 0666, 0x103));
    fd = (int)TRY("open it", open("/tmp/my-null", O_RDWR));
    FACT("read", "%zd", read(fd, text, 10));

    // ioctl on what is no terminal, and unknown ones.
    struct winsize size;
    int p[2], value = 1;
    MUST(pipe(p));
    enter_scratch();
    int file = (int)MUST(open("file", O_RDWR | O_CREAT, 0600));
    TRY("TCGETS of a file", ioctl(file, TCGETS, text));
    TRY("TCGETS of a pipe", ioctl(p[0], TCGETS, text));
    TRY("TIOCGWINSZ of a pipe", ioctl(p[0], TIOCGWINSZ, &size));
    TRY("unknown of a pipe", ioctl(p[0], 0x12345678, text));
    TRY("unknown of a file", ioctl(file, 0x12345678, text));
    TRY("FIONREAD of a file", ioctl(file, FIONREAD, &value));
    value = 1;
    TRY("FIONBIO", ioctl(p[0], FIONBIO, &value));
    FACT("nonblocking", "%d", !!(fcntl(p[0], F_GETFL) & O_NONBLOCK));
    TRY("FIOCLEX", ioctl(p[0], FIOCLEX));
    FACT("close-on-exec", "%d", fcntl(p[0], F_GETFD));
    TRY("FIONCLEX", ioctl(p[0], FIONCLEX));
    TRY("closed", ioctl(99, TCGETS, text));
    TRY("TIOCSCTTY of a pipe", ioctl(p[0], TIOCSCTTY, 0));
    TRY("directory", ioctl((int)MUST(open(".", O_RDONLY)), TCGETS, text));
    return done();
}
