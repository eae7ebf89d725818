/* Five snapshots, one upon the other: each adds a region, changes one that all share, and frees one. */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { LEVELS = 5, PAGES = 32, PAGE = 4096 };

int main(void) {
    unsigned char *regions[LEVELS + 1] = { 0 };
    unsigned *common = mmap(NULL, PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    for (int level = 1; level <= LEVELS; level++) {
        regions[level] = mmap(NULL, PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        memset(regions[level], level, PAGES * PAGE);
        common[0] = (unsigned)level;
        common[level * PAGE / 4] = (unsigned)(level * level);
        if (level > 2) {
            munmap(regions[level - 2], PAGES * PAGE);
            regions[level - 2] = NULL;
        }
        char request[64];
        int len = snprintf(request, sizeof request, "snapshot argument d%d", level);
        int device = open("/dev/seuss", O_RDWR);
        if (write(device, request, (size_t)len) != len) return 100;
        char text[128] = { 0 };
        if (read(device, text, sizeof text - 1) <= 0) return 101;
        close(device);
        printf("level %d %.*s\n", level, (int)strcspn(text, "\n"), text);
        fflush(stdout);
        if (common[0] != (unsigned)level) return level * 10 + 1;
        for (int below = 1; below <= LEVELS; below++)
            if (common[below * PAGE / 4] != (unsigned)(below <= level ? below * below : 0)) return level * 10 + 2;
        for (int below = 1; below <= level; below++)
            for (int at = 0; regions[below] && at < PAGES * PAGE; at++)
                if (regions[below][at] != below) return level * 10 + 3;
    }
    return 0;
}
