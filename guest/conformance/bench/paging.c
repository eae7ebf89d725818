//: group = "D"
//: summary = "demand paging: first touch of anonymous memory, of a file of the image, copy-on-write after fork, per page"
#include "bench.h"
#include <fcntl.h>

enum { PAGE = 4096, PAGES = 256, ROUNDS = 100 };
static double samples[ROUNDS];

static void touch(volatile char *at, int pages, int write) {
    for (int i = 0; i < pages; i++) {
        if (write) at[(size_t)i * PAGE] = 1;
        else (void)at[(size_t)i * PAGE];
    }
}

static void anonymous(const char *name, int pages, int advice) {
    for (int round = 0; round < ROUNDS; round++) {
        char *at = mmap(NULL, (size_t)pages * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        madvise(at, (size_t)pages * PAGE, advice);
        double start = now_ns();
        touch(at, pages, 1);
        samples[round] = (now_ns() - start) / pages;
        munmap(at, (size_t)pages * PAGE);
    }
    report(name, samples, ROUNDS);
}

int main(void) {
    anonymous("page_fault_anonymous", PAGES, MADV_NOHUGEPAGE);
    anonymous("page_fault_anonymous_16_mib", 4096, MADV_HUGEPAGE);

    int fd = open("/proc/self/exe", O_RDONLY);
    for (int round = 0; round < ROUNDS; round++) {
        char *at = mmap(NULL, 128 * PAGE, PROT_READ, MAP_PRIVATE, fd, 0);
        double start = now_ns();
        touch(at, 128, 0);
        samples[round] = (now_ns() - start) / 128;
        munmap(at, 128 * PAGE);
    }
    report("page_fault_file_read", samples, ROUNDS);

    char *shared = mmap(NULL, PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    touch(shared, PAGES, 1);
    int p[2];
    if (pipe(p) != 0) return 1;
    for (int round = 0; round < ROUNDS; round++) {
        pid_t pid = fork();
        if (pid == 0) {
            double start = now_ns();
            touch(shared, PAGES, 1);
            double each = (now_ns() - start) / PAGES;
            _exit(write(p[1], &each, sizeof each) != sizeof each);
        }
        if (read(p[0], &samples[round], sizeof samples[round]) != sizeof samples[round]) return 1;
        waitpid(pid, NULL, 0);
    }
    report("page_fault_copy_on_write", samples, ROUNDS);

    for (int round = 0; round < ROUNDS; round++) {
        double start = now_ns();
        for (int i = 0; i < 20; i++) {
            char *at = mmap(NULL, 16 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
            munmap(at, 16 * PAGE);
        }
        samples[round] = (now_ns() - start) / 20;
    }
    report("mmap_munmap", samples, ROUNDS);
    return 0;
}
