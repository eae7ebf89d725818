//: group = "C"
//: summary = "interfaces: getifaddrs, names and numbers, netlink by hand, ioctls on an AF_UNIX socket"
//: link = ["static", "dynamic"]
#include "net.h"
#include <ifaddrs.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <net/if.h>

static struct { struct nlmsghdr header; struct ifinfomsg body; } request;
static char buffer[32768];

// Sends a request and prints what comes, up to the end of the list or a message that is no list.
static void ask(const char *name, int fd, int type, int flags, size_t length, int index) {
    memset(&request, 0, sizeof request);
    request.header = (struct nlmsghdr){ .nlmsg_len = (uint32_t)(sizeof request.header + length), .nlmsg_type = (uint16_t)type, .nlmsg_flags = (uint16_t)flags, .nlmsg_seq = 42 };
    request.body.ifi_index = index;
    if (send(fd, &request, request.header.nlmsg_len, 0) == -1) {
        FACT(name, "send %s", errno_name(errno));
        return;
    }
    int links = 0, addresses = 0;
    for (bool more = true; more;) {
        struct sockaddr_nl from;
        socklen_t length_of = sizeof from;
        ssize_t got = recvfrom(fd, buffer, sizeof buffer, MSG_DONTWAIT, (struct sockaddr *)&from, &length_of);
        if (got == -1) {
            FACT(name, "recv %s", errno_name(errno));
            return;
        }
        if (length_of != sizeof from || from.nl_pid != 0) FACT("from", "%u %u", length_of, from.nl_pid);
        for (struct nlmsghdr *header = (struct nlmsghdr *)buffer; NLMSG_OK(header, got); header = NLMSG_NEXT(header, got)) {
            if (header->nlmsg_seq != 42) FACT("sequence", "%u", header->nlmsg_seq);
            links += header->nlmsg_type == RTM_NEWLINK, addresses += header->nlmsg_type == RTM_NEWADDR;
            more = header->nlmsg_type != NLMSG_DONE && (header->nlmsg_flags & NLM_F_MULTI);
            if (header->nlmsg_type == NLMSG_ERROR) FACT(name, "error %s", errno_name(-((struct nlmsgerr *)NLMSG_DATA(header))->error));
        }
    }
    FACT(name, "%d links, %d addresses", links, addresses);
}

int main(void) {
    struct ifaddrs *list;
    TRY("getifaddrs", getifaddrs(&list));
    for (struct ifaddrs *entry = list; entry; entry = entry->ifa_next) {
        char text[100] = "", mask[100] = "";
        int family = entry->ifa_addr ? entry->ifa_addr->sa_family : -1;
        if (family == AF_INET) {
            inet_ntop(AF_INET, &((struct sockaddr_in *)entry->ifa_addr)->sin_addr, text, sizeof text);
            inet_ntop(AF_INET, &((struct sockaddr_in *)entry->ifa_netmask)->sin_addr, mask, sizeof mask);
        } else if (family == AF_INET6) {
            inet_ntop(AF_INET6, &((struct sockaddr_in6 *)entry->ifa_addr)->sin6_addr, text, sizeof text);
            inet_ntop(AF_INET6, &((struct sockaddr_in6 *)entry->ifa_netmask)->sin6_addr, mask, sizeof mask);
        }
        FACT(entry->ifa_name, "family %d %s %s, up %d, loopback %d", family, text, mask, !!(entry->ifa_flags & IFF_UP), !!(entry->ifa_flags & IFF_LOOPBACK));
    }
    freeifaddrs(list);
    FACT("if_nametoindex", "%u", if_nametoindex("lo"));
    errno = 0;
    FACT("of none", "%u %s", if_nametoindex("none0"), errno_name(errno));
    char name[IF_NAMESIZE] = "";
    FACT("if_indextoname", "%s", if_indextoname(1, name) ? name : errno_name(errno));
    FACT("of none", "%s", if_indextoname(77, name) ? name : errno_name(errno));
    struct if_nameindex *names = if_nameindex();
    for (struct if_nameindex *entry = names; entry && entry->if_index; entry++) FACT("if_nameindex", "%u %s", entry->if_index, entry->if_name);
    if_freenameindex(names);
    int local = (int)MUST(socket(AF_UNIX, SOCK_DGRAM, 0));
    struct ifreq question = { .ifr_name = "lo" };
    TRY("SIOCGIFADDR", ioctl(local, SIOCGIFADDR, &question));
    FACT("it", "%s", inet_ntoa(((struct sockaddr_in *)&question.ifr_addr)->sin_addr));
    TRY("SIOCGIFMTU", ioctl(local, SIOCGIFMTU, &question));
    FACT("it", "%d", question.ifr_mtu);

    TRY("streams", socket(AF_NETLINK, SOCK_STREAM, NETLINK_ROUTE));
    TRY("protocol out of range", socket(AF_NETLINK, SOCK_RAW, 99));
    int fd = (int)TRY("socket", socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE));
    FACT("domain, type, protocol", "%d %d %d", option(fd, SOL_SOCKET, SO_DOMAIN), option(fd, SOL_SOCKET, SO_TYPE), option(fd, SOL_SOCKET, SO_PROTOCOL));
    FACT("events", "%s", poll_events(fd, POLLIN | POLLOUT, 0));
    struct sockaddr_nl address = { .nl_family = AF_NETLINK };
    TRY("bind", bind(fd, (struct sockaddr *)&address, sizeof address));
    socklen_t length = sizeof address;
    MUST(getsockname(fd, (struct sockaddr *)&address, &length));
    FACT("address", "%u %d %d", length, address.nl_family, address.nl_pid == (unsigned)getpid());
    int second = (int)MUST(socket(AF_NETLINK, SOCK_RAW, NETLINK_ROUTE));
    TRY("the same address", bind(second, (struct sockaddr *)&address, sizeof address));
    TRY("too short", bind(second, (struct sockaddr *)&address, 4));
    address.nl_pid = 12345;
    TRY("another address", bind(fd, (struct sockaddr *)&address, sizeof address));
    address.nl_family = AF_INET, address.nl_pid = 0;
    TRY("another family", bind(second, (struct sockaddr *)&address, sizeof address));
    TRY("listen", listen(fd, 1));
    TRY("accept", accept(fd, NULL, NULL));
    TRY("nothing", recv(fd, buffer, 100, MSG_DONTWAIT));
    ask("links", fd, RTM_GETLINK, NLM_F_REQUEST | NLM_F_DUMP, sizeof request.body, 0);
    ask("addresses", fd, RTM_GETADDR, NLM_F_REQUEST | NLM_F_DUMP, sizeof(struct rtgenmsg), 0);
    ask("not a request", fd, RTM_GETLINK, NLM_F_DUMP, sizeof request.body, 0);
    ask("one link", fd, RTM_GETLINK, NLM_F_REQUEST, sizeof request.body, 1);
    ask("a link that is not there", fd, RTM_GETLINK, NLM_F_REQUEST, sizeof request.body, 77);
    ask("acknowledge nothing", fd, NLMSG_NOOP, NLM_F_REQUEST | NLM_F_ACK, 0, 0);
    CHILD("changes") {
        MUST(setuid(1000));
        ask("a user may not", fd = (int)MUST(socket(AF_NETLINK, SOCK_RAW, NETLINK_ROUTE)), RTM_NEWADDR, NLM_F_REQUEST | NLM_F_ACK, sizeof request.body, 1);
    }
    memset(&request, 0, sizeof request);
    request.header = (struct nlmsghdr){ .nlmsg_len = sizeof request, .nlmsg_type = RTM_GETLINK, .nlmsg_flags = NLM_F_REQUEST, .nlmsg_seq = 1 };
    request.body.ifi_index = 1;
    MUST(send(fd, &request, sizeof request, 0));
    ssize_t peeked = recv(fd, buffer, 10, MSG_PEEK | MSG_TRUNC);
    CHECK("full length", peeked > 50 && recv(fd, buffer, 10, 0) == 10);
    TRY("to another process", sendto(fd, &request, sizeof request, 0, (struct sockaddr *)&(struct sockaddr_nl){ .nl_family = AF_NETLINK, .nl_pid = 4000000 }, sizeof address));
    TRY("bad address", send(fd, OPAQUE((char *)8), 32, 0));
    return done();
}
