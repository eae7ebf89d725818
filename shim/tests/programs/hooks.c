/* Hooks around a snapshot. Called by a path in restore.d this is a restore hook, which does what its name says; otherwise a program that is captured:
 *   hooks program          takes a snapshot, then tells what hooks have written and how long it was held
 *   hooks listener [late]  listens on a port and on /dev/seuss; `late` never answers an announcement */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

static long now_ms(void) {
    struct timespec at;
    clock_gettime(CLOCK_MONOTONIC, &at);
    return at.tv_sec * 1000 + at.tv_nsec / 1000000;
}

static int hook(const char *name) {
    int log = open("/tmp/hooks", O_WRONLY | O_CREAT | O_APPEND, 0666);
    dprintf(log, "%s:%s:%zu:%s;", name, getenv("SEUSS_GENERATION"), strlen(getenv("SEUSS_ID")), getenv("HOSTNAME"));
    if (strstr(name, "speaks")) fprintf(stderr, "hook %s speaks\n", name);
    if (strstr(name, "fails")) return 3;
    if (strstr(name, "sleeps")) sleep(3);
    if (strstr(name, "forever")) for (;;) pause();
    if (strstr(name, "floods")) {
        static char much[4096];
        memset(much, 'f', sizeof much);
        for (int i = 0; i < 1024; i++)
            if (write(2, much, sizeof much) < 0) return 4;
    }
    return 0;
}

static int program(void) {
    int device = open("/dev/seuss", O_RDWR);
    long before = now_ms();
    if (write(device, "snapshot function hooks", 23) != 23) return 1;
    long held = now_ms() - before;
    char text[4096] = "";
    int log = open("/tmp/hooks", O_RDONLY);
    if (log >= 0 && read(log, text, sizeof text - 1) < 0) return 2;
    printf("held %d log %s\n", held > 900, text);
    if (strstr(text, "forever")) {
        /* Until it is killed, and then for as long as one that did not begin would take. */
        sleep(11);
        log = open("/tmp/hooks", O_RDONLY);
        memset(text, 0, sizeof text);
        if (read(log, text, sizeof text - 1) < 0) return 2;
        printf("later %s\n", text);
    }
    return 0;
}

static int prepared, answers;

static void *listen_to_device(void *unused) {
    (void)unused;
    int device = open("/dev/seuss", O_RDWR);
    char text[256];
    ssize_t got = read(device, text, sizeof text - 1);
    if (got < 0 || write(device, "hooks", 5) != 5) exit(3);
    if (write(device, "ready 1", 7) != -1) exit(4);
    while ((got = read(device, text, sizeof text - 1)) > 0) {
        text[got] = 0;
        text[strcspn(text, "\n")] = 0;
        printf("read %s prepared %d\n", text, prepared);
        fflush(stdout);
        if (strncmp(text, "capture ", 8) == 0) {
            /* Takes its time: the capture waits. */
            usleep(200000);
            prepared = 1;
            char answer[32];
            int len = snprintf(answer, sizeof answer, "ready %s", text + 8);
            if (answers && write(device, answer, (size_t)len) != len) exit(5);
        } else if (strncmp(text, "generation ", 11) == 0) {
            exit(prepared ? 0 : 6);
        }
    }
    return NULL;
}

int main(int argc, char **argv) {
    const char *base = strrchr(argv[0], '/');
    if (strstr(argv[0], "restore.d")) return hook(base + 1);
    if (argc > 1 && strcmp(argv[1], "program") == 0) return program();
    answers = argc == 2;
    pthread_t thread;
    pthread_create(&thread, NULL, listen_to_device, NULL);
    usleep(100000);
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    struct sockaddr_in at = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK), .sin_port = htons(8098) };
    if (bind(fd, (struct sockaddr *)&at, sizeof at) != 0 || listen(fd, 5) != 0) return 2;
    accept(fd, NULL, NULL);
    return 7;
}
