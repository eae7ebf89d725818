//: group = "A"
//: summary = "SIGSEGV, SIGFPE, SIGILL, SIGTRAP, SIGBUS: codes, addresses, the interrupted instruction, going on after it"
//: link = ["static", "dynamic"]
#include "check.h"
#include <ucontext.h>

static volatile siginfo_t last;
static volatile unsigned long trap, rip, cr2;
static volatile int skip;
extern char at_ud2[], after_int3[], at_div[], at_hlt[];

static void on_fault(int number, siginfo_t *info, void *context) {
    ucontext_t *frame = context;
    last = *info;
    trap = (unsigned long)frame->uc_mcontext.gregs[REG_TRAPNO];
    rip = (unsigned long)frame->uc_mcontext.gregs[REG_RIP];
    cr2 = (unsigned long)frame->uc_mcontext.gregs[REG_CR2];
    frame->uc_mcontext.gregs[REG_RIP] += skip;
}

static const char *code(void) {
    switch (last.si_signo << 8 | (last.si_code & 255)) {
    case SIGSEGV << 8 | SEGV_MAPERR: return "SEGV_MAPERR";
    case SIGSEGV << 8 | SEGV_ACCERR: return "SEGV_ACCERR";
    case SIGSEGV << 8 | (SI_KERNEL & 255): return "SI_KERNEL";
    case SIGFPE << 8 | FPE_INTDIV: return "FPE_INTDIV";
    case SIGFPE << 8 | FPE_FLTDIV: return "FPE_FLTDIV";
    case SIGFPE << 8 | FPE_FLTINV: return "FPE_FLTINV";
    case SIGILL << 8 | ILL_ILLOPN: return "ILL_ILLOPN";
    case SIGTRAP << 8 | (SI_KERNEL & 255): return "SI_KERNEL";
    case SIGTRAP << 8 | TRAP_TRACE: return "TRAP_TRACE";
    case SIGTRAP << 8 | TRAP_BRKPT: return "TRAP_BRKPT";
    default: return "?";
    }
}

static void expect(const char *name, const void *address) {
    FACT(name, "%s %s trap %lu, si_addr %s", signal_name(last.si_signo), code(), trap, last.si_addr == address ? "right" : last.si_addr ? "wrong" : "null");
    last.si_signo = 0;
}

int main(void) {
    static const int signals[] = { SIGSEGV, SIGFPE, SIGILL, SIGTRAP, SIGBUS };
    for (size_t i = 0; i < LEN(signals); i++) handle_info(signals[i], on_fault, 0);

    // mov (%rax),%al and its like are two bytes long: the handler skips them.
    skip = 2;
    char *page = map_anonymous(PAGE);
    __asm__ volatile("movb (%%rax), %%al" : : "a"(16UL));
    expect("read near null", (void *)16);
    CHECK("cr2 in the frame", cr2 == 16);
    __asm__ volatile("movb %%al, (%%rax)" : : "a"(0x123456789000UL));
    expect("write to nothing", (void *)0x123456789000UL);
    MUST(mprotect(page, PAGE, PROT_READ));
    __asm__ volatile("movb %%cl, (%%rax)" : : "a"(page + 77), "c"(0));
    expect("write to read-only", page + 77);
    __asm__ volatile("movb (%%rax), %%al" : : "a"(0x8000000000000000UL));
    expect("non-canonical address", NULL);
    __asm__ volatile("movb (%%rax), %%al" : : "a"(0xffffffff81000000UL));
    expect("kernel address", (void *)0xffffffff81000000UL);

    __asm__ volatile("at_div: idivl %%ecx" : : "a"(1), "d"(0), "c"(0));
    expect("division by zero", at_div);
    __asm__ volatile("idivl %%ecx" : : "a"(0x80000000), "d"(-1), "c"(-1));
    FACT("division overflow", "%s", signal_name(last.si_signo));
    __asm__ volatile("at_ud2: ud2");
    expect("ud2", at_ud2);
    skip = 0;
    __asm__ volatile("int3\nafter_int3:");
    FACT("int3", "%s %s trap %lu, rip %s", signal_name(last.si_signo), code(), trap, rip == (unsigned long)after_int3 ? "after it" : "elsewhere");
    skip = 1;
    __asm__ volatile("at_hlt: hlt");
    expect("hlt", NULL);
    CHECK("rip at it", rip == (unsigned long)at_hlt);
    __asm__ volatile("cli");
    FACT("cli", "%s", signal_name(last.si_signo));
    skip = 0;
    // One instruction with the trap flag.
    __asm__ volatile("pushf\n orl $0x100, (%%rsp)\n popf\n nop\n pushf\n andl $~0x100, (%%rsp)\n popf\n" : : : "memory", "cc");
    FACT("single step", "%s %s", signal_name(last.si_signo), code());

    double zero = 0, one = 1;
    unsigned mxcsr = __builtin_ia32_stmxcsr();
    skip = 4;  // divsd %xmm1,%xmm0
    __builtin_ia32_ldmxcsr(mxcsr & ~(1u << 9));
    __asm__ volatile("divsd %1, %0" : "+x"(one) : "x"(zero));
    __builtin_ia32_ldmxcsr(mxcsr);
    FACT("SSE division by zero", "%s %s trap %lu", signal_name(last.si_signo), code(), trap);

    // Going on: the handler repairs what was wrong and the instruction runs again.
    skip = 0;
    CHILD("default of SIGSEGV") {
        handle(SIGSEGV, SIG_DFL, 0);
        *OPAQUE((volatile int *)1) = 1;
    }
    CHILD("SIGSEGV ignored") {
        handle(SIGSEGV, SIG_IGN, 0);
        *OPAQUE((volatile int *)1) = 1;
    }
    CHILD("SIGSEGV blocked") {
        sigset_t set;
        sigfillset(&set);
        sigprocmask(SIG_SETMASK, &set, NULL);
        *OPAQUE((volatile int *)1) = 1;
    }
    CHILD("kill(SIGSEGV) when ignored does nothing") {
        handle(SIGSEGV, SIG_IGN, 0);
        kill(getpid(), SIGSEGV);
    }
    CHILD("jump to null") {
        handle(SIGSEGV, SIG_DFL, 0);
        ((void (*)(void))OPAQUE((uintptr_t)0))();
    }
    CHILD("division, default") {
        handle(SIGFPE, SIG_DFL, 0);
        __asm__ volatile("idivl %%ecx" : : "a"(1), "d"(0), "c"(0));
    }
    CHILD("int3, default") {
        handle(SIGTRAP, SIG_DFL, 0);
        __asm__ volatile("int3");
    }
    CHILD("ud2, default") {
        handle(SIGILL, SIG_DFL, 0);
        __builtin_trap();
    }
    CHILD("privileged port") {
        handle(SIGSEGV, SIG_DFL, 0);
        __asm__ volatile("inb $0x80, %%al" : : : "rax");
    }
    CHILD("mov from cr0") {
        handle(SIGSEGV, SIG_DFL, 0);
        __asm__ volatile("mov %%cr0, %%rax" : : : "rax");
    }
    return done();
}
