//: group = "C"
//: summary = "TCP and UDP over ::1, V6ONLY, IPv4-mapped addresses, getaddrinfo of names in /etc/hosts"
//: link = ["dynamic"]
#include "net.h"
#include <netdb.h>

int main(void) {
    int server = (int)TRY("socket", socket(AF_INET6, SOCK_STREAM, 0));
    FACT("V6ONLY", "%d", option(server, IPPROTO_IPV6, IPV6_V6ONLY));
    struct sockaddr_in6 any = { .sin6_family = AF_INET6, .sin6_addr = in6addr_any }, address;
    TRY("bind ::", bind(server, (struct sockaddr *)&any, sizeof any));
    TRY("listen", listen(server, 5));
    socklen_t length = sizeof address;
    MUST(getsockname(server, (struct sockaddr *)&address, &length));
    int port = ntohs(address.sin6_port);
    char text[INET6_ADDRSTRLEN];
    FACT("own address", "%s %u", inet_ntop(AF_INET6, &address.sin6_addr, text, sizeof text), length);

    int client = (int)MUST(socket(AF_INET6, SOCK_STREAM, 0));
    struct sockaddr_in6 local = { .sin6_family = AF_INET6, .sin6_addr = in6addr_loopback, .sin6_port = htons((uint16_t)port) };
    TRY("connect ::1", connect(client, (struct sockaddr *)&local, sizeof local));
    length = sizeof address;
    int fd = (int)TRY("accept", accept(server, (struct sockaddr *)&address, &length));
    FACT("peer", "%s", inet_ntop(AF_INET6, &address.sin6_addr, text, sizeof text));
    MUST(write(client, "six", 3));
    FACT("read", "%zd %.3s", read(fd, text, 10), text);
    client = connected(port);
    length = sizeof address;
    MUST(accept(server, (struct sockaddr *)&address, &length));
    FACT("an IPv4 client", "%s", inet_ntop(AF_INET6, &address.sin6_addr, text, sizeof text));

    int only = (int)MUST(socket(AF_INET6, SOCK_STREAM, 0));
    TRY("V6ONLY", setsockopt(only, IPPROTO_IPV6, IPV6_V6ONLY, &(int){ 1 }, sizeof(int)));
    MUST(bind(only, (struct sockaddr *)&any, sizeof any)), MUST(listen(only, 1));
    length = sizeof address;
    MUST(getsockname(only, (struct sockaddr *)&address, &length));
    int four = (int)MUST(socket(AF_INET, SOCK_STREAM, 0));
    struct sockaddr_in same = loopback(ntohs(address.sin6_port));
    TRY("the port is free for IPv4", bind(four, (struct sockaddr *)&same, sizeof same));
    int v4 = (int)MUST(socket(AF_INET, SOCK_STREAM, 0));
    TRY("IPv4 socket, IPv6 address", connect(v4, (struct sockaddr *)&local, sizeof local));

    int a = (int)MUST(socket(AF_INET6, SOCK_DGRAM, 0)), b = (int)MUST(socket(AF_INET6, SOCK_DGRAM, 0));
    local.sin6_port = 0;
    MUST(bind(b, (struct sockaddr *)&local, sizeof local));
    length = sizeof address;
    MUST(getsockname(b, (struct sockaddr *)&address, &length));
    FACT("UDP", "%zd", sendto(a, "datagram", 8, 0, (struct sockaddr *)&address, length));
    FACT("received", "%zd", recv(b, text, sizeof text, 0));

    struct addrinfo hints = { .ai_socktype = SOCK_STREAM, .ai_family = AF_INET }, *found;
    FACT("getaddrinfo localhost", "%d", getaddrinfo("localhost", "80", &hints, &found));
    FACT("it", "%s %d", inet_ntoa(((struct sockaddr_in *)found->ai_addr)->sin_addr), ntohs(((struct sockaddr_in *)found->ai_addr)->sin_port));
    hints.ai_family = AF_UNSPEC;
    FACT("getaddrinfo ::1", "%d", getaddrinfo("::1", NULL, &hints, &found));
    FACT("family", "%d", found->ai_family == AF_INET6);
    FACT("getaddrinfo, passive", "%d", (hints.ai_flags = AI_PASSIVE, getaddrinfo(NULL, "8080", &hints, &found)));
    FACT("gethostbyname", "%d", gethostbyname("127.0.0.1") != NULL);
    FACT("service", "%d", getservbyname("http", "tcp") ? ntohs((uint16_t)getservbyname("http", "tcp")->s_port) : 0);
    return done();
}
