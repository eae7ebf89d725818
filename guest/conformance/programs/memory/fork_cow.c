//: group = "B"
//: summary = "copy-on-write after fork: data, bss, heap, stack, private files; many generations"
//: link = ["static", "dynamic"]
#include "check.h"

static int data = 1, zero;

int main(void) {
    int stack = 1;
    int *heap = malloc(sizeof *heap);
    *heap = 1;
    size_t size = 16 << 20;
    char *big = map_anonymous(size);
    memset(big, 1, size);
    CHILD("child changes everything") {
        data++, zero++, stack++, ++*heap;
        memset(big, 2, size);
        if (MUST(fork()) == 0) {
            data++, big[0]++;
            _exit(data == 3 && big[0] == 3 && big[size - 1] == 2 ? 0 : 1);
        }
        int status;
        wait(&status);
        _exit(status == 0 && data == 2 && big[0] == 2 ? 0 : 2);
    }
    FACT("parent", "%d %d %d %d %d", data, zero, stack, *heap, big[size / 2]);

    // The parent changes while the child looks.
    int to_child[2], to_parent[2];
    MUST(pipe(to_child)), MUST(pipe(to_parent));
    pid_t pid = (pid_t)MUST(fork());
    if (pid == 0) {
        char c;
        read(to_child[0], &c, 1);
        size_t changed = 0;
        for (size_t i = 0; i < size; i += PAGE) changed += big[i] != 1;
        _exit(changed != 0 || data != 1);
    }
    memset(big, 9, size);
    data = 100;
    MUST(write(to_child[1], "x", 1));
    reap("child sees the state of the fork", pid);

    // System calls write into pages that are shared copy-on-write.
    pid = (pid_t)MUST(fork());
    if (pid == 0) {
        char c;
        read(to_child[0], &c, 1);
        _exit(big[PAGE] == 9 ? 0 : 1);
    }
    MUST(write(to_parent[1], "kernel writes", 13));
    MUST(read(to_parent[0], big + PAGE, 13));
    FACT("read into it", "%.13s", big + PAGE);
    MUST(write(to_child[1], "x", 1));
    reap("child's copy", pid);

    // A chain of generations, each with its own value.
    int depth = 0;
    fflush(stdout);
    for (; depth < 20; depth++) {
        pid = fork();
        if (pid != 0) break;
        big[(size_t)depth * PAGE] = (char)depth;
    }
    if (pid > 0) {
        int status;
        waitpid(pid, &status, 0);
        if (depth > 0) _exit(WEXITSTATUS(status) + (big[(size_t)(depth - 1) * PAGE] == depth - 1));
        FACT("generations right", "%d", WEXITSTATUS(status));
    } else {
        _exit(big[19 * PAGE] == 19);
    }
    // Fork and exit many times: no page may be lost.
    for (int i = 0; i < 300; i++) {
        pid = (pid_t)MUST(fork());
        if (pid == 0) {
            memset(big, i, size / 4);
            _exit(0);
        }
        waitpid(pid, NULL, 0);
    }
    FACT("after 300 forks", "%d", big[0]);
    return done();
}
