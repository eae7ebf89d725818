//: group = "A"
//: summary = "no libc: own entry point, write and exit_group alone"
//: link = ["static"]
//: flags = ["-nostdlib", "-nostartfiles", "-ffreestanding", "-fno-stack-protector", "-fno-builtin"]
//: status = 7

static long call3(long number, long a, long b, long c) {
    long result;
    __asm__ volatile("syscall" : "=a"(result) : "a"(number), "D"(a), "S"(b), "d"(c) : "rcx", "r11", "memory");
    return result;
}

static void say(const char *text) {
    long length = 0;
    while (text[length]) length++;
    call3(1, 1, (long)text, length);
}

// The initial stack: argc at a 16-byte boundary, then argv, environment and auxiliary vector, each ended by null.
__attribute__((used)) static void start(long *stack) {
    say(((long)stack & 15) == 0 ? "stack aligned\n" : "stack not aligned\n");
    say(stack[0] == 1 && stack[2] == 0 ? "one argument\n" : "wrong arguments\n");
    say((char *)stack[1]), say("\n");
    long *end = stack + 3;
    while (*end) end++;
    say(end[1] != 0 ? "auxiliary vector\n" : "no auxiliary vector\n");
    call3(231, 7, 0, 0);
    for (;;) {}
}

__asm__(".globl _start\n_start: xor %ebp,%ebp\n mov %rsp,%rdi\n and $-16,%rsp\n call start\n");
