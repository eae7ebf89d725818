//: group = "B"
//: summary = "a fault handler repairs the mapping and the instruction runs again, as garbage collectors do; siglongjmp"
//: link = ["static"]
#include "check.h"
#include <setjmp.h>
#include <ucontext.h>

static char *area;
static volatile int faults;
static sigjmp_buf back;

static void repair(int number, siginfo_t *info, void *context) {
    faults++;
    char *at = (char *)((uintptr_t)info->si_addr & ~(PAGE - 1));
    if (at < area || at >= area + 256 * PAGE) _exit(50);
    mprotect(at, PAGE, PROT_READ | PROT_WRITE);
}

static void jump(int number) { siglongjmp(back, number); }

static void set_registers(int number, siginfo_t *info, void *context) {
    greg_t *registers = ((ucontext_t *)context)->uc_mcontext.gregs;
    registers[REG_RAX] = 0x1111;
    registers[REG_R15] = 0x2222;
    registers[REG_EFL] |= 1;  // carry
}

int main(void) {
    area = mmap(NULL, 256 * PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    handle_info(SIGSEGV, repair, 0);
    for (size_t i = 0; i < 256; i++) area[i * PAGE + i] = (char)i;
    FACT("write faults", "%d", faults);
    MUST(mprotect(area, 256 * PAGE, PROT_READ));
    int sum = 0;
    for (size_t i = 0; i < 256; i++) sum += area[i * PAGE + i];
    FACT("no read faults", "%d %d", faults, sum);
    // An instruction that touches two pages faults twice.
    MUST(mprotect(area, 256 * PAGE, PROT_NONE));
    faults = 0;
    *(volatile long *)(area + PAGE - 4) = 0x1122334455667788;
    FACT("across a boundary", "%d %d", faults, area[PAGE] == 0x44);
    // A string instruction is resumed in the middle.
    MUST(mprotect(area, 256 * PAGE, PROT_NONE));
    faults = 0;
    void *to = area;
    size_t length = 100 * PAGE;
    __asm__ volatile("rep stosb" : "+D"(to), "+c"(length) : "a"(5) : "memory");
    FACT("rep stosb", "%d %d", faults, area[99 * PAGE] == 5 && to == area + 100 * PAGE);

    handle(SIGSEGV, jump, 0);
    int rounds = 0;
    MUST(mprotect(area, PAGE, PROT_NONE));
    for (volatile int i = 0; i < 1000; i++)
        if (sigsetjmp(back, 1) == 0) area[0] = 1;
        else rounds++;
    FACT("thousand jumps", "%d", rounds);
    sigset_t set;
    sigprocmask(SIG_SETMASK, NULL, &set);
    FACT("mask after them", "%d", sigismember(&set, SIGSEGV));
    // longjmp that keeps the mask leaves the signal blocked: the next fault kills.
    CHILD("jump without restoring the mask") {
        if (sigsetjmp(back, 0) == 0) area[0] = 1;
        area[0] = 1;
    }

    handle_info(SIGUSR1, set_registers, 0);
    long rax = SYS_tkill, r15;
    bool carry;
    register long r15_in __asm__("r15") = 0;
    __asm__ volatile("clc\n syscall\n" : "+a"(rax), "=@ccc"(carry), "+r"(r15_in) : "D"(syscall(SYS_gettid)), "S"(SIGUSR1) : "rcx", "r11", "memory");
    r15 = r15_in;
    FACT("registers set by the handler", "%lx %lx %d", rax, r15, carry);
    return done();
}
