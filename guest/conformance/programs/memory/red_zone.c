//: group = "A"
//: summary = "the 128 bytes below the stack pointer survive page faults, system calls and preemption"
//: link = ["static"]
#include "check.h"
#include <sys/time.h>

static volatile int ticks;
static void tick(int number) { ticks++; }

// Keeps a pattern in the red zone of a leaf while touching `pages` pages at `at`; the number of words that changed.
__attribute__((naked, noinline)) static long leaf(char *at, long pages, long syscalls) {
    __asm__("mov $0x1122334455667788, %rax\n"
            "mov $-128, %rcx\n"
            "1: mov %rax, (%rsp,%rcx)\n"
            "add $8, %rcx\n"
            "jnz 1b\n"
            "2: test %rsi, %rsi\n"
            "jz 3f\n"
            "movb $1, (%rdi)\n"  // a page fault
            "add $4096, %rdi\n"
            "dec %rsi\n"
            "jmp 2b\n"
            "3: mov %rdx, %r8\n"
            "4: test %r8, %r8\n"
            "jz 5f\n"
            "mov $39, %eax\n"  // getpid
            "syscall\n"
            "dec %r8\n"
            "jmp 4b\n"
            "5: mov $0x1122334455667788, %rdx\n"
            "xor %eax, %eax\n"
            "mov $-128, %rcx\n"
            "6: cmp %rdx, (%rsp,%rcx)\n"
            "je 7f\n"
            "inc %eax\n"
            "7: add $8, %rcx\n"
            "jnz 6b\n"
            "ret\n");
}

// Spins `rounds` times with the pattern in place.
__attribute__((naked, noinline)) static long spin(long rounds) {
    __asm__("mov $0x0badcafe12345678, %rax\n"
            "mov $-128, %rcx\n"
            "1: mov %rax, (%rsp,%rcx)\n"
            "add $8, %rcx\n"
            "jnz 1b\n"
            "2: dec %rdi\n"
            "jnz 2b\n"
            "mov %rax, %rdx\n"
            "xor %eax, %eax\n"
            "mov $-128, %rcx\n"
            "6: cmp %rdx, (%rsp,%rcx)\n"
            "je 7f\n"
            "inc %eax\n"
            "7: add $8, %rcx\n"
            "jnz 6b\n"
            "ret\n");
}

int main(void) {
    FACT("page faults", "%ld", leaf(map_anonymous(3000 * PAGE), 3000, 0));
    FACT("system calls", "%ld", leaf(NULL, 0, 10000));
    char *again = map_anonymous(1000 * PAGE);
    memset(again, 1, 1000 * PAGE);
    pid_t pid = (pid_t)MUST(fork());
    if (pid == 0) _exit((int)leaf(again, 1000, 100));
    FACT("copy-on-write faults", "%ld", leaf(again, 1000, 100));
    reap("in the child", pid);

    // Two busy processes on one CPU preempt each other.
    pid = (pid_t)MUST(fork());
    if (pid == 0) _exit(spin(400000000) != 0);
    FACT("preemption", "%ld", spin(400000000));
    reap("in the other process", pid);

    // The signal frame lies below the red zone.
    handle(SIGALRM, tick, 0);
    struct itimerval every = { { 0, 2000 }, { 0, 2000 } };
    MUST(setitimer(ITIMER_REAL, &every, NULL));
    long bad = 0;
    for (int i = 0; i < 20 || ticks < 5; i++) bad += spin(20000000);
    memset(&every, 0, sizeof every);
    MUST(setitimer(ITIMER_REAL, &every, NULL));
    FACT("signals", "%ld", bad);
    CHECK("signals came", ticks >= 5);
    return done();
}
