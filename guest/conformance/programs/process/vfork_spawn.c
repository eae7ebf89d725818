//: group = "B"
//: summary = "vfork, clone with CLONE_VM|CLONE_VFORK, posix_spawn, system, popen"
//: link = ["static", "dynamic"]
//: needs = ["/bin/sh"]
#include "check.h"
#include <sched.h>
#include <spawn.h>

extern char **environ;
static volatile int shared;

static int in_clone(void *argument) {
    shared = *(int *)argument;
    _exit(6);
}

static int execs(void *argument) {
    execl("/bin/sh", "sh", "-c", "exit 21", NULL);
    shared = errno;
    _exit(127);
}

int main(void) {
    pid_t pid = vfork();
    if (pid == 0) {
        shared = 5;
        _exit(4);
    }
    FACT("parent sees what the vfork child wrote", "%d", shared);
    reap("vfork", pid);
    pid = vfork();
    if (pid == 0) {
        execl("/bin/sh", "sh", "-c", "exit 11", NULL);
        _exit(127);
    }
    reap("vfork and exec", pid);
    pid = vfork();
    if (pid == 0) {
        execl("/no/such", "x", NULL);
        shared = errno;
        _exit(127);
    }
    reap("vfork and failed exec", pid);
    FACT("errno from the child", "%s", errno_name(shared));

    char *stack = map_anonymous(64 << 10);
    int value = 77;
    pid = (pid_t)MUST(clone(in_clone, stack + (64 << 10), CLONE_VM | CLONE_VFORK | SIGCHLD, &value));
    FACT("clone VM|VFORK", "%d", shared);
    reap("its end", pid);
    pid = (pid_t)MUST(clone(execs, stack + (64 << 10), CLONE_VM | CLONE_VFORK | SIGCHLD, NULL));
    reap("clone VM|VFORK and exec", pid);
    shared = 0;
    value = 78;
    pid = (pid_t)MUST(clone(in_clone, stack + (64 << 10), SIGCHLD, &value));
    reap("clone like fork", pid);
    FACT("parent's copy", "%d", shared);

    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    int p[2];
    MUST(pipe2(p, O_CLOEXEC));
    posix_spawn_file_actions_adddup2(&actions, p[1], 1);
    posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDONLY, 0);
    posix_spawn_file_actions_addchdir_np(&actions, "/tmp");
    posix_spawnattr_t attributes;
    posix_spawnattr_init(&attributes);
    posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF | POSIX_SPAWN_SETPGROUP);
    sigset_t set;
    sigemptyset(&set);
    posix_spawnattr_setsigmask(&attributes, &set);
    sigaddset(&set, SIGPIPE);
    posix_spawnattr_setsigdefault(&attributes, &set);
    char *arguments[] = { "sh", "-c", "pwd; echo spawned; exit 5", NULL };
    FACT("posix_spawn", "%d", posix_spawn(&pid, "/bin/sh", &actions, &attributes, arguments, environ));
    MUST(close(p[1]));
    char text[100];
    size_t length = 0;
    ssize_t got;
    while ((got = read(p[0], text + length, sizeof text - length)) > 0) length += (size_t)got;
    FACT("its output", "%.*s", (int)length, text);
    reap("its end", pid);
    FACT("posix_spawn of nothing", "%s", errno_name(posix_spawn(&pid, "/no/such", NULL, NULL, arguments, environ)));
    FACT("posix_spawnp", "%d", posix_spawnp(&pid, "true", NULL, NULL, (char *[]){ "true", NULL }, environ));
    reap("its end", pid);

    FACT("system", "%s", status_text(system("exit 3")));
    FACT("system, killed", "%s", status_text(system("kill -9 $$")));
    FILE *from = popen("echo line one; echo line two; exit 2", "r");
    while (fgets(text, sizeof text, from)) printf("popen: %s", text);
    FACT("pclose", "%s", status_text(pclose(from)));
    FILE *to = popen("cat; exit 1", "w");
    fputs("to the pipe\n", to);
    FACT("pclose", "%s", status_text(pclose(to)));
    return done();
}
