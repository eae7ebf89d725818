//: group = "A"
//: summary = "general registers and flags are kept across system calls, faults and preemption"
//: link = ["static"]
#include "check.h"
#include <sys/time.h>

struct registers { unsigned long r[16]; };

static volatile int ticks;
static void tick(int number) { ticks++; }

// Loads patterns into all registers but rsp, runs the middle part, stores them. r[0]: rax, then rbx rcx rdx rsi rdi rbp r8-r15.
#define AROUND(out, middle)                                                                                         \
    __asm__ volatile("push %%rbp\n push %0\n"                                                                        \
                     "mov $0x0101, %%rbx\n mov $0x0404, %%rdx\n mov $0x0505, %%rsi\n mov $0x0606, %%rdi\n"          \
                     "mov $0x0707, %%rbp\n mov $0x0808, %%r8\n mov $0x0909, %%r9\n mov $0x1010, %%r10\n"            \
                     "mov $0x1212, %%r12\n mov $0x1313, %%r13\n mov $0x1414, %%r14\n mov $0x1515, %%r15\n"          \
                     middle                                                                                          \
                     "pop %%rax\n"                                                                                  \
                     "mov %%rbx, 8(%%rax)\n mov %%rdx, 24(%%rax)\n mov %%rsi, 32(%%rax)\n mov %%rdi, 40(%%rax)\n"   \
                     "mov %%rbp, 48(%%rax)\n mov %%r8, 56(%%rax)\n mov %%r9, 64(%%rax)\n mov %%r10, 72(%%rax)\n"    \
                     "mov %%r12, 88(%%rax)\n mov %%r13, 96(%%rax)\n mov %%r14, 104(%%rax)\n mov %%r15, 112(%%rax)\n" \
                     "pop %%rbp\n"                                                                                  \
                     : : "a"(out) : "rbx", "rcx", "rdx", "rsi", "rdi", "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15", "memory", "cc")

static void compare(const char *name, const struct registers *got) {
    static const unsigned long want[16] = { 0, 0x101, 0, 0x404, 0x505, 0x606, 0x707, 0x808, 0x909, 0x1010, 0, 0x1212, 0x1313, 0x1414, 0x1515 };
    int wrong = 0;
    for (int i = 0; i < 15; i++) wrong += want[i] && got->r[i] != want[i];
    FACT(name, "%d", wrong);
}

static unsigned long flags_around(unsigned long set) {
    unsigned long flags, result = SYS_getpid;
    __asm__ volatile("pushf\n orq %2, (%%rsp)\n popf\n syscall\n pushf\n pop %0\n cld\n" : "=r"(flags), "+a"(result) : "r"(set) : "rcx", "r11", "memory", "cc");
    return flags;
}

int main(void) {
    static struct registers out;
    AROUND(&out, "mov $39, %%eax\n syscall\n");
    compare("getpid", &out);
    AROUND(&out, "mov $500, %%eax\n syscall\n");
    compare("unknown system call", &out);
    AROUND(&out, "mov $24, %%eax\n syscall\n");
    compare("sched_yield", &out);
    // rcx and r11 are the instruction's own: the return address and the flags.
    unsigned long rcx, r11, next, rax = SYS_getpid;
    __asm__ volatile("lea 1f(%%rip), %2\n syscall\n 1: mov %%rcx, %0\n mov %%r11, %1\n" : "=&r"(rcx), "=&r"(r11), "=&r"(next), "+a"(rax) : : "rcx", "r11", "memory");
    CHECK("rcx is the return address", rcx == next);
    CHECK("r11 is the flags", (r11 & 0x202) == 0x202);

    FACT("carry, sign, overflow kept", "%lx", flags_around(0x881) & 0x881);
    FACT("direction flag kept", "%lx", flags_around(0x400) & 0x400);
    char *page = map_anonymous(64 * PAGE);
    __asm__ volatile("nop");
    unsigned long at = (unsigned long)page;
    static unsigned long target;
    target = at;
    AROUND(&out, "mov target_of_fault(%%rip), %%rcx\n movb $1, (%%rcx)\n");
    compare("page fault", &out);
    int direction;
    __asm__ volatile("std\n movb $1, (%1)\n pushf\n pop %%rcx\n cld\n and $0x400, %%ecx\n mov %%ecx, %0" : "=r"(direction) : "r"(page + PAGE) : "rcx", "memory");
    FACT("direction flag across a page fault", "%x", direction);

    pid_t pid = (pid_t)MUST(fork());
    if (pid == 0)
        for (;;) ticks++;
    AROUND(&out, "mov $300000000, %%rcx\n 9: dec %%rcx\n jnz 9b\n");
    compare("preemption", &out);
    MUST(kill(pid, SIGKILL));
    reap("the other", pid);
    handle(SIGALRM, tick, 0);
    ticks = 0;
    struct itimerval every = { { 0, 2000 }, { 0, 2000 } };
    MUST(setitimer(ITIMER_REAL, &every, NULL));
    int wrong = 0;
    while (ticks < 10) {
        AROUND(&out, "mov $3000000, %%rcx\n 8: dec %%rcx\n jnz 8b\n");
        for (int i = 11; i < 15; i++) wrong += out.r[i] == 0;
        wrong += out.r[1] != 0x101 || out.r[6] != 0x707 || out.r[14] != 0x1515;
    }
    FACT("signals", "%d", wrong);
    return done();
}

__asm__(".data\n target_of_fault: .quad bytes_of_fault\n .bss\n .balign 4096\n .skip 8192\n bytes_of_fault: .skip 8192\n .text\n");
