//: group = "B"
//: summary = "/proc/self/maps: the program, [heap], [stack], mappings with their permissions, offsets and names"
//: link = ["static", "dynamic"]
#include "check.h"

static char text[1 << 18];

static void read_maps(void) {
    int fd = (int)MUST(open("/proc/self/maps", O_RDONLY));
    size_t length = 0;
    ssize_t got;
    while ((got = read(fd, text + length, sizeof text - 1 - length)) > 0) length += (size_t)got;
    text[length] = 0;
    close(fd);
}

// Prints permissions, offset and name of the line that holds `at`.
static void line_of(const char *name, const void *at, bool with_path) {
    read_maps();
    for (char *line = text; line && *line; line = strchr(line, '\n') ? strchr(line, '\n') + 1 : NULL) {
        unsigned long start, end, offset;
        char permissions[8], path[300] = "";
        sscanf(line, "%lx-%lx %7s %lx %*s %*s%*[ ]%299[^\n]", &start, &end, permissions, &offset, path);
        if ((unsigned long)at < start || (unsigned long)at >= end) continue;
        const char *last = strrchr(path, '/') ? strrchr(path, '/') : path;
        FACT(name, "%s %lx %s", permissions, offset, with_path ? path : last);
        return;
    }
    FACT(name, "nowhere");
}

static int data = 1;
static void function(void) {}

int main(void) {
    int local;
    free(malloc(100));
    static char *heap;
    heap = sbrk(0);
    MUST(brk(heap + 2 * PAGE));
    line_of("heap", heap, true);
    line_of("stack", &local, true);
    line_of("data", &data, false);
    line_of("text", (void *)(uintptr_t)function, true);
    line_of("libc's text or our own", (void *)(uintptr_t)qsort, true);

    enter_scratch();
    write_file("file", "x");
    MUST(truncate("file", 8 * PAGE));
    int fd = (int)MUST(open("file", O_RDWR));
    char *a = mmap(NULL, 2 * PAGE, PROT_READ, MAP_PRIVATE, fd, 4 * (off_t)PAGE);
    char *b = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    char *c = mmap(NULL, PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    char *d = mmap(NULL, 3 * PAGE, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    line_of("private file", a + PAGE, false);
    line_of("shared file", b, false);
    line_of("none", c, true);
    line_of("all", d, true);
    MUST(mprotect(d + PAGE, PAGE, PROT_READ));
    line_of("its middle, protected", d + PAGE, true);
    line_of("its end", d + 2 * PAGE, true);
    MUST(munmap(a, PAGE));
    line_of("after munmap", a, true);
    line_of("the rest", a + PAGE, false);
    char *e = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    line_of("shared anonymous", e, true);
    MUST(unlink("file"));
    line_of("deleted file", b, false);

    // Lines are in order, do not overlap, and neighbours that are alike are one line.
    char *f = map_anonymous(4 * PAGE);
    MUST(mprotect(f + PAGE, PAGE, PROT_READ));
    MUST(mprotect(f + PAGE, PAGE, PROT_READ | PROT_WRITE));
    read_maps();
    unsigned long previous = 0, start, end;
    int wrong = 0, holding = 0;
    for (char *line = text; line && *line; line = strchr(line, '\n') ? strchr(line, '\n') + 1 : NULL) {
        sscanf(line, "%lx-%lx", &start, &end);
        wrong += start < previous || end <= start || start % PAGE || end % PAGE;
        previous = end;
        holding += start <= (unsigned long)f && end >= (unsigned long)f + 4 * PAGE;
    }
    FACT("wrong order, merged", "%d %d", wrong, holding);
    CHECK("read in small pieces", ({
        int small = (int)MUST(open("/proc/self/maps", O_RDONLY));
        size_t total = 0;
        char piece[100];
        ssize_t got;
        while ((got = read(small, piece, sizeof piece)) > 0) total += (size_t)got;
        total >= strlen(text);
    }));
    return done();
}
