//: group = "A"
//: summary = "x87, MXCSR, XMM, YMM, ZMM and mask registers across system calls, faults, signals, fork and preemption"
//: link = ["static"]
#include "check.h"
#include <sys/time.h>

enum { ZMM = 64, STATE = 32 * ZMM + 8 * 8 };
static unsigned char before[STATE] __attribute__((aligned(64))), after[STATE] __attribute__((aligned(64)));
static int level;  // 0: SSE, 1: AVX, 2: AVX-512

#define EACH16(m) m(0) m(1) m(2) m(3) m(4) m(5) m(6) m(7) m(8) m(9) m(10) m(11) m(12) m(13) m(14) m(15)
#define EACH32(m) EACH16(m) m(16) m(17) m(18) m(19) m(20) m(21) m(22) m(23) m(24) m(25) m(26) m(27) m(28) m(29) m(30) m(31)
#define LOAD_X(n) "movdqa " #n "*64(%0), %%xmm" #n "\n"
#define SAVE_X(n) "movdqa %%xmm" #n ", " #n "*64(%0)\n"
#define LOAD_Y(n) "vmovdqa " #n "*64(%0), %%ymm" #n "\n"
#define SAVE_Y(n) "vmovdqa %%ymm" #n ", " #n "*64(%0)\n"
#define LOAD_Z(n) "vmovdqa64 " #n "*64(%0), %%zmm" #n "\n"
#define SAVE_Z(n) "vmovdqa64 %%zmm" #n ", " #n "*64(%0)\n"

static inline __attribute__((always_inline)) void load(const unsigned char *from) {
    if (level == 2)
        __asm__ volatile(EACH32(LOAD_Z) "kmovq 2056(%0), %%k1\n kmovq 2064(%0), %%k2\n kmovq 2104(%0), %%k7\n" : : "r"(from) : "memory");
    else if (level == 1) __asm__ volatile(EACH16(LOAD_Y) : : "r"(from) : "memory");
    else __asm__ volatile(EACH16(LOAD_X) : : "r"(from) : "memory");
}

static inline __attribute__((always_inline)) void save(unsigned char *to) {
    if (level == 2)
        __asm__ volatile(EACH32(SAVE_Z) "kmovq %%k1, 2056(%0)\n kmovq %%k2, 2064(%0)\n kmovq %%k7, 2104(%0)\n" : : "r"(to) : "memory");
    else if (level == 1) __asm__ volatile(EACH16(SAVE_Y) : : "r"(to) : "memory");
    else __asm__ volatile(EACH16(SAVE_X) : : "r"(to) : "memory");
}

static int wrong(void) {
    int bad = 0, registers = level == 2 ? 32 : 16, bytes = 16 << level;
    for (int n = 0; n < registers; n++) bad += memcmp(before + n * ZMM, after + n * ZMM, (size_t)bytes) != 0;
    if (level == 2) bad += memcmp(before + 2056, after + 2056, 16) != 0 || memcmp(before + 2104, after + 2104, 8) != 0;
    return bad;
}

static volatile int ticks;

__attribute__((noinline)) static void clobber(void) {
    static const unsigned char other[STATE] __attribute__((aligned(64))) = { [0 ... STATE - 1] = 0xee };
    load(other);
    unsigned short x87 = 0x27f;
    __asm__ volatile("fninit\n fldcw %0\n fld1\n fldpi" : : "m"(x87));
    __builtin_ia32_ldmxcsr(0x9fc0);
}

static void on_signal(int number) {
    clobber();
    ticks++;
}

#define ACROSS(name, action)               \
    do {                                   \
        memset(after, 0, sizeof after);    \
        load(before);                      \
        action;                            \
        save(after);                       \
        FACT(name, "%d", wrong());         \
    } while (0)

static inline __attribute__((always_inline)) long raw(long number, long a, long b) {
    long result;
    __asm__ volatile("syscall" : "=a"(result) : "a"(number), "D"(a), "S"(b) : "rcx", "r11", "memory");
    return result;
}

// No vector register may be used by the compiler between load and save: plain loops in assembly.
#define TOUCH(at, pages) __asm__ volatile("1: movb $1, (%0)\n add $4096, %0\n dec %1\n jnz 1b\n" : "+r"(at), "+r"(pages) : : "memory")
#define SPIN(rounds) __asm__ volatile("1: dec %0\n jnz 1b\n" : "+r"(rounds))

int main(void) {
    __builtin_cpu_init();
    level = __builtin_cpu_supports("avx512bw") ? 2 : __builtin_cpu_supports("avx2") ? 1 : 0;
    for (int i = 0; i < STATE; i++) before[i] = (unsigned char)(i * 37 + i / 64 + 1);
    int top = level;
    for (level = 0; level <= top; level++) {
        FACT("bytes a register", "%d", 16 << level);
        ACROSS("getppid", raw(SYS_getppid, 0, 0));
        ACROSS("sched_yield", raw(SYS_sched_yield, 0, 0));
        char *fresh = map_anonymous(200 * PAGE), *at = fresh;
        long pages = 200;
        ACROSS("page faults", TOUCH(at, pages));
        struct timespec nap = { 0, 2000000 };
        ACROSS("nanosleep", raw(SYS_nanosleep, (long)&nap, 0));
        handle(SIGUSR1, on_signal, 0);
        long self = getpid();
        ACROSS("signal", raw(SYS_kill, self, SIGUSR1));
        // The frame restores MXCSR and the x87 state as well.
        unsigned short control = 0;
        __asm__ volatile("fnstcw %0" : "=m"(control));
        FACT("MXCSR, x87 control word", "%x %x", __builtin_ia32_stmxcsr() & 0xffc0, control);

        long rounds = 200000000;
        pid_t pid = (pid_t)MUST(fork());
        if (pid == 0) {
            for (;;) clobber();
        }
        ACROSS("preemption by a process that changes all", SPIN(rounds));
        MUST(kill(pid, SIGKILL));
        reap("that process", pid);

        pid_t child;
        memset(after, 0, sizeof after);
        load(before);
        child = (pid_t)raw(SYS_fork, 0, 0);
        save(after);
        if (child == 0) _exit(wrong());
        FACT("fork, parent", "%d", wrong());
        reap("fork, child", child);

        struct itimerval every = { { 0, 1000 }, { 0, 1000 } };
        handle(SIGALRM, on_signal, 0);
        ticks = 0;
        MUST(setitimer(ITIMER_REAL, &every, NULL));
        int bad = 0;
        while (ticks < 20) {
            rounds = 2000000;
            load(before);
            SPIN(rounds);
            save(after);
            bad += wrong();
        }
        memset(&every, 0, sizeof every);
        MUST(setitimer(ITIMER_REAL, &every, NULL));
        FACT("timer signals", "%d", bad);
    }
    // Rounding mode belongs to the process and is inherited; exec resets it.
    __builtin_ia32_ldmxcsr(0x7f80);  // towards zero
    CHILD("MXCSR inherited") _exit((__builtin_ia32_stmxcsr() & 0xffc0) == 0x7f80 ? 0 : 1);
    unsigned short control = 0xc7f;
    __asm__ volatile("fldcw %0" : : "m"(control));
    raw(SYS_sched_yield, 0, 0);
    sleep_ms(1);
    __asm__ volatile("fnstcw %0" : "=m"(control));
    FACT("x87 control word after sleeping", "%x", control);
    return done();
}
