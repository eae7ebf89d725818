//: group = "F"
//: summary = "extended attributes as far as programs look: none there, ENODATA, set and get in user.*"
//: link = ["dynamic"]
#include "check.h"
#include <sys/xattr.h>

int main(void) {
    enter_scratch();
    write_file("file", "x");
    char value[100] = "";
    TRY("getxattr of none", getxattr("file", "user.none", value, sizeof value));
    TRY("security.capability", getxattr("file", "security.capability", value, sizeof value));
    TRY("system.posix_acl_access", getxattr("file", "system.posix_acl_access", value, sizeof value));
    FACT("listxattr", "%zd", listxattr("file", value, sizeof value));
    TRY("set", setxattr("file", "user.name", "value", 5, 0));
    FACT("size", "%zd", getxattr("file", "user.name", NULL, 0));
    FACT("get", "%zd %s", getxattr("file", "user.name", value, sizeof value), value);
    TRY("get, too small", getxattr("file", "user.name", value, 2));
    TRY("XATTR_CREATE", setxattr("file", "user.name", "other", 5, XATTR_CREATE));
    TRY("XATTR_REPLACE", setxattr("file", "user.none", "other", 5, XATTR_REPLACE));
    memset(value, 0, sizeof value);
    FACT("list", "%zd %s", listxattr("file", value, sizeof value), value);
    int fd = (int)MUST(open("file", O_RDWR));
    TRY("fsetxattr", fsetxattr(fd, "user.second", "", 0, 0));
    FACT("fgetxattr", "%zd", fgetxattr(fd, "user.second", value, sizeof value));
    TRY("remove", removexattr("file", "user.name"));
    TRY("removed", getxattr("file", "user.name", value, sizeof value));
    TRY("remove again", removexattr("file", "user.name"));
    TRY("no such namespace", setxattr("file", "nowhere.name", "x", 1, 0));
    TRY("no namespace", setxattr("file", "name", "x", 1, 0));
    TRY("of nothing", getxattr("nothing", "user.name", value, sizeof value));
    MUST(symlink("file", "link"));
    FACT("through a link", "%zd", getxattr("link", "user.second", value, sizeof value));
    TRY("of the link", lgetxattr("link", "user.second", value, sizeof value));
    TRY("user.* of a link", lsetxattr("link", "user.x", "x", 1, 0));
    return done();
}
