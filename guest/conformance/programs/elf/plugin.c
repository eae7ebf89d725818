//: group = "F"
//: summary = "a shared object that elf/dlopen and python/ctypes_calls load"
//: link = ["shared"]
#include <stdio.h>

int plugin_loaded = 7;
static _Thread_local int calls;

__attribute__((constructor)) static void loaded(void) { plugin_loaded = 8; }
__attribute__((destructor)) static void unloaded(void) { plugin_loaded = 0; }

int plugin_add(int a, int b) {
    calls++;
    return a + b;
}
int plugin_calls(void) { return calls; }
const char *plugin_name(void) { return "plugin"; }
