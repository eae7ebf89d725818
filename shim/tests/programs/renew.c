/* The calls that the library OS makes in clones: this program exports what it takes for OpenSSL's RAND_poll, which does what a foreign function may do to the thread that it is called on.
 *
 * Usage: renew WAIT [lock|fault|spin]. The first thread waits in WAIT, by a bare system call with every register loaded; a second one takes a snapshot, twice; two more processes wait in read(2).
 * Prints a line for each time that the snapshot's write has returned; exits with the number of the first check that failed, or 0. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define CHECK(number, what) do { if (!(what)) { printf("check %d failed: %s, errno %d\n", number, #what, errno); fflush(stdout); _exit(number); } } while (0)

static volatile int calls, called_by, signals, done, signal_ends;
static volatile int word = 7;
static const char *mode = "";
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

/* What OpenSSL 3 has. */
void *RAND_get0_primary(void *context) { return context; }

/* Leaves no register as it was, sleeps, and asks for random bytes. */
int RAND_poll(void) {
    static const struct timespec moment = { 0, 2000000 };
    uint64_t bytes;
    calls++;
    called_by = gettid();
    if (syscall(SYS_getrandom, &bytes, sizeof bytes, 0) != sizeof bytes) _exit(99);
    if (!strcmp(mode, "lock")) {
        pthread_mutex_lock(&lock);
        pthread_mutex_unlock(&lock);
    }
    if (!strcmp(mode, "fault")) *(volatile int *)0 = 1;
    if (!strcmp(mode, "spin")) for (;;) { }
    if (*mode == 0) nanosleep(&moment, NULL);
    __asm__ volatile(
        "vpcmpeqd %%ymm0, %%ymm0, %%ymm0; vmovdqa %%ymm0, %%ymm1; vmovdqa %%ymm0, %%ymm2; vmovdqa %%ymm0, %%ymm3; vmovdqa %%ymm0, %%ymm4; vmovdqa %%ymm0, %%ymm5;"
        "vmovdqa %%ymm0, %%ymm6; vmovdqa %%ymm0, %%ymm7; vmovdqa %%ymm0, %%ymm8; vmovdqa %%ymm0, %%ymm9; vmovdqa %%ymm0, %%ymm10; vmovdqa %%ymm0, %%ymm11;"
        "vmovdqa %%ymm0, %%ymm12; vmovdqa %%ymm0, %%ymm13; vmovdqa %%ymm0, %%ymm14; vmovdqa %%ymm0, %%ymm15; fninit; fldpi;"
        "mov $0x9fc0, %%eax; push %%rax; ldmxcsr (%%rsp); pop %%rax; xor %%r8d, %%r8d; xor %%r9d, %%r9d; xor %%r10d, %%r10d"
        ::: "rax", "r8", "r9", "r10", "memory", "cc");
    return 1;
}

/* Registers before and after a system call. */
struct state {
    uint64_t number, rdi, rsi, rdx, r10, r8, r9, rbx, r12, r13, r14, r15, rbp, rsp;
    uint32_t mxcsr, unused;
    double x87;
    uint8_t ymm[16][32];
} __attribute__((aligned(32)));

void bare_syscall(const struct state *before, struct state *after);
__asm__(
    ".pushsection .text\n"
    ".globl bare_syscall\n"
    "bare_syscall:\n"
    " push %rbx; push %rbp; push %r12; push %r13; push %r14; push %r15; push %rsi\n"
    " sub $8, %rsp; stmxcsr (%rsp)\n"
    " mov %rdi, %rax\n"
    " vmovdqa 128(%rax), %ymm0; vmovdqa 160(%rax), %ymm1; vmovdqa 192(%rax), %ymm2; vmovdqa 224(%rax), %ymm3\n"
    " vmovdqa 256(%rax), %ymm4; vmovdqa 288(%rax), %ymm5; vmovdqa 320(%rax), %ymm6; vmovdqa 352(%rax), %ymm7\n"
    " vmovdqa 384(%rax), %ymm8; vmovdqa 416(%rax), %ymm9; vmovdqa 448(%rax), %ymm10; vmovdqa 480(%rax), %ymm11\n"
    " vmovdqa 512(%rax), %ymm12; vmovdqa 544(%rax), %ymm13; vmovdqa 576(%rax), %ymm14; vmovdqa 608(%rax), %ymm15\n"
    " ldmxcsr 112(%rax); fldl 120(%rax)\n"
    " mov 16(%rax), %rsi; mov 24(%rax), %rdx; mov 32(%rax), %r10; mov 40(%rax), %r8; mov 48(%rax), %r9\n"
    " mov 56(%rax), %rbx; mov 64(%rax), %r12; mov 72(%rax), %r13; mov 80(%rax), %r14; mov 88(%rax), %r15; mov 96(%rax), %rbp\n"
    " mov 8(%rax), %rdi; mov (%rax), %rax\n"
    /* A leaf's own below the stack pointer. */
    " movq $0x1234567, -120(%rsp)\n"
    " syscall\n"
    " mov 8(%rsp), %rcx\n"
    " mov %rax, (%rcx); mov %rdi, 8(%rcx); mov %rsi, 16(%rcx); mov %rdx, 24(%rcx); mov %r10, 32(%rcx); mov %r8, 40(%rcx); mov %r9, 48(%rcx)\n"
    " mov %rbx, 56(%rcx); mov %r12, 64(%rcx); mov %r13, 72(%rcx); mov %r14, 80(%rcx); mov %r15, 88(%rcx); mov %rbp, 96(%rcx)\n"
    " mov -120(%rsp), %rax; mov %rax, 104(%rcx)\n"
    " stmxcsr 112(%rcx); fstpl 120(%rcx)\n"
    " vmovdqa %ymm0, 128(%rcx); vmovdqa %ymm1, 160(%rcx); vmovdqa %ymm2, 192(%rcx); vmovdqa %ymm3, 224(%rcx)\n"
    " vmovdqa %ymm4, 256(%rcx); vmovdqa %ymm5, 288(%rcx); vmovdqa %ymm6, 320(%rcx); vmovdqa %ymm7, 352(%rcx)\n"
    " vmovdqa %ymm8, 384(%rcx); vmovdqa %ymm9, 416(%rcx); vmovdqa %ymm10, 448(%rcx); vmovdqa %ymm11, 480(%rcx)\n"
    " vmovdqa %ymm12, 512(%rcx); vmovdqa %ymm13, 544(%rcx); vmovdqa %ymm14, 576(%rcx); vmovdqa %ymm15, 608(%rcx)\n"
    " ldmxcsr (%rsp); add $16, %rsp\n"
    " pop %r15; pop %r14; pop %r13; pop %r12; pop %rbp; pop %rbx; vzeroupper\n"
    " ret\n"
    ".popsection\n");

static int ends[2], listener, epoll_fd, report[2];

static void on_signal(int signo) { (void)signo; signals++; }

/* The second thread: takes snapshots, then ends the first one's wait. */
static void *take(void *unused) {
    (void)unused;
    int device = open("/dev/seuss", O_RDWR | O_CLOEXEC);
    CHECK(10, device >= 0);
    for (int round = 0; round < 2; round++) {
        char request[] = "snapshot function renew-0";
        request[sizeof request - 2] += round;
        pthread_mutex_lock(&lock);
        CHECK(11, write(device, request, sizeof request - 1) == sizeof request - 1);
        int seen = calls, by = called_by;
        pthread_mutex_unlock(&lock);
        char text[128] = { 0 };
        int reader = open("/dev/seuss", O_RDONLY | O_CLOEXEC);
        CHECK(12, read(reader, text, sizeof text - 1) > 0);
        close(reader);
        /* With a lock held here the call cannot be over when this goes on. */
        CHECK(13, signals == 0);
        printf("round %d %.12s calls %d by %d\n", round, text, seen, seen ? by == getpid() : -1);
        fflush(stdout);
    }
    done = 1;
    struct sockaddr_in address;
    socklen_t len = sizeof address;
    char byte = 1;
    CHECK(14, write(ends[1], &byte, 1) == 1);
    CHECK(15, getsockname(listener, (void *)&address, &len) == 0);
    int client = socket(AF_UNIX, SOCK_STREAM, 0);
    CHECK(16, client >= 0);
    /* Whatever wait it is. */
    word = 8;
    syscall(SYS_futex, &word, FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0);
    usleep(20000);
    if (signal_ends) syscall(SYS_tgkill, getpid(), getpid(), SIGUSR1);
    return NULL;
}

int main(int argc, char **argv) {
    CHECK(1, argc >= 2);
    if (argc > 2) mode = argv[2];
    const char *kind = argv[1];
    CHECK(2, pipe(ends) == 0 && pipe(report) == 0);
    struct sockaddr_in any = { .sin_family = AF_INET };
    listener = socket(AF_INET, SOCK_STREAM, 0);
    CHECK(3, bind(listener, (void *)&any, sizeof any) == 0);
    epoll_fd = epoll_create1(0);
    struct epoll_event event = { .events = EPOLLIN, .data.u32 = 77 }, found[4];
    CHECK(4, epoll_ctl(epoll_fd, EPOLL_CTL_ADD, ends[0], &event) == 0);
    struct sigaction action = { .sa_handler = on_signal };
    sigaction(SIGUSR1, &action, NULL);

    /* Workers. */
    int orders[2];
    CHECK(5, pipe(orders) == 0);
    pid_t workers[2];
    for (int index = 0; index < 2; index++) {
        workers[index] = fork();
        if (workers[index] == 0) {
            char byte;
            close(orders[1]);
            ssize_t got = read(orders[0], &byte, 1);
            _exit(got == 0 && errno != EINTR ? calls : 98);
        }
    }
    close(orders[0]);

    static struct state before, after;
    static struct timespec span = { 0, 300000000 };
    char byte = 0;
    struct pollfd polled = { ends[0], POLLIN, 0 };
    long expected = 1;
    before = (struct state){ .rbx = 1, .r12 = 2, .r13 = 3, .r14 = 4, .r15 = 5, .rbp = 6, .r8 = 0, .r9 = 9, .mxcsr = 0x3f80, .x87 = 1.25 };
    if (!strcmp(kind, "read")) before.number = SYS_read, before.rdi = ends[0], before.rsi = (uintptr_t)&byte, before.rdx = 1;
    else if (!strcmp(kind, "poll")) before.number = SYS_poll, before.rdi = (uintptr_t)&polled, before.rsi = 1, before.rdx = -1;
    else if (!strcmp(kind, "epoll")) before.number = SYS_epoll_wait, before.rdi = epoll_fd, before.rsi = (uintptr_t)found, before.rdx = 4, before.r10 = -1;
    else if (!strcmp(kind, "futex")) before.number = SYS_futex, before.rdi = (uintptr_t)&word, before.rsi = FUTEX_WAIT_PRIVATE, before.rdx = 7, expected = 0;
    else if (!strcmp(kind, "sleep")) before.number = SYS_clock_nanosleep, before.rdi = CLOCK_MONOTONIC, before.rdx = (uintptr_t)&span, expected = 0;
    else if (!strcmp(kind, "pause")) before.number = SYS_pause, expected = -EINTR, signal_ends = 1;
    else CHECK(7, !"a kind of wait");
    for (int index = 0; index < 16; index++) memset(before.ymm[index], 0x10 + index, 32);
    /* Its stack has no room for calls: the first thread makes them, whatever it waits in. */
    pthread_attr_t small;
    pthread_t taker;
    CHECK(6, pthread_attr_init(&small) == 0 && pthread_attr_setstacksize(&small, 32 << 10) == 0);
    CHECK(8, pthread_create(&taker, &small, take, NULL) == 0);
    struct timespec began, ended;
    clock_gettime(CLOCK_MONOTONIC, &began);
    bare_syscall(&before, &after);
    clock_gettime(CLOCK_MONOTONIC, &ended);

    CHECK(20, (long)after.number == expected);
    CHECK(21, signals == (expected == -EINTR));
    before.number = after.number, before.rsp = 0x1234567;
    CHECK(22, memcmp(&before, &after, sizeof after) == 0);
    if (!strcmp(kind, "sleep")) {
        long ms = (ended.tv_sec - began.tv_sec) * 1000 + (ended.tv_nsec - began.tv_nsec) / 1000000;
        CHECK(23, ms >= 300 && ms < 5000);
    } else CHECK(24, done);
    pthread_join(taker, NULL);
    close(orders[1]);
    for (int index = 0; index < 2; index++) {
        int status;
        CHECK(30, waitpid(workers[index], &status, 0) == workers[index]);
        CHECK(31, WIFEXITED(status));
        printf("worker calls %d\n", WEXITSTATUS(status));
    }
    printf("end calls %d\n", calls);
    return 0;
}
