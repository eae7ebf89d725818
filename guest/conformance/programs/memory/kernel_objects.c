//: group = "F"
//: summary = "memory that the kernel holds for programs counts: when descriptors have used it up somebody is killed, and all is well afterwards"
//: timeout = 180
//: memory = "64M"
//: limit-memory = true
//: link = ["static"]
#include "check.h"
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/resource.h>

enum { PROCESSES_MAX = 200 };

static int open_null(void) { return open("/dev/null", O_RDONLY); }
static int make_eventfd(void) { return eventfd(0, 0); }
static int make_epoll(void) { return epoll_create1(0); }

// Processes that hold as many descriptors as they may, one after the other, until one is killed.
static void leak(const char *name, int (*make)(void)) {
    pid_t pids[PROCESSES_MAX];
    int made = 0, killed = 0, status;
    while (made < PROCESSES_MAX && !killed) {
        pid_t pid = fork();
        if (pid < 0) break;
        if (pid == 0) {
            // The parent, which is no larger, must not be chosen.
            int fd = (int)MUST(open("/proc/self/oom_score_adj", O_WRONLY));
            MUST(write(fd, "1000", 4));
            struct rlimit limit = { 20000, 20000 };
            MUST(setrlimit(RLIMIT_NOFILE, &limit));
            while (make() >= 0) {}
            raise(SIGSTOP);
            _exit(0);
        }
        pids[made++] = pid;
        pid_t told;
        do {
            told = waitpid(-1, &status, WUNTRACED);
            killed += WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL;
        } while (told != pid);
    }
    for (int i = 0; i < made; i++) kill(pids[i], SIGKILL);
    while (waitpid(-1, NULL, 0) > 0) {}
    CHECK(name, killed > 0 || made < PROCESSES_MAX);
}

int main(void) {
    leak("open files", open_null);
    leak("event counters", make_eventfd);
    leak("epoll instances", make_epoll);
    leak("open files, again", open_null);
    CHILD("afterwards") {
        TRY("open", open("/dev/null", O_RDONLY));
        CHILD("fork") {}
    }
    return done();
}
