//: group = "A"
//: summary = "addresses of program, heap, libraries, stack and vDSO differ from one execve to the next; personality(ADDR_NO_RANDOMIZE); fork keeps them"
//: link = ["static", "dynamic"]
#include "check.h"
#include <sys/auxv.h>
#include <sys/personality.h>

enum { TEXT, HEAP, MAPPING, STACK, VDSO, RANDOM, PARTS };
#define RUNS 8

static void here(unsigned long parts[PARTS]) {
    char local;
    parts[TEXT] = getauxval(AT_ENTRY);
    parts[HEAP] = (unsigned long)sbrk(0);
    void *mapping = mmap(NULL, PAGE, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    parts[MAPPING] = (unsigned long)mapping;
    munmap(mapping, PAGE);
    parts[STACK] = (unsigned long)&local & ~0xfUL;
    parts[VDSO] = getauxval(AT_SYSINFO_EHDR);
    memcpy(&parts[RANDOM], (void *)getauxval(AT_RANDOM), sizeof parts[RANDOM]);
}

// What this program says of itself when it is executed again, `flags` being its personality.
static void again(unsigned long flags, unsigned long parts[PARTS]) {
    int p[2];
    MUST(pipe(p));
    pid_t pid = (pid_t)MUST(fork());
    if (pid == 0) {
        MUST(personality(flags));
        MUST(dup2(p[1], 1));
        execl("/proc/self/exe", "layout", "tell", NULL);
        _exit(99);
    }
    close(p[1]);
    if (read(p[0], parts, PARTS * sizeof *parts) != PARTS * sizeof *parts) failures++;
    close(p[0]);
    waitpid(pid, NULL, 0);
}

static int distinct(unsigned long (*runs)[PARTS], int part) {
    int count = 0;
    for (int i = 0; i < RUNS; i++) {
        bool seen = false;
        for (int j = 0; j < i; j++) seen |= runs[j][part] == runs[i][part];
        count += !seen;
    }
    return count;
}

int main(int argc, char **argv) {
    unsigned long own[PARTS], runs[RUNS][PARTS];
    if (argc > 1) {
        here(own);
        _exit(write(1, own, sizeof own) == sizeof own ? 0 : 1);
    }
    FACT("randomize_va_space", "%c", ({ char c = 0; read(open("/proc/sys/kernel/randomize_va_space", O_RDONLY), &c, 1); c; }));
    for (int i = 0; i < RUNS; i++) again(0, runs[i]);
    // A program that is not position-independent stays where it is linked.
    int texts = distinct(runs, TEXT);
    CHECK("program", texts == 1 || texts == RUNS);
    CHECK("heap", distinct(runs, HEAP) >= RUNS - 1);
    CHECK("mappings", distinct(runs, MAPPING) == RUNS);
    CHECK("stack", distinct(runs, STACK) >= RUNS - 1);
    CHECK("vDSO", distinct(runs, VDSO) >= RUNS - 1);
    CHECK("AT_RANDOM", distinct(runs, RANDOM) == RUNS);
    int order = 0;
    for (int i = 0; i < RUNS; i++)
        order += runs[i][TEXT] < runs[i][HEAP] && runs[i][HEAP] < runs[i][MAPPING] && runs[i][MAPPING] < runs[i][STACK];
    FACT("in this order", "%d", order);

    for (int i = 0; i < RUNS; i++) again(ADDR_NO_RANDOMIZE, runs[i]);
    for (int part = TEXT; part <= VDSO; part++) FACT("without chance", "%d %d", part, distinct(runs, part));
    CHECK("AT_RANDOM all the same", distinct(runs, RANDOM) == RUNS);
    CHILD("personality is inherited and shown") {
        MUST(personality(ADDR_NO_RANDOMIZE));
        int shown = (int)MUST(open("/proc/self/personality", O_RDONLY));
        char text[16] = "";
        MUST(read(shown, text, sizeof text - 1));
        FACT("personality", "%s", strtok(text, "\n"));
        CHILD("of a child") _exit(personality(0xffffffff) == ADDR_NO_RANDOMIZE ? 0 : 1);
    }
    here(own);
    CHILD("a child has its parent's layout") {
        unsigned long child[PARTS];
        here(child);
        _exit(memcmp(own, child, sizeof own) != 0);
    }
    return done();
}
