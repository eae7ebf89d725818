/* More that a capture must not lose (see state.c), above all what waits for a time: prints one line; exits with the number of the first check that failed, or 0.
 *
 * Argument: milliseconds after which everything that waits is due. A clone that is made later finds it due at once where it waits for a time of day, and has
 * the rest of a span before it where it waits for a span. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <semaphore.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

#define CHECK(number, what) do { if (!(what)) { printf("check %d failed: %s, errno %s\n", number, #what, strerrorname_np(errno)); fflush(stdout); exit(number); } } while (0)

static long after_ms;
static struct timespec at_realtime, at_boottime;
static sem_t never;
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t never_told = PTHREAD_COND_INITIALIZER, told = PTHREAD_COND_INITIALIZER;
static int is_told, held_by_main = 1;
static long began, woken[5];
static volatile sig_atomic_t alarms, posix_signals, queued[3], queued_count;

static long now_ms(void) {
    struct timespec at;
    clock_gettime(CLOCK_MONOTONIC, &at);
    return at.tv_sec * 1000 + at.tv_nsec / 1000000;
}

static struct timespec later(clockid_t clock, long ms) {
    struct timespec at;
    clock_gettime(clock, &at);
    at.tv_nsec += ms % 1000 * 1000000;
    at.tv_sec += ms / 1000 + at.tv_nsec / 1000000000;
    at.tv_nsec %= 1000000000;
    return at;
}

static void on_alarm(int signo) { (void)signo; alarms++; }
static void on_posix(int signo) { (void)signo; posix_signals++; }
static void on_queued(int signo, siginfo_t *info, void *context) {
    (void)signo, (void)context;
    if (queued_count < 3) queued[queued_count++] = info->si_value.sival_int;
}

/* Threads that wait for a time: each tells when it was woken. */
static void *sleep_realtime(void *unused) {
    (void)unused;
    while (clock_nanosleep(CLOCK_REALTIME, TIMER_ABSTIME, &at_realtime, NULL) == EINTR) { }
    woken[0] = now_ms();
    return NULL;
}
static void *sleep_boottime(void *unused) {
    (void)unused;
    while (clock_nanosleep(CLOCK_BOOTTIME, TIMER_ABSTIME, &at_boottime, NULL) == EINTR) { }
    woken[1] = now_ms();
    return NULL;
}
static void *wait_semaphore(void *unused) {
    (void)unused;
    while (sem_timedwait(&never, &at_realtime) != 0 && errno == EINTR) { }
    woken[2] = now_ms();
    return NULL;
}
static void *wait_condition(void *unused) {
    (void)unused;
    pthread_mutex_t own = PTHREAD_MUTEX_INITIALIZER;
    pthread_mutex_lock(&own);
    while (pthread_cond_timedwait(&never_told, &own, &at_realtime) == 0) { }
    woken[3] = now_ms();
    return NULL;
}
static void *sleep_span(void *unused) {
    (void)unused;
    struct timespec span = { after_ms / 1000, after_ms % 1000 * 1000000 };
    while (clock_nanosleep(CLOCK_REALTIME, 0, &span, &span) == EINTR) { }
    woken[4] = now_ms();
    return NULL;
}

/* Threads that wait for the main thread: futexes. */
static void *wait_told(void *unused) {
    (void)unused;
    pthread_mutex_lock(&mutex);
    while (!is_told) pthread_cond_wait(&told, &mutex);
    pthread_mutex_unlock(&mutex);
    return (void *)1;
}
static void *wait_mutex(void *held) {
    pthread_mutex_lock(held);
    int seen = held_by_main;
    pthread_mutex_unlock(held);
    return (void *)(intptr_t)(seen == 0);
}

/* Writes to the device with all vector registers full, and gives what they hold after it. */
static long write_with_vectors(int device, const char *request, long length, const unsigned char in[16][32], unsigned char out[16][32]) {
    register long rax __asm__("rax") = 1;
    register long rdi __asm__("rdi") = device;
    register const char *rsi __asm__("rsi") = request;
    register long rdx __asm__("rdx") = length;
    register const void *r8 __asm__("r8") = in;
    register void *r9 __asm__("r9") = out;
#define EACH(_) _(0) _(1) _(2) _(3) _(4) _(5) _(6) _(7) _(8) _(9) _(10) _(11) _(12) _(13) _(14) _(15)
#define LOAD(n) "vmovdqu " #n "*32(%%r8), %%ymm" #n "\n\t"
#define STORE(n) "vmovdqu %%ymm" #n ", " #n "*32(%%r9)\n\t"
    __asm__ volatile(EACH(LOAD) "syscall\n\t" EACH(STORE) "vzeroupper"
                     : "+r"(rax) : "r"(rdi), "r"(rsi), "r"(rdx), "r"(r8), "r"(r9)
                     : "rcx", "r11", "memory", "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10",
                       "xmm11", "xmm12", "xmm13", "xmm14", "xmm15");
    return rax;
}

int main(int argc, char **argv) {
    after_ms = argc > 1 ? atol(argv[1]) : 1000;
    const char *request = "snapshot function held";
    CHECK(1, sem_init(&never, 0, 0) == 0);

    /* Signals that are pending, with their values, and in order. */
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGRTMIN);
    sigprocmask(SIG_BLOCK, &set, NULL);
    struct sigaction action = { .sa_sigaction = on_queued, .sa_flags = SA_SIGINFO };
    CHECK(2, sigaction(SIGRTMIN, &action, NULL) == 0);
    for (int value = 11; value <= 13; value++) CHECK(3, sigqueue(getpid(), SIGRTMIN, (union sigval){ value }) == 0);

    int counter = eventfd(7, EFD_NONBLOCK), pair[2];
    CHECK(4, counter >= 0 && socketpair(AF_UNIX, SOCK_STREAM, 0, pair) == 0 && write(pair[0], "under way", 9) == 9);
    char some[16] = { 0 };
    CHECK(5, read(pair[1], some, 6) == 6);
    int watcher = epoll_create1(0);
    struct epoll_event watched = { EPOLLIN, { .u64 = 42 } };
    CHECK(6, epoll_ctl(watcher, EPOLL_CTL_ADD, counter, &watched) == 0);

    /* Files of the overlay: made, renamed, removed but open, changed in the image. */
    int made = open("/tmp/made", O_RDWR | O_CREAT | O_TRUNC, 0640), removed = open("/tmp/removed", O_RDWR | O_CREAT, 0600);
    CHECK(7, write(made, "made", 4) == 4 && rename("/tmp/made", "/tmp/renamed") == 0);
    CHECK(8, write(removed, "still here", 10) == 10 && unlink("/tmp/removed") == 0 && symlink("renamed", "/tmp/link") == 0);
    int image = open("/data", O_RDWR);
    CHECK(9, image >= 0 && pwrite(image, "changed", 7, 0) == 7);

    pthread_mutex_t held = PTHREAD_MUTEX_INITIALIZER;
    pthread_mutex_lock(&held);
    at_realtime = later(CLOCK_REALTIME, after_ms);
    at_boottime = later(CLOCK_BOOTTIME, after_ms);
    began = now_ms();
    static void *(*const sleepers[])(void *) = { sleep_realtime, sleep_boottime, wait_semaphore, wait_condition, sleep_span };
    pthread_t threads[5], waiter, locker;
    for (int at = 0; at < 5; at++) CHECK(10, pthread_create(&threads[at], NULL, sleepers[at], NULL) == 0);
    CHECK(11, pthread_create(&waiter, NULL, wait_told, NULL) == 0 && pthread_create(&locker, NULL, wait_mutex, &held) == 0);

    int realtime = timerfd_create(CLOCK_REALTIME, 0), boottime = timerfd_create(CLOCK_BOOTTIME, 0);
    int cancelled = timerfd_create(CLOCK_REALTIME, TFD_NONBLOCK), span = timerfd_create(CLOCK_REALTIME, 0);
    struct itimerspec when = { .it_value = at_realtime }, in_a_while = { .it_value = { after_ms / 1000, after_ms % 1000 * 1000000 } };
    struct itimerspec far = { .it_value = later(CLOCK_REALTIME, 3600 * 1000) };
    CHECK(12, timerfd_settime(realtime, TFD_TIMER_ABSTIME, &when, NULL) == 0);
    CHECK(13, timerfd_settime(boottime, 0, &in_a_while, NULL) == 0 && timerfd_settime(span, 0, &in_a_while, NULL) == 0);
    CHECK(14, timerfd_settime(cancelled, TFD_TIMER_ABSTIME | TFD_TIMER_CANCEL_ON_SET, &far, NULL) == 0);
    timer_t posix;
    struct sigevent event = { .sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGUSR2 };
    signal(SIGUSR2, on_posix);
    CHECK(15, timer_create(CLOCK_REALTIME, &event, &posix) == 0 && timer_settime(posix, TIMER_ABSTIME, &when, NULL) == 0);
    signal(SIGALRM, on_alarm);
    struct itimerval interval = { { 0, 50000 }, { after_ms / 1000, after_ms % 1000 * 1000 } };
    CHECK(16, setitimer(ITIMER_REAL, &interval, NULL) == 0);
    usleep(50000);

    unsigned char in[16][32], out[16][32] = { { 0 } };
    for (int at = 0; at < 512; at++) ((unsigned char *)in)[at] = (unsigned char)(at * 31 + 7);
    int device = open("/dev/seuss", O_RDWR);
    CHECK(20, device >= 0);
    CHECK(21, write_with_vectors(device, request, (long)strlen(request), in, out) == (long)strlen(request));
    CHECK(22, memcmp(in, out, sizeof in) == 0);
    char text[64] = { 0 };
    CHECK(23, read(device, text, sizeof text) > 0);
    long generation = atol(text + strlen("generation "));

    CHECK(30, queued_count == 0);
    sigprocmask(SIG_UNBLOCK, &set, NULL);
    CHECK(31, queued_count == 3 && queued[0] == 11 && queued[1] == 12 && queued[2] == 13);
    struct epoll_event found;
    CHECK(32, epoll_wait(watcher, &found, 1, 0) == 1 && found.data.u64 == 42);
    uint64_t count = 0;
    CHECK(33, read(counter, &count, 8) == 8 && count == 7 && epoll_wait(watcher, &found, 1, 0) == 0);
    memset(some, 0, sizeof some);
    CHECK(34, read(pair[1], some, sizeof some) == 3 && strcmp(some, "way") == 0);
    memset(some, 0, sizeof some);
    CHECK(35, pread(removed, some, 16, 0) == 10 && strcmp(some, "still here") == 0 && access("/tmp/removed", F_OK) != 0);
    memset(some, 0, sizeof some);
    int link = open("/tmp/link", O_RDONLY);
    CHECK(36, read(link, some, 16) == 4 && strcmp(some, "made") == 0 && access("/tmp/made", F_OK) != 0 && write(made, "!", 1) == 1);
    int again = open("/data", O_RDONLY);
    CHECK(37, read(again, some, 7) == 7 && memcmp(some, "changed", 7) == 0);

    pthread_mutex_lock(&mutex);
    is_told = 1;
    pthread_cond_broadcast(&told);
    pthread_mutex_unlock(&mutex);
    void *result = NULL;
    CHECK(40, pthread_join(waiter, &result) == 0 && result == (void *)1);
    held_by_main = 0;
    pthread_mutex_unlock(&held);
    CHECK(41, pthread_join(locker, &result) == 0 && result == (void *)1);

    struct pollfd poll_cancelled = { cancelled, POLLIN, 0 };
    long was_set = generation > 0;
    CHECK(50, poll(&poll_cancelled, 1, 0) == was_set);
    CHECK(51, read(cancelled, &count, 8) == -1 && errno == (was_set ? ECANCELED : EAGAIN));
    CHECK(52, read(cancelled, &count, 8) == -1 && errno == EAGAIN);
    ssize_t got;
    while ((got = read(realtime, &count, 8)) == -1 && errno == EINTR) { }
    CHECK(53, got == 8 && count == 1);
    while ((got = read(boottime, &count, 8)) == -1 && errno == EINTR) { }
    CHECK(54, got == 8 && count == 1);
    for (int at = 0; at < 4; at++) CHECK(55, pthread_join(threads[at], NULL) == 0);
    while (posix_signals == 0) usleep(1000);
    long due = now_ms() - began, first = due;
    for (int at = 0; at < 4; at++)
        if (woken[at] - began < first) first = woken[at] - began;
    while ((got = read(span, &count, 8)) == -1 && errno == EINTR) { }
    CHECK(56, got == 8 && count == 1);
    CHECK(57, pthread_join(threads[4], NULL) == 0);
    while (alarms == 0) usleep(1000);
    long spans = (woken[4] < now_ms() ? woken[4] : now_ms()) - began;
    printf("generation %ld first %ld due %ld span %ld\n", generation, first, due, spans);
    return 0;
}
