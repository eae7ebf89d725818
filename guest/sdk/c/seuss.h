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

#endif
