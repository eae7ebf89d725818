//: group = "A"
//: summary = "cpuid, xgetbv, rdtsc, rdtscp, fs base: the CPU as a program sees it"
//: link = ["static"]
#include "check.h"
#include <asm/prctl.h>
#include <cpuid.h>
#include <x86intrin.h>

int main(void) {
    unsigned a, b, c, d;
    CHECK("leaf 0", __get_cpuid(0, &a, &b, &c, &d) && a >= 7);
    __get_cpuid(1, &a, &b, &c, &d);
    FACT("fpu sse sse2", "%u %d %d", d & 1, !!(d & bit_SSE), !!(d & bit_SSE2));
    FACT("sse4.2 avx xsave osxsave", "%d %d %d %d", !!(c & bit_SSE4_2), !!(c & bit_AVX), !!(c & bit_XSAVE), !!(c & bit_OSXSAVE));
    __cpuid_count(7, 0, a, b, c, d);
    FACT("avx2 bmi2 erms avx512f", "%d %d %d %d", !!(b & bit_AVX2), !!(b & bit_BMI2), !!(b >> 9 & 1), !!(b & bit_AVX512F));
    unsigned low, high;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    FACT("x87 sse avx enabled", "%u", low & 7);
    FACT("avx512 enabled", "%u", low >> 5 & 7);
    __cpuid_count(0xd, 0, a, b, c, d);
    CHECK("xsave area holds what is enabled", b >= 576 && b <= c);

    uint64_t t0 = __rdtsc(), previous = t0;
    bool rising = true;
    for (int i = 0; i < 100000; i++) {
        uint64_t t = __rdtsc();
        rising &= t >= previous;
        previous = t;
    }
    CHECK("rdtsc rises", rising && previous > t0);
    unsigned processor;
    CHECK("rdtscp", __rdtscp(&processor) >= previous);
    CHECK("rdtsc is cheap", (previous - t0) / 100000 < 20000);

    // fs: is the thread's; gs: is free for the program.
    unsigned long fs = 0, gs = 1;
    CHECK("arch_prctl GET_FS", syscall(SYS_arch_prctl, ARCH_GET_FS, &fs) == 0 && fs == *(unsigned long *)__builtin_thread_pointer());
    CHECK("arch_prctl GET_GS", syscall(SYS_arch_prctl, ARCH_GET_GS, &gs) == 0 && gs == 0);
    static unsigned long there[2] = { 17, 18 };
    TRY("arch_prctl SET_GS", syscall(SYS_arch_prctl, ARCH_SET_GS, there));
    unsigned long got;
    __asm__ volatile("mov %%gs:8, %0" : "=r"(got));
    FACT("gs:8", "%lu", got);
    syscall(SYS_getppid);
    sleep_ms(2);
    __asm__ volatile("mov %%gs:0, %0" : "=r"(got));
    FACT("gs:0 after sleeping", "%lu", got);
    TRY("arch_prctl unknown", syscall(SYS_arch_prctl, 0x9999, 0));
    return done();
}
