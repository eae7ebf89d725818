//: group = "B"
//: summary = "mprotect: read-only, none, executable code made at run time, partial ranges, errors"
//: link = ["static"]
#include "check.h"
#include <setjmp.h>

static sigjmp_buf back;
static siginfo_t info;
static void on_fault(int number, siginfo_t *from, void *context) {
    info = *from;
    siglongjmp(back, number);
}

static char *where;
#define ATTEMPT(name, action)                                                                            \
    do {                                                                                                 \
        int number = sigsetjmp(back, 1);                                                                 \
        if (number == 0) { action; FACT(name, "ok"); }                                                   \
        else FACT(name, "%s %s, si_addr %s", signal_name(number),                                        \
                  info.si_code == SEGV_ACCERR ? "SEGV_ACCERR" : info.si_code == SEGV_MAPERR ? "SEGV_MAPERR" : "?", \
                  info.si_addr == where ? "right" : "wrong");                                            \
    } while (0)

int main(void) {
    handle_info(SIGSEGV, on_fault, 0);
    char *a = map_anonymous(6 * PAGE);
    memset(a, 1, 6 * PAGE);
    volatile char *v = a;
    char sink = 0;
    TRY("read-only", mprotect(a + PAGE, PAGE, PROT_READ));
    where = a + PAGE + 5;
    ATTEMPT("read", sink += v[PAGE + 5]);
    ATTEMPT("write", v[PAGE + 5] = 2);
    ATTEMPT("write before it", v[PAGE - 1] = 2);
    ATTEMPT("write after it", v[2 * PAGE] = 2);
    TRY("none", mprotect(a + 2 * PAGE, PAGE, PROT_NONE));
    where = a + 2 * PAGE;
    ATTEMPT("read", sink += v[2 * PAGE]);
    TRY("read and write over all", mprotect(a, 6 * PAGE, PROT_READ | PROT_WRITE));
    ATTEMPT("read", sink += v[2 * PAGE]);
    FACT("content kept", "%d", v[2 * PAGE]);

    // xor %eax,%eax; add $42,%eax; ret
    static const unsigned char code[] = { 0x31, 0xc0, 0x83, 0xc0, 42, 0xc3 };
    memcpy(a + 3 * PAGE, code, sizeof code);
    int (*function)(void) = (int (*)(void))(uintptr_t)(a + 3 * PAGE);
    where = a + 3 * PAGE;
    ATTEMPT("execute data", function());
    TRY("executable", mprotect(a + 3 * PAGE, PAGE, PROT_READ | PROT_EXEC));
    FACT("call", "%d", function());
    for (int i = 0; i < 100; i++) {
        MUST(mprotect(a + 3 * PAGE, PAGE, PROT_READ | PROT_WRITE | PROT_EXEC));
        a[3 * PAGE + 4] = (char)i;
        MUST(mprotect(a + 3 * PAGE, PAGE, PROT_READ | PROT_EXEC));
        if (function() != i) failures++;
    }
    FACT("toggled", "%d wrong", failures);

    TRY("unaligned", mprotect(a + 1, PAGE, PROT_READ));
    TRY("length 0", mprotect(a, 0, PROT_READ));
    MUST(munmap(a + 5 * PAGE, PAGE));
    TRY("over a hole", mprotect(a + 4 * PAGE, 2 * PAGE, PROT_READ));
    TRY("bad flags", mprotect(a, PAGE, 0x1000));
    int fd = (int)MUST(open("/proc/self/exe", O_RDONLY));
    char *shared = mmap(NULL, PAGE, PROT_READ, MAP_SHARED, fd, 0);
    TRY("shared mapping of a read-only file", mprotect(shared, PAGE, PROT_READ | PROT_WRITE));
    MUST(mprotect(a, PAGE, PROT_READ));
    CHILD("child has the protection") {
        handle(SIGSEGV, SIG_DFL, 0);
        v[0] = 1;
    }
    CHILD("child changes its own") {
        mprotect(a, PAGE, PROT_READ | PROT_WRITE);
        v[0] = 3;
        _exit(v[0]);
    }
    where = a;
    ATTEMPT("parent's is unchanged", v[0] = 1);
    // write(2) from memory that may not be read, read(2) into memory that may not be written.
    int p[2];
    MUST(pipe(p));
    MUST(mprotect(a + PAGE, PAGE, PROT_NONE));
    TRY("write from PROT_NONE", write(p[1], a + PAGE, 1));
    MUST(write(p[1], "x", 1));
    TRY("read into PROT_READ", read(p[0], a, 1));
    return done();
}
