//: group = "B"
//: summary = "private file mappings: content, copy-on-write, tail of the last page, SIGBUS beyond the end"
//: link = ["static", "dynamic"]
#include "check.h"
#include <setjmp.h>

static sigjmp_buf back;
static siginfo_t info;
static void on_fault(int number, siginfo_t *from, void *context) {
    info = *from;
    siglongjmp(back, number);
}

// Reads a byte; prints what came of it.
static void peek(const char *name, volatile char *at) {
    int number = sigsetjmp(back, 1);
    if (number == 0) FACT(name, "%d", *at);
    else FACT(name, "%s, code %d, si_addr %s", signal_name(number), info.si_code, info.si_addr == at ? "right" : "wrong");
}

int main(void) {
    enter_scratch();
    handle_info(SIGBUS, on_fault, 0);
    handle_info(SIGSEGV, on_fault, 0);
    char text[3 * 4096 + 100];
    for (size_t i = 0; i < sizeof text; i++) text[i] = (char)('a' + i % 26);
    int fd = (int)MUST(open("file", O_RDWR | O_CREAT, 0600));
    MUST(write(fd, text, sizeof text));

    char *map = mmap(NULL, 6 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0);
    CHECK("content", memcmp(map, text, sizeof text) == 0);
    size_t tail = 0;
    for (size_t i = sizeof text; i < 4 * PAGE; i++) tail += (unsigned char)map[i];
    FACT("tail of the last page", "%zu", tail);
    peek("first page beyond the end", map + 4 * PAGE);
    peek("second page beyond the end", map + 5 * PAGE + 17);

    map[10] = '!';
    char byte;
    MUST(pread(fd, &byte, 1, 10));
    FACT("file after a write to the private mapping", "%c", byte);
    // A private page that was never touched shows later writes to the file or not: unspecified; one that was written does not.
    MUST(pwrite(fd, "X", 1, 10));
    FACT("written private page after a write to the file", "%c", map[10]);
    CHILD("child sees and writes its own") {
        if (map[10] != '!') _exit(1);
        map[10] = '?';
    }
    FACT("parent's page", "%c", map[10]);

    char *middle = mmap(NULL, PAGE, PROT_READ, MAP_PRIVATE, fd, 2 * (off_t)PAGE);
    CHECK("offset", memcmp(middle, text + 2 * PAGE, PAGE) == 0);
    MUST(close(fd));
    CHECK("mapping outlives the descriptor", middle[5] == text[2 * PAGE + 5]);
    MUST(unlink("file"));
    CHECK("mapping outlives the name", middle[6] == text[2 * PAGE + 6]);

    // A file of the image, read-only; the mapping may still be written privately.
    int exe = (int)MUST(open("/proc/self/exe", O_RDONLY));
    char *image = mmap(NULL, 2 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE, exe, 0);
    CHECK("ELF magic", memcmp(image, "\177ELF", 4) == 0);
    image[0] = 'E';
    char magic[4];
    MUST(pread(exe, magic, 4, 0));
    CHECK("file unchanged", memcmp(magic, "\177ELF", 4) == 0);
    TRY("MAP_SHARED, writable, of a read-only descriptor", mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, exe, 0));
    int write_only = (int)MUST(open("w", O_WRONLY | O_CREAT, 0600));
    TRY("mapping a write-only descriptor", mmap(NULL, PAGE, PROT_READ, MAP_PRIVATE, write_only, 0));
    TRY("mapping a directory", mmap(NULL, PAGE, PROT_READ, MAP_PRIVATE, open(".", O_RDONLY), 0));
    int empty = (int)MUST(open("empty", O_RDWR | O_CREAT, 0600));
    char *nothing = mmap(NULL, PAGE, PROT_READ, MAP_PRIVATE, empty, 0);
    CHECK("mapping an empty file", nothing != MAP_FAILED);
    peek("reading it", nothing);
    MUST(ftruncate(empty, 10));
    peek("after it grew", nothing);
    MUST(ftruncate(empty, 0));
    peek("after it shrank", nothing);
    char *zero = mmap(NULL, 2 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE, open("/dev/zero", O_RDWR), 0);
    CHECK("mapping /dev/zero", zero != MAP_FAILED && zero[PAGE] == 0 && (zero[PAGE] = 1));
    // read(2) into a mapping that was never touched.
    char *fresh = map_anonymous(4 * PAGE);
    FACT("read into fresh memory", "%zd", pread(exe, fresh + 100, 2 * PAGE, 0));
    CHECK("what was read", memcmp(fresh + 100, "\177ELF", 4) == 0);
    return done();
}
