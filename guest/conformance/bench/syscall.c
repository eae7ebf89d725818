//: group = "D"
//: summary = "a system call that does nothing: getppid; and clock_gettime through the vDSO"
#include "bench.h"

int main(void) {
    MEASURE("null_syscall", SAMPLES, 500, syscall(SYS_getppid));
    MEASURE("clock_gettime", SAMPLES, 500, now_ns());
    static char byte;
    int p[2];
    if (pipe(p) != 0) return 1;
    MEASURE("pipe_write_read_1_byte", SAMPLES, 100, if (write(p[1], &byte, 1) != 1 || read(p[0], &byte, 1) != 1) return 1);
    return 0;
}
