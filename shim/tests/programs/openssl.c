/* OpenSSL's generators in clones: the public and the private one of three threads and of a worker process, all of them used before the snapshot. Prints a number of each on a line, in a clone and not. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#define THREADS 3

static int (*public_bytes)(unsigned char *, int), (*private_bytes)(unsigned char *, int);
static int go[2];

static void draw(const char *who, int print) {
    unsigned char bytes[2][8];
    if (public_bytes(bytes[0], 8) != 1 || private_bytes(bytes[1], 8) != 1) _exit(3);
    if (!print) return;
    char line[80];
    int len = snprintf(line, sizeof line, "%s", who);
    for (int at = 0; at < 16; at++) len += snprintf(line + len, sizeof line - len, at % 8 ? "%02x" : " %02x", bytes[at / 8][at % 8]);
    line[len++] = '\n';
    if (write(1, line, len) != len) _exit(4);
}

static void *thread(void *ready) {
    char byte;
    draw("thread", 0);
    pthread_barrier_wait(ready);
    if (read(go[0], &byte, 1) != 0) _exit(5);
    draw("thread", 1);
    return NULL;
}

int main(void) {
    void *library = dlopen("libcrypto.so.3", RTLD_NOW);
    if (!library) return 2;
    public_bytes = (int (*)(unsigned char *, int))dlsym(library, "RAND_bytes");
    private_bytes = (int (*)(unsigned char *, int))dlsym(library, "RAND_priv_bytes");
    if (!public_bytes || !private_bytes || pipe(go) != 0) return 6;
    draw("main", 0);
    pid_t worker = fork();
    if (worker == 0) {
        char byte;
        draw("worker", 0);
        close(go[1]);
        if (read(go[0], &byte, 1) != 0) _exit(5);
        draw("worker", 1);
        _exit(0);
    }
    pthread_barrier_t ready;
    pthread_t threads[THREADS];
    pthread_barrier_init(&ready, NULL, THREADS + 1);
    for (int at = 0; at < THREADS; at++) pthread_create(&threads[at], NULL, thread, &ready);
    pthread_barrier_wait(&ready);
    usleep(50000);
    int device = open("/dev/seuss", O_RDWR | O_CLOEXEC);
    if (device < 0 || write(device, "snapshot function openssl", 25) != 25) return 7;
    draw("main", 1);
    close(go[1]);
    for (int at = 0; at < THREADS; at++) pthread_join(threads[at], NULL);
    int status;
    return waitpid(worker, &status, 0) == worker && status == 0 ? 0 : 8;
}
