//: group = "A"
//: summary = "unknown system calls give ENOSYS; what every kernel may lack is not asked"
//: link = ["static"]
#include "check.h"

int main(void) {
    static const long unknown[] = { 387, 400, 423, 500, 511, 600, 1000, 4096, 0x3fffffff, -1, 0x7fffffff };
    for (size_t i = 0; i < LEN(unknown); i++) {
        char name[32];
        snprintf(name, sizeof name, "%ld", unknown[i]);
        TRY(name, syscall(unknown[i], 1, 2, 3, 4, 5, 6));
    }
    // Numbers of the table that no program may use.
    static const struct { long number; const char *name; } removed[] = { { 156, "_sysctl" }, { 174, "create_module" }, { 177, "get_kernel_syms" },
        { 178, "query_module" }, { 180, "nfsservctl" }, { 181, "getpmsg" }, { 183, "afs_syscall" }, { 184, "tuxcall" }, { 185, "security" },
        { 205, "set_thread_area" }, { 211, "get_thread_area" }, { 214, "epoll_ctl_old" }, { 236, "vserver" } };
    for (size_t i = 0; i < LEN(removed); i++) TRY(removed[i].name, syscall(removed[i].number, 0, 0, 0, 0, 0, 0));
    // The result register is the whole of it: no flag, no other register.
    long result = 0;
    __asm__ volatile("syscall" : "=a"(result) : "a"(500L) : "rcx", "r11", "memory");
    FACT("raw", "%ld", result);
    return done();
}
