/* Snapshots from inside a SEUSS guest, for C programs. No library is needed. The device's protocol is told in guest/DESIGN.md. */
#ifndef SEUSS_H
#define SEUSS_H

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* How often the lineage of this guest has been restored: 0 before the first snapshot, -1 (errno) outside of a guest. */
static inline long seuss_generation(void) {
    char text[64] = { 0 };
    int device = open("/dev/seuss", O_RDONLY | O_CLOEXEC);
    if (device < 0) return -1;
    ssize_t got = read(device, text, sizeof text - 1);
    close(device);
    return got > 11 ? strtol(text + 11, NULL, 10) : -1;
}

/* Take a snapshot of `level` ("base", "function", "argument"), called `key` (may be empty; no spaces). Returns 0 in this guest and in every clone: compare
 * seuss_generation() to know which. -1 and errno: EOPNOTSUPP (no store), EINVAL, EIO. */
static inline int seuss_snapshot(const char *level, const char *key) {
    char request[1100];
    int len = snprintf(request, sizeof request, "snapshot %s %s", level, key);
    if (len < 0 || (size_t)len >= sizeof request) return -1;
    int device = open("/dev/seuss", O_WRONLY | O_CLOEXEC);
    if (device < 0) return -1;
    ssize_t put = write(device, request, (size_t)len);
    close(device);
    return put == len ? 0 : -1;
}

/* What a listener is told. */
enum seuss_event {
    SEUSS_CAPTURE = 1, /* a snapshot is about to be taken from outside: prepare, then call seuss_ready(); it waits for a second at the most */
    SEUSS_CAPTURED,    /* in the guest that goes on: it was taken */
    SEUSS_FAILED,      /* in the guest that goes on: it could not be taken */
    SEUSS_RESTORED,    /* in a clone; `number` is the generation */
};

/* A descriptor that is told of snapshots which are taken from outside (a pod that is ready), for seuss_next(); it can be polled. -1 and errno: ENOENT outside of a guest, EMFILE: there
 * are 64 listeners. */
static inline int seuss_listen(void) {
    char text[256];
    int device = open("/dev/seuss", O_RDWR | O_CLOEXEC);
    if (device < 0) return -1;
    /* The generation as it is now is no news. */
    if (read(device, text, sizeof text) >= 0 && write(device, "hooks", 5) == 5) return device;
    close(device);
    return -1;
}

/* Wait for what happens next: one of enum seuss_event, and its number. -1 and errno. */
static inline int seuss_next(int device, long *number) {
    static const char *const names[] = { "capture ", "captured ", "failed ", "generation " };
    char text[256] = { 0 };
    if (read(device, text, sizeof text - 1) < 0) return -1;
    for (int event = SEUSS_CAPTURE; event <= SEUSS_RESTORED; event++) {
        size_t len = strlen(names[event - 1]);
        if (strncmp(text, names[event - 1], len) == 0) {
            *number = strtol(text + len, NULL, 10);
            return event;
        }
    }
    return 0;
}

/* This listener is ready for capture `number`. 0, or -1 and errno. */
static inline int seuss_ready(int device, long number) {
    char text[32];
    int len = snprintf(text, sizeof text, "ready %ld", number);
    return write(device, text, (size_t)len) == len ? 0 : -1;
}

#endif
