//: group = "A"
//: summary = "argv, environment and auxiliary vector"
//: link = ["static", "dynamic"]
//: args = ["one", "", "two words", "ünï", "--x=y"]
//: env = { CONF_A = "1", CONF_EMPTY = "", CONF_SPACE = "a b" }
#include "check.h"
#include <elf.h>
#include <sys/auxv.h>

extern char **environ;

static int by_text(const void *a, const void *b) { return strcmp(*(char *const *)a, *(char *const *)b); }

int main(int argc, char **argv) {
    FACT("argc", "%d", argc);
    for (int i = 0; i < argc; i++) FACT("argv", "[%s]", argv[i]);
    CHECK("argv ends", argv[argc] == NULL);
    CHECK("environ follows argv", environ == argv + argc + 1);
    int count = 0;
    while (environ[count]) count++;
    char **sorted = malloc(sizeof(char *) * (size_t)count);
    memcpy(sorted, environ, sizeof(char *) * (size_t)count);
    qsort(sorted, (size_t)count, sizeof *sorted, by_text);
    for (int i = 0; i < count; i++) FACT("env", "%s", sorted[i]);

    FACT("AT_PAGESZ", "%lu", getauxval(AT_PAGESZ));
    FACT("AT_PHENT", "%lu", getauxval(AT_PHENT));
    FACT("AT_UID", "%lu", getauxval(AT_UID));
    FACT("AT_EUID", "%lu", getauxval(AT_EUID));
    FACT("AT_GID", "%lu", getauxval(AT_GID));
    FACT("AT_EGID", "%lu", getauxval(AT_EGID));
    FACT("AT_SECURE", "%lu", getauxval(AT_SECURE));
    FACT("AT_CLKTCK", "%lu", getauxval(AT_CLKTCK));
    FACT("AT_EXECFN", "%s", (char *)getauxval(AT_EXECFN));
    FACT("AT_PLATFORM", "%s", (char *)getauxval(AT_PLATFORM));
    const Elf64_Phdr *headers = (const Elf64_Phdr *)getauxval(AT_PHDR);
    CHECK("AT_PHNUM", getauxval(AT_PHNUM) > 3);
    bool has_load = false, has_interpreter = false;
    for (unsigned long i = 0; i < getauxval(AT_PHNUM); i++) {
        has_load |= headers[i].p_type == PT_LOAD;
        has_interpreter |= headers[i].p_type == PT_INTERP;
    }
    CHECK("AT_PHDR points at program headers", has_load);
    FACT("interpreter", "%d", has_interpreter);
    CHECK("AT_BASE is the interpreter's", (getauxval(AT_BASE) != 0) == has_interpreter);
    extern char _start;
    CHECK("AT_ENTRY", getauxval(AT_ENTRY) == (unsigned long)&_start);
    const unsigned char *random = (const unsigned char *)getauxval(AT_RANDOM);
    int zeros = 0;
    for (int i = 0; i < 16; i++) zeros += random[i] == 0;
    CHECK("AT_RANDOM is random", zeros < 8);
    FACT("program name", "%s", program_invocation_short_name);
    return done();
}
