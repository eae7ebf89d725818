//: group = "C"
//: summary = "/sys/class/net and /proc/net/route: the loopback interface, what does not exist"
//: link = ["static"]
#include "check.h"
#include <dirent.h>

static void show(const char *path) {
    char text[256] = "";
    int fd = open(path, O_RDONLY);
    if (fd == -1) {
        FACT(path, "%s", errno_name(errno));
        return;
    }
    ssize_t got = read(fd, text, sizeof text - 1);
    close(fd);
    text[got > 0 ? got : 0] = 0;
    text[strcspn(text, "\n")] = 0;
    FACT(path, "%s", text);
}

int main(void) {
    DIR *directory = opendir("/sys/class/net");
    CHECK("/sys/class/net", directory != NULL);
    int loopbacks = 0;
    for (struct dirent *entry; directory && (entry = readdir(directory));) loopbacks += strcmp(entry->d_name, "lo") == 0;
    FACT("lo in it", "%d", loopbacks);
    show("/sys/class/net/lo/addr_len");
    show("/sys/class/net/lo/address");
    show("/sys/class/net/lo/broadcast");
    show("/sys/class/net/lo/carrier");
    show("/sys/class/net/lo/flags");
    show("/sys/class/net/lo/ifindex");
    show("/sys/class/net/lo/mtu");
    show("/sys/class/net/lo/operstate");
    show("/sys/class/net/lo/type");
    show("/sys/class/net/lo/nothing");
    show("/sys/class/net/nothing/mtu");
    show("/proc/net/route");
    return done();
}
