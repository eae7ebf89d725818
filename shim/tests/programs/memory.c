/* Does to memory what standard input says, and tells what it sees: the guest's half of tests/snapshot_model.rs.
 *
 * A line is "PROCESS COMMAND ARGUMENT...", the answer is one line. Process 0 is the first one, which reads the lines and passes on those for others.
 * Pages are counted from ARENA; objects are what mappings may show: 0 the file of the image (argv[1]), 1 a new file (argv[2]), 2 and 3 memfds. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { PAGE = 4096, WORDS = PAGE / 8, OBJECTS = 4, OBJECT_PAGES = 64, PROCESSES = 6 };
#define ARENA ((char *)0x10000000000)

static int object[OBJECTS], orders[PROCESSES][2], answers[PROCESSES][2];
static sigjmp_buf fault;
static char answer[1 << 16];

static void on_fault(int signo) { siglongjmp(fault, signo); }

static const char *fault_name(int signo) { return signo == SIGBUS ? "bus" : "segv"; }

/* As in the model: any change of any word changes the sum. */
static uint64_t mix(uint64_t value) {
    value = (value ^ value >> 30) * 0xbf58476d1ce4e5b9;
    value = (value ^ value >> 27) * 0x94d049bb133111eb;
    return value ^ value >> 31;
}

static uint64_t fill_word(uint64_t seed, uint64_t page, uint64_t at) { return mix(seed ^ page << 20 ^ at) | 1; }

static uint64_t sum(const volatile uint64_t *words) {
    uint64_t total = 0;
    for (uint64_t at = 0; at < WORDS; at++)
        if (words[at] != 0) total += mix(words[at] + (at << 50));
    return total;
}

static void result(long value) { snprintf(answer, sizeof answer, "%s", value < 0 ? strerrorname_np(errno) : "ok"); }

static void child(int slot);

/* Adds a page's sum to the answer at `end`, or the name of the fault; returns how much that is. */
static int hash_page(char *end, const char *page) {
    int signo = sigsetjmp(fault, 1);
    if (signo != 0) return sprintf(end, "%s ", fault_name(signo));
    return sprintf(end, "%lx ", sum((const uint64_t *)page));
}

static void hash(unsigned long page, unsigned long count) {
    char *end = answer;
    for (unsigned long at = page; at < page + count; at++) end += hash_page(end, ARENA + at * PAGE);
    if (end > answer) end[-1] = 0;
}

static void hash_object(long which) {
    static uint64_t words[WORDS];
    char *end = answer;
    for (long at = 0; at < OBJECT_PAGES; at++) {
        if (pread(object[which], words, PAGE, at * PAGE) != PAGE) exit(3);
        end += sprintf(end, "%lx ", sum(words));
    }
    end[-1] = 0;
}

static void fill_object(long which, long index, uint64_t seed) {
    static uint64_t words[WORDS];
    for (uint64_t at = 0; at < WORDS; at++) words[at] = fill_word(seed, (uint64_t)index, at);
    result(pwrite(object[which], words, PAGE, index * PAGE));
}

static void snapshot(const char *name) {
    char request[64], text[64] = { 0 };
    int length = snprintf(request, sizeof request, "snapshot function %s", name);
    int device = open("/dev/seuss", O_RDWR);
    if (device < 0 || write(device, request, length) != length || read(device, text, sizeof text - 1) <= 0)
        result(-1);
    else
        snprintf(answer, sizeof answer, "generation %ld", atol(text + strlen("generation ")));
    close(device);
}

/* One command; `answer` has the answer. */
static void obey(char *line) {
    char command[16], name[32] = { 0 };
    unsigned long a[5] = { 0 };
    char *rest = strchr(line, ' ') + 1;
    sscanf(rest, "%15s %lu %lu %lu %lu %lu", command, &a[0], &a[1], &a[2], &a[3], &a[4]);
    char *at = ARENA + a[0] * PAGE;
    unsigned long size = a[1] * PAGE;
    static const int protections[] = { PROT_NONE, PROT_READ, 0, PROT_READ | PROT_WRITE };
    int signo;
    answer[0] = 0;
    if (strcmp(command, "anon") == 0) {
        int kind = a[3] != 0 ? MAP_SHARED : MAP_PRIVATE;
        void *got = mmap(at, size, protections[a[2]], kind | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
        result(got == MAP_FAILED ? -1 : 0);
    } else if (strcmp(command, "file") == 0) {
        int kind = a[3] >= OBJECTS ? MAP_SHARED : MAP_PRIVATE;
        void *got = mmap(at, size, protections[a[2]], kind | MAP_FIXED, object[a[3] % OBJECTS], (off_t)(a[4] * PAGE));
        result(got == MAP_FAILED ? -1 : 0);
    } else if (strcmp(command, "unmap") == 0) {
        result(munmap(at, size));
    } else if (strcmp(command, "protect") == 0) {
        result(mprotect(at, size, protections[a[2]]));
    } else if (strcmp(command, "advise") == 0) {
        result(madvise(at, size, (int)a[2]));
    } else if (strcmp(command, "remap") == 0) {
        void *got = mremap(at, size, a[3] * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, ARENA + a[2] * PAGE);
        result(got == MAP_FAILED ? -1 : 0);
    } else if (strcmp(command, "write") == 0) {
        if ((signo = sigsetjmp(fault, 1)) == 0) {
            ((volatile uint64_t *)at)[a[1]] = a[2];
            result(0);
        } else {
            strcpy(answer, fault_name(signo));
        }
    } else if (strcmp(command, "fill") == 0) {
        for (uint64_t page = a[0]; page < a[0] + a[1]; page++)
            for (uint64_t word = 0; word < WORDS; word++)
                ((volatile uint64_t *)(ARENA + page * PAGE))[word] = fill_word(a[2], page, word);
        result(0);
    } else if (strcmp(command, "hash") == 0) {
        hash(a[0], a[1]);
    } else if (strcmp(command, "object") == 0) {
        hash_object((long)a[0]);
    } else if (strcmp(command, "pwrite") == 0) {
        fill_object((long)a[0], (long)a[1], a[2]);
    } else if (strcmp(command, "load") == 0) {
        result(pread(object[a[1]], at, PAGE, (off_t)(a[2] * PAGE)));
    } else if (strcmp(command, "store") == 0) {
        result(pwrite(object[a[1]], at, PAGE, (off_t)(a[2] * PAGE)));
    } else if (strcmp(command, "fork") == 0) {
        pid_t pid = fork();
        if (pid == 0) child((int)a[0]);
        result(pid);
    } else if (strcmp(command, "exit") == 0) {
        result(0);
    } else if (strcmp(command, "snapshot") == 0) {
        sscanf(rest, "%*s %31s", name);
        snapshot(name);
    } else {
        exit(4);
    }
}

/* A line without its end; 0 when there is no more. */
static int read_line(int from, char *line, size_t size) {
    size_t length = 0;
    while (length < size - 1) {
        ssize_t got = read(from, line + length, size - 1 - length);
        if (got < 0 && errno == EINTR) continue;
        if (got <= 0) return 0;
        length += (size_t)got;
        if (line[length - 1] == '\n') {
            line[length - 1] = 0;
            return 1;
        }
    }
    exit(5);
}

static void say(int to, const char *text) {
    static char line[sizeof answer + 1];
    int length = sprintf(line, "%s\n", text);
    if (write(to, line, (size_t)length) != length) exit(6);
}

/* A child waits for orders of its own. */
static void child(int slot) {
    char line[256];
    /* Only the first process can write orders: when it is gone, so are the others. */
    for (int at = 1; at < PROCESSES; at++) close(orders[at][1]);
    while (read_line(orders[slot][0], line, sizeof line)) {
        obey(line);
        say(answers[slot][1], answer);
        if (strstr(line, "exit") != NULL) _exit(0);
    }
    _exit(0);
}

int main(int argc, char **argv) {
    if (argc != 3) return 2;
    object[0] = open(argv[1], O_RDONLY);
    object[1] = open(argv[2], O_RDWR | O_CREAT | O_TRUNC, 0600);
    object[2] = memfd_create("two", 0);
    object[3] = memfd_create("three", 0);
    for (int which = 1; which < OBJECTS; which++)
        if (ftruncate(object[which], OBJECT_PAGES * PAGE) != 0) return 2;
    for (int slot = 1; slot < PROCESSES; slot++)
        if (pipe(orders[slot]) != 0 || pipe(answers[slot]) != 0) return 2;
    struct sigaction action = { .sa_handler = on_fault };
    sigaction(SIGSEGV, &action, NULL);
    sigaction(SIGBUS, &action, NULL);
    signal(SIGCHLD, SIG_IGN);
    char line[256];
    /* The other side waits for each answer, so a read gives a whole line. */
    while (read_line(0, line, sizeof line)) {
        int slot = atoi(line);
        if (slot == 0) {
            obey(line);
        } else {
            say(orders[slot][1], line);
            if (!read_line(answers[slot][0], answer, sizeof answer)) return 7;
        }
        say(1, answer);
    }
    return 0;
}
