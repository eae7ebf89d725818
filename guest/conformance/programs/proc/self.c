//: group = "B"
//: summary = "/proc/self: exe, cmdline, environ, comm, cwd, root, fd, stat, status, statm, maps; /proc/PID of a child"
//: link = ["static", "dynamic"]
//: args = ["one", "two words", ""]
//: env = { CONF_MARK = "here" }
#include "check.h"
#include <dirent.h>

static const char *field(const char *text, const char *name) {
    static char value[200];
    size_t length = strlen(name);
    for (const char *line = text; line && *line; line = strchr(line, '\n') ? strchr(line, '\n') + 1 : NULL)
        if (strncmp(line, name, length) == 0 && line[length] == ':') {
            line += length + 1;
            while (*line == ' ' || *line == '\t') line++;
            snprintf(value, sizeof value, "%.*s", (int)strcspn(line, "\n"), line);
            return value;
        }
    return "(missing)";
}

static int by_number(const void *a, const void *b) { return *(const int *)a - *(const int *)b; }

static void list_descriptors(const char *path) {
    DIR *directory = opendir(path);
    int found[64], count = 0;
    struct dirent *entry;
    while ((entry = readdir(directory)))
        if (entry->d_name[0] != '.') found[count++] = atoi(entry->d_name);
    qsort(found, (size_t)count, sizeof *found, by_number);
    char text[200] = "";
    for (int i = 0; i < count; i++) sprintf(text + strlen(text), "%d ", found[i]);
    FACT(path, "%s", text);
    closedir(directory);
}

int main(int argc, char **argv) {
    char path[300] = "", other[300] = "";
    FACT("exe", "%zd", readlink("/proc/self/exe", path, sizeof path));
    FACT("exe", "%s", path);
    int fd = (int)MUST(open("/proc/self/cmdline", O_RDONLY));
    ssize_t length = read(fd, path, sizeof path);
    for (ssize_t i = 0; i < length; i++) path[i] = path[i] ? path[i] : '|';
    FACT("cmdline", "%.*s", (int)length, path);
    fd = (int)MUST(open("/proc/self/environ", O_RDONLY));
    static char environment[4096];
    length = read(fd, environment, sizeof environment);
    bool found = false;
    for (char *at = environment; at < environment + length; at += strlen(at) + 1) found |= strcmp(at, "CONF_MARK=here") == 0;
    FACT("environ", "%d", found);
    setenv("LATER", "x", 1);
    FACT("comm", "%s", read_file("/proc/self/comm"));
    memset(path, 0, sizeof path);
    MUST(chdir("/tmp")), MUST(readlink("/proc/self/cwd", path, sizeof path));
    FACT("cwd", "%s", path);
    memset(path, 0, sizeof path);
    MUST(readlink("/proc/self/root", path, sizeof path));
    FACT("root", "%s", path);
    memset(path, 0, sizeof path);
    MUST(readlink("/proc/self", path, sizeof path));
    CHECK("self is the pid", atoi(path) == getpid());
    memset(path, 0, sizeof path);
    MUST(readlink("/proc/thread-self", path, sizeof path));
    snprintf(other, sizeof other, "%d/task/%d", getpid(), getpid());
    CHECK("thread-self", strcmp(path, other) == 0);

    close(3), close(4);
    enter_scratch();
    write_file("file", "0123456789");
    fd = (int)MUST(open("file", O_RDWR | O_APPEND));
    MUST(lseek(fd, 5, SEEK_SET));
    list_descriptors("/proc/self/fd");
    memset(path, 0, sizeof path), memset(other, 0, sizeof other);
    snprintf(other, sizeof other, "/proc/self/fd/%d", fd);
    MUST(readlink(other, path, sizeof path));
    CHECK("link of a file", strcmp(strrchr(path, '/'), "/file") == 0);
    int p[2];
    MUST(pipe(p));
    snprintf(other, sizeof other, "/proc/self/fd/%d", p[0]);
    memset(path, 0, sizeof path);
    MUST(readlink(other, path, sizeof path));
    CHECK("link of a pipe", strncmp(path, "pipe:[", 6) == 0);
    snprintf(other, sizeof other, "/proc/self/fdinfo/%d", fd);
    FACT("fdinfo pos", "%s", field(read_file(other), "pos"));
    FACT("fdinfo flags", "%s", field(read_file(other), "flags"));
    TRY("descriptor that is closed", open("/proc/self/fd/99", O_RDONLY));

    const char *status = strdup(read_file("/proc/self/status"));
    static const char *const names[] = { "Name", "Umask", "State", "Pid", "PPid", "TracerPid", "Uid", "Gid", "Threads", "SigBlk", "SigIgn", "SigCgt" };
    for (size_t i = 0; i < LEN(names); i++) FACT(names[i], "%s", field(status, names[i]));
    static const char *const sizes[] = { "VmPeak", "VmSize", "VmHWM", "VmRSS", "VmData", "VmStk", "VmExe" };
    for (size_t i = 0; i < LEN(sizes); i++) {
        long size = 0;
        char unit[8] = "";
        sscanf(field(status, sizes[i]), "%ld %7s", &size, unit);
        CHECK(sizes[i], size > 0 && strcmp(unit, "kB") == 0);
    }
    char name[64], state;
    int pid, parent, group, session;
    FACT("stat", "%d", sscanf(read_file("/proc/self/stat"), "%d (%63[^)]) %c %d %d %d", &pid, name, &state, &parent, &group, &session));
    FACT("stat", "%d %s %c %d %d %d", pid == getpid(), name, state, parent, group == getpgrp(), session == getsid(0));
    int fields = 0;
    for (const char *at = read_file("/proc/self/stat"); *at; at++) fields += *at == ' ';
    FACT("fields of stat", "%d", fields + 1);
    long size = 0, resident = 0;
    sscanf(read_file("/proc/self/statm"), "%ld %ld", &size, &resident);
    CHECK("statm", size > 0 && resident > 0 && resident <= size);
    char *big = map_anonymous(32 << 20);
    memset(big, 1, 32 << 20);
    long later = 0;
    sscanf(read_file("/proc/self/statm"), "%*d %ld", &later);
    CHECK("resident grows by what is touched", later - resident >= 8000 && later - resident < 9500);

    CHILD("a child's /proc") {
        char own[64];
        snprintf(own, sizeof own, "/proc/%d/status", getpid());
        _exit(atoi(field(read_file(own), "PPid")) == getppid() ? 0 : 1);
    }
    pid_t child = (pid_t)MUST(fork());
    if (child == 0) {
        pause();
        _exit(0);
    }
    snprintf(path, sizeof path, "/proc/%d/status", child);
    FACT("child's name", "%s", field(read_file(path), "Name"));
    snprintf(path, sizeof path, "/proc/%d/exe", child);
    memset(other, 0, sizeof other);
    FACT("child's exe", "%zd", readlink(path, other, sizeof other));
    TRY("kill", kill(child, SIGKILL));
    reap("child", child);
    snprintf(path, sizeof path, "/proc/%d/status", child);
    TRY("then it is gone", open(path, O_RDONLY));
    DIR *directory = opendir("/proc");
    int processes = 0;
    struct dirent *entry;
    while ((entry = readdir(directory))) processes += entry->d_name[0] >= '0' && entry->d_name[0] <= '9';
    FACT("processes", "%d", processes);
    directory = opendir("/proc/self/task");
    int threads = 0;
    while ((entry = readdir(directory))) threads += entry->d_name[0] != '.';
    FACT("threads", "%d", threads);
    TRY("making a file in /proc", open("/proc/new", O_CREAT | O_WRONLY, 0600));
    TRY("mkdir in /proc", mkdir("/proc/new", 0755));
    FACT("setting comm", "%d", ({ int c = (int)MUST(open("/proc/self/comm", O_WRONLY)); (int)write(c, "renamed", 7); }));
    FACT("comm", "%s", read_file("/proc/self/comm"));
    return done();
}
