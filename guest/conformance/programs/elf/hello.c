//: group = "A"
//: summary = "prints a line and returns"
//: link = ["static", "static-pie", "dynamic"]
#include <stdio.h>

int main(void) {
    puts("hello, world");
    return 0;
}
