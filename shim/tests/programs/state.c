/* State of every kind, a snapshot in the middle, and a check that nothing is missing. Prints one line; exits with the number of the first check that
 * failed, or 0. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <fenv.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/timerfd.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { HEAP = 8 << 20, PAGE = 4096 };

static volatile sig_atomic_t signals;
static int pipe_to_thread[2], pipe_to_child[2];
static char thread_saw;
static long slept_ms;

static void on_signal(int signo) { (void)signo; signals++; }

static long now_ms(clockid_t clock) {
    struct timespec at;
    clock_gettime(clock, &at);
    return at.tv_sec * 1000 + at.tv_nsec / 1000000;
}

static void *reader(void *unused) {
    (void)unused;
    if (read(pipe_to_thread[0], &thread_saw, 1) != 1) thread_saw = '?';
    return NULL;
}

static void *sleeper(void *unused) {
    (void)unused;
    long before = now_ms(CLOCK_MONOTONIC);
    struct timespec time = { 0, 300 * 1000000 };
    while (nanosleep(&time, &time) != 0) { }
    slept_ms = now_ms(CLOCK_MONOTONIC) - before;
    return NULL;
}

#define CHECK(number, what) do { if (!(what)) { printf("check %d failed: %s\n", number, #what); fflush(stdout); exit(number); } } while (0)

int main(int argc, char **argv) {
    const char *request = argc > 1 ? argv[1] : "snapshot function state";
    unsigned char *heap = malloc(HEAP);
    for (int i = 0; i < HEAP; i++) heap[i] = (unsigned char)(i * 7 + (i >> 12));
    int *shared = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    unsigned char *wiped = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    memset(wiped, 0x5a, PAGE);
    CHECK(1, madvise(wiped, PAGE, MADV_WIPEONFORK) == 0);

    int file = open("/tmp/file", O_RDWR | O_CREAT | O_TRUNC, 0600);
    CHECK(2, file >= 0 && write(file, "0123456789", 10) == 10 && lseek(file, 4, SEEK_SET) == 4);
    char *mapped = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    mapped[5] = 'x';

    int half[2];
    CHECK(3, pipe(half) == 0 && write(half[1], "abcdef", 6) == 6);
    char three[3];
    CHECK(4, read(half[0], three, 3) == 3);

    signal(SIGUSR1, on_signal);
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGUSR1);
    sigprocmask(SIG_BLOCK, &set, NULL);
    raise(SIGUSR1);

    int timer = timerfd_create(CLOCK_MONOTONIC, 0);
    struct itimerspec soon = { { 0, 0 }, { 0, 400 * 1000000 } };
    CHECK(5, timerfd_settime(timer, 0, &soon, NULL) == 0);

    pthread_t threads[2];
    CHECK(6, pipe(pipe_to_thread) == 0 && pipe(pipe_to_child) == 0);
    pthread_create(&threads[0], NULL, reader, NULL);
    pthread_create(&threads[1], NULL, sleeper, NULL);
    pid_t child = fork();
    if (child == 0) {
        char order;
        if (read(pipe_to_child[0], &order, 1) != 1) _exit(1);
        /* Memory from before the fork, shared copy-on-write with the parent. */
        for (int i = 0; i < HEAP; i += PAGE)
            if (heap[i] != (unsigned char)(i * 7 + (i >> 12))) _exit(2);
        heap[1] = 1;
        *shared += order;
        _exit(0);
    }
    *shared = 40;
    usleep(20000);

    fesetround(FE_UPWARD);
    volatile double third = 1.0 / 3.0;
    register double kept = third * 3.0 + 1e-9;
    __asm__ volatile("" : "+x"(kept));
    long monotonic = now_ms(CLOCK_MONOTONIC);
    long realtime = now_ms(CLOCK_REALTIME);

    int device = open("/dev/seuss", O_RDWR);
    CHECK(7, device >= 0);
    ssize_t asked = write(device, request, strlen(request));
    CHECK(8, asked == (ssize_t)strlen(request));

    long passed = now_ms(CLOCK_MONOTONIC) - monotonic;
    long real_passed = now_ms(CLOCK_REALTIME) - realtime;
    CHECK(9, passed >= 0 && passed < 30000 && real_passed >= passed - 1);
    CHECK(10, fegetround() == FE_UPWARD);
    __asm__ volatile("" : "+x"(kept));
    CHECK(11, kept > 1.0 && kept < 1.00001);

    char text[64] = { 0 };
    CHECK(12, read(device, text, sizeof text) > 0);
    long generation = atol(text + strlen("generation "));
    for (int i = 0; i < HEAP; i++) CHECK(13, heap[i] == (unsigned char)(i * 7 + (i >> 12)));
    CHECK(14, wiped[0] == (generation > 0 ? 0 : 0x5a));

    char rest[16] = { 0 };
    CHECK(15, read(file, rest, 6) == 6 && memcmp(rest, "4x6789", 6) == 0);
    CHECK(16, pwrite(file, "Y", 1, 7) == 1 && mapped[7] == 'Y');
    CHECK(17, read(half[0], rest, 16) == 3 && memcmp(rest, "def", 3) == 0);
    CHECK(18, signals == 0);
    sigprocmask(SIG_UNBLOCK, &set, NULL);
    CHECK(19, signals == 1);

    CHECK(20, write(pipe_to_thread[1], "t", 1) == 1 && pthread_join(threads[0], NULL) == 0 && thread_saw == 't');
    CHECK(21, write(pipe_to_child[1], "\2", 1) == 1);
    int status;
    CHECK(22, waitpid(child, &status, 0) == child && status == 0);
    CHECK(23, *shared == 42 && heap[1] == 7);
    CHECK(24, pthread_join(threads[1], NULL) == 0 && slept_ms >= 300 && slept_ms < 30000);
    unsigned long long expirations = 0;
    CHECK(25, read(timer, &expirations, 8) == 8 && expirations == 1);

    unsigned long long random = 0;
    CHECK(26, getrandom(&random, sizeof random, 0) == sizeof random);
    struct utsname name;
    uname(&name);
    printf("generation %ld random %016llx host %s slept %ld\n", generation, random, name.nodename, real_passed - passed);
    return 0;
}
