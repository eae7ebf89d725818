// What every C program of the suite uses: it prints facts, one a line, the same on every run.
//
//   CHECK("name", condition)   name: ok, or name: FAIL (the program then ends with status 1)
//   TRY("name", call)          name: ok, or the name of the errno that the call gave
//   FACT("name", "%d", x)      name: 3
//   CHILD("name") { ... }      runs the block in a child; name: exit 0, or how else it ended
#pragma once
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define PAGE 4096UL
#define LEN(array) (sizeof(array) / sizeof *(array))

// A value the compiler knows nothing about: for pointers that are wrong on purpose.
#define OPAQUE(value) ({ __typeof__((value) + 0) value_ = (value); __asm__("" : "+r"(value_)); value_; })

__attribute__((unused)) static int failures;

// Whole lines go out at once, so that nothing is left in the buffer when a program forks or dies.
__attribute__((constructor, unused)) static void line_buffered(void) {
    static char buffer[4096];
    setvbuf(stdout, buffer, _IOLBF, sizeof buffer);
}

__attribute__((unused)) static const char *errno_name(int number) {
    const char *name = strerrorname_np(number);
    return name ? name : "?";
}

__attribute__((unused)) static const char *signal_name(int number) {
    static char text[16];
    if (number >= SIGRTMIN) snprintf(text, sizeof text, "RT+%d", number - SIGRTMIN);
    else if (sigabbrev_np(number)) snprintf(text, sizeof text, "SIG%s", sigabbrev_np(number));
    else snprintf(text, sizeof text, "signal %d", number);
    return text;
}

#define FACT(name, ...)                                                                                              \
    ({                                                                                                               \
        char text_[4096];                                                                                            \
        snprintf(text_, sizeof text_, __VA_ARGS__);                                                                  \
        printf("%s: %s\n", (name), text_);                                                                           \
    })

#define CHECK(name, condition)                                                                                       \
    do {                                                                                                             \
        int errno_ = errno;                                                                                          \
        if (condition) printf("%s: ok\n", (name));                                                                   \
        else printf("%s: FAIL %s:%d (%s) errno %s\n", (name), __FILE_NAME__, __LINE__, #condition, errno_name(errno_)), failures++; \
    } while (0)

#define TRY(name, call)                                                                                              \
    ({                                                                                                               \
        errno = 0;                                                                                                   \
        long result_ = (long)(call);                                                                                 \
        printf("%s: %s\n", (name), result_ == -1 ? errno_name(errno) : "ok");                                        \
        result_;                                                                                                     \
    })

// For set-up that must not fail: the program ends with status 99.
#define MUST(call)                                                                                                   \
    ({                                                                                                               \
        long result_ = (long)(call);                                                                                 \
        if (result_ == -1) {                                                                                         \
            printf("%s:%d: %s: %s\n", __FILE_NAME__, __LINE__, #call, errno_name(errno));                            \
            exit(99);                                                                                                \
        }                                                                                                            \
        result_;                                                                                                     \
    })

__attribute__((unused)) static const char *status_text(int status) {
    static char text[64];
    if (WIFEXITED(status)) snprintf(text, sizeof text, "exit %d", WEXITSTATUS(status));
    else if (WIFSIGNALED(status)) snprintf(text, sizeof text, "killed by %s", signal_name(WTERMSIG(status)));
    else if (WIFSTOPPED(status)) snprintf(text, sizeof text, "stopped by %s", signal_name(WSTOPSIG(status)));
    else if (WIFCONTINUED(status)) snprintf(text, sizeof text, "continued");
    else snprintf(text, sizeof text, "status %#x", status);
    return text;
}

// Waits for one child; prints how it ended.
__attribute__((unused)) static void reap(const char *name, pid_t pid) {
    int status;
    pid_t got;
    do got = waitpid(pid, &status, 0);
    while (got == -1 && errno == EINTR);
    if (got == pid) FACT(name, "%s", status_text(status)), failures += WIFEXITED(status) && WEXITSTATUS(status) == 99;
    else FACT(name, "waitpid: %s", errno_name(errno));
}

__attribute__((unused)) static pid_t child_begin(void) { return (pid_t)MUST(fork()); }

#define CHILD(name)                                                                                                  \
    for (pid_t pid_ = child_begin(), once_ = 1; once_; once_ = 0, pid_ ? reap((name), pid_) : _exit(failures != 0))  \
        if (pid_ == 0)

__attribute__((unused)) static void sleep_ms(long ms) {
    struct timespec left = { ms / 1000, ms % 1000 * 1000000 };
    while (nanosleep(&left, &left) == -1 && errno == EINTR) {}
}

__attribute__((unused)) static int64_t now_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000000000LL + now.tv_nsec;
}

// A fresh empty directory becomes the working directory.
__attribute__((unused)) static void enter_scratch(void) {
    char path[] = "/tmp/conformance.XXXXXX";
    MUST(mkdtemp(path) ? 0 : -1);
    MUST(chdir(path));
}

__attribute__((unused)) static void write_file(const char *path, const char *text) {
    int fd = (int)MUST(open(path, O_WRONLY | O_CREAT | O_TRUNC, 0644));
    MUST(write(fd, text, strlen(text)) == (ssize_t)strlen(text) ? 0 : -1);
    MUST(close(fd));
}

// The file's text (at most 64 KiB), or the errno's name in parentheses. Valid until the next call.
__attribute__((unused)) static const char *read_file(const char *path) {
    static char text[65536];
    int fd = open(path, O_RDONLY);
    if (fd == -1) {
        snprintf(text, sizeof text, "(%s)", errno_name(errno));
        return text;
    }
    size_t length = 0;
    ssize_t got;
    while ((got = read(fd, text + length, sizeof text - 1 - length)) > 0) length += (size_t)got;
    text[length] = 0;
    close(fd);
    return text;
}

__attribute__((unused)) static void *map_anonymous(size_t length) {
    void *at = mmap(NULL, length, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    MUST(at == MAP_FAILED ? -1 : 0);
    return at;
}

__attribute__((unused)) static void handle(int number, void (*handler)(int), int flags) {
    struct sigaction action = { .sa_handler = handler, .sa_flags = flags };
    MUST(sigaction(number, &action, NULL));
}

__attribute__((unused)) static void handle_info(int number, void (*handler)(int, siginfo_t *, void *), int flags) {
    struct sigaction action = { .sa_sigaction = handler, .sa_flags = flags | SA_SIGINFO };
    MUST(sigaction(number, &action, NULL));
}

__attribute__((unused)) static int done(void) { return failures != 0; }
