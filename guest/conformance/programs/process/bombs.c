//: group = "F"
//: summary = "limits that a program runs into: processes, descriptors, pipes, sockets, mappings; everything works afterwards"
//: timeout = 180
//: link = ["static"]
#include "check.h"
#include <sys/resource.h>
#include <sys/socket.h>

int main(void) {
    CHILD("fork bomb with RLIMIT_NPROC 40") {
        struct rlimit limit = { 40, 40 };
        MUST(setrlimit(RLIMIT_NPROC, &limit));
        MUST(setuid(1000));
        int made = 0;
        pid_t pids[64];
        while (made < 64 && (pids[made] = fork()) > 0) made++;
        if (made < 64 && pids[made] == 0) {
            pause();
            _exit(0);
        }
        int error = errno;
        FACT("children", "%d, then %s", made, errno_name(error));
        for (int i = 0; i < made; i++) kill(pids[i], SIGKILL), waitpid(pids[i], NULL, 0);
        CHILD("one more afterwards") {}
    }
    CHILD("a fork bomb that forks in the children too") {
        struct rlimit limit = { 30, 30 };
        MUST(setrlimit(RLIMIT_NPROC, &limit));
        MUST(setsid());
        MUST(setuid(1001));
        int64_t end = now_ns() + 200000000;
        if (MUST(fork()) == 0)
            for (;;) {
                if (fork() == 0 && now_ns() > end) pause();
                if (now_ns() > end) pause();
            }
        sleep_ms(300);
        kill(0, SIGKILL);
    }
    while (waitpid(-1, NULL, 0) > 0) {}
    CHILD("execve as a user who has too many processes") {
        pid_t pids[3];
        for (int i = 0; i < 3; i++)
            if ((pids[i] = (pid_t)MUST(fork())) == 0) {
                MUST(setuid(1002));
                pause();
                _exit(0);
            }
        sleep_ms(50);
        char *const args[] = { "/proc/self/exe", "0", NULL };
        struct rlimit limit = { 2, 2 }, enough = { 3, 3 };
        CHILD("more than the limit before") {
            MUST(setrlimit(RLIMIT_NPROC, &limit));
            TRY("setuid", setuid(1002));
            TRY("execve", execv(args[0], args));
            TRY("fork", fork());
            for (int i = 0; i < 3; i++) kill(pids[i], SIGKILL);
            sleep_ms(50);
        }
        for (int i = 0; i < 3; i++) waitpid(pids[i], NULL, 0);
        for (int i = 0; i < 3; i++)
            if ((pids[i] = (pid_t)MUST(fork())) == 0) {
                MUST(setuid(1002));
                pause();
                _exit(0);
            }
        sleep_ms(50);
        CHILD("the limit itself before") {
            MUST(setrlimit(RLIMIT_NPROC, &enough));
            TRY("setuid", setuid(1002));
            TRY("execve", execv("/bin/true", args));
        }
        CHILD("set back") {
            MUST(setrlimit(RLIMIT_NPROC, &limit));
            TRY("seteuid", seteuid(1002));
            TRY("execve", execv("/bin/true", args));
        }
        CHILD("as root") {
            MUST(setrlimit(RLIMIT_NPROC, &limit));
            TRY("execve", execv("/bin/true", args));
        }
        for (int i = 0; i < 3; i++) kill(pids[i], SIGKILL), waitpid(pids[i], NULL, 0);
    }
    CHILD("descriptors") {
        struct rlimit limit = { 500, 500 };
        MUST(setrlimit(RLIMIT_NOFILE, &limit));
        int count = 0, p[2];
        while (pipe(p) == 0) count++;
        FACT("pipes", "%d, then %s", count, errno_name(errno));
        TRY("socket", socket(AF_UNIX, SOCK_STREAM, 0));
        TRY("socketpair", socketpair(AF_UNIX, SOCK_STREAM, 0, p));
    }
    CHILD("mappings") {
        int count = 0;
        // Alternating permissions: no two neighbours can be one.
        while (count < 100000 && mmap(NULL, PAGE, count & 1 ? PROT_READ : PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) != MAP_FAILED) count++;
        CHECK("tens of thousands", count > 60000);
    }
    CHILD("ten thousand files") {
        enter_scratch();
        char name[32];
        for (int i = 0; i < 10000; i++) {
            snprintf(name, sizeof name, "%d", i);
            MUST(close((int)MUST(open(name, O_CREAT | O_WRONLY, 0600))));
        }
        for (int i = 0; i < 10000; i++) {
            snprintf(name, sizeof name, "%d", i);
            MUST(unlink(name));
        }
    }
    CHILD("a thousand forks") {
        for (int i = 0; i < 1000; i++) {
            pid_t pid = (pid_t)MUST(fork());
            if (pid == 0) _exit(0);
            MUST(waitpid(pid, NULL, 0));
        }
    }
    CHILD("all is well") {}
    return done();
}
