//: group = "A"
//: summary = "execve: arguments, environment, descriptors, dispositions and masks; errors; scripts"
//: link = ["static", "dynamic"]
//: needs = ["/bin/sh"]
#include "check.h"
#include <dirent.h>

static const char *self;

// What the new program sees.
static int seen(int argc, char **argv) {
    for (int i = 2; i < argc; i++) FACT("argv", "[%s]", argv[i]);
    extern char **environ;
    for (char **e = environ; *e; e++) FACT("env", "%s", *e);
    for (int fd = 3; fd < 12; fd++)
        if (fcntl(fd, F_GETFD) != -1) FACT("open descriptor", "%d", fd);
    struct sigaction action;
    static const int signals[] = { SIGUSR1, SIGUSR2, SIGINT };
    for (size_t i = 0; i < LEN(signals); i++) {
        sigaction(signals[i], NULL, &action);
        FACT(signal_name(signals[i]), "%s", action.sa_handler == SIG_IGN ? "ignored" : action.sa_handler == SIG_DFL ? "default" : "handled");
    }
    sigset_t set;
    sigprocmask(SIG_SETMASK, NULL, &set);
    FACT("blocked", "%d %d", sigismember(&set, SIGUSR1), sigismember(&set, SIGTERM));
    sigpending(&set);
    FACT("pending", "%d", sigismember(&set, SIGTERM));
    stack_t stack;
    sigaltstack(NULL, &stack);
    FACT("alternate stack", "%d", !(stack.ss_flags & SS_DISABLE));
    char directory[256];
    FACT("directory", "%s", getcwd(directory, sizeof directory));
    FACT("umask", "%o", umask(0));
    return 17;
}

static void nothing(int number) {}

int main(int argc, char **argv) {
    self = argv[0];
    if (argc > 1 && strcmp(argv[1], "seen") == 0) return seen(argc, argv);

    CHILD("exec") {
        MUST(chdir("/tmp"));
        umask(027);
        int keep = (int)MUST(open("/dev/null", O_RDONLY)), lose = (int)MUST(open("/dev/null", O_RDONLY | O_CLOEXEC));
        FACT("descriptors", "%d %d", keep, lose);
        MUST(fcntl(keep, F_DUPFD_CLOEXEC, 8) == 8 ? 0 : -1);
        MUST(fcntl(keep, F_DUPFD, 10) == 10 ? 0 : -1);
        handle(SIGUSR1, nothing, 0);
        handle(SIGUSR2, SIG_IGN, 0);
        sigset_t set;
        sigemptyset(&set);
        sigaddset(&set, SIGTERM);
        sigprocmask(SIG_BLOCK, &set, NULL);
        raise(SIGTERM);
        stack_t stack = { .ss_sp = malloc(65536), .ss_size = 65536 };
        MUST(sigaltstack(&stack, NULL));
        char *arguments[] = { "name", "seen", "one", "", "three words", NULL };
        char *environment[] = { "A=1", "B=", "odd", NULL };
        execve(self, arguments, environment);
        _exit(99);
    }

    enter_scratch();
    write_file("text", "not a program\n");
    write_file("empty", "");
    MUST(mkdir("directory", 0755));
    char *const arguments[] = { "x", NULL };
    TRY("missing", execv("missing", arguments));
    TRY("not executable", execv("text", arguments));
    MUST(chmod("text", 0755)), MUST(chmod("empty", 0755));
    TRY("no format", execv("text", arguments));
    TRY("empty", execv("empty", arguments));
    TRY("directory", execv("directory", arguments));
    TRY("empty name", execv("", arguments));
    TRY("through a file", execv("text/x", arguments));
    write_file("half", "\177ELF\2\1\1");
    MUST(chmod("half", 0755));
    TRY("half an ELF header", execv("half", arguments));
    write_file("foreign", "#!/no/such/interpreter\n");
    MUST(chmod("foreign", 0755));
    TRY("missing interpreter", execv("foreign", arguments));
    TRY("bad argv", execve("text", OPAQUE((char **)8), NULL));
    char *huge = malloc(3 << 20);
    memset(huge, 'x', 3 << 20);
    huge[(3 << 20) - 1] = 0;
    char *const too_long[] = { "x", huge, NULL };
    TRY("argument too long", execv(self, too_long));
    huge[100000] = 0;
    CHILD("an argument of 100,000 bytes") {
        char *const long_one[] = { "/bin/sh", "-c", "exit $((${#1} == 100000 ? 3 : 4))", "x", huge, NULL };
        execv("/bin/sh", long_one);
    }
    CHILD("two thousand arguments") {
        static char *many[2100] = { "/bin/sh", "-c", "exit $(($# == 2000 ? 3 : 4))", "x" };
        for (int i = 0; i < 2000; i++) many[4 + i] = "argument";
        execv("/bin/sh", many);
    }

    write_file("script", "#!/bin/sh -e\necho script: \"$0\" \"$@\"\nexit 8\n");
    MUST(chmod("script", 0755));
    CHILD("script") execl("./script", "ignored", "a", "b c", NULL);
    write_file("nested", "#!./script  one two \n");
    MUST(chmod("nested", 0755));
    CHILD("script as interpreter") execl("./nested", "ignored", "x", NULL);
    write_file("loop", "#!./loop\n");
    MUST(chmod("loop", 0755));
    TRY("script that interprets itself", execv("./loop", arguments));
    CHILD("execvp") execlp("sh", "sh", "-c", "exit 12", NULL);
    CHILD("execvp, no such") { execlp("no-such-program", "x", NULL); _exit(errno == ENOENT ? 0 : 1); }
    CHILD("fexecve") {
        MUST(chdir("/"));
        int fd = (int)MUST(open(self, O_RDONLY | O_CLOEXEC));
        char *const a[] = { "f", "seen", NULL };
        char *const e[] = { NULL };
        fexecve(fd, a, e);
        _exit(99);
    }
    CHILD("null argv") { syscall(SYS_execve, "/bin/true", NULL, NULL); _exit(99); }
    return done();
}
