//: group = "F"
//: summary = "dlopen, dlsym, dlclose, thread-local storage of a loaded object, dladdr, dl_iterate_phdr, errors"
#include "check.h"
#include <dlfcn.h>
#include <link.h>
#include <pthread.h>

static int (*add)(int, int), (*calls)(void);

static void *in_thread(void *argument) {
    add(1, 1);
    return (void *)(intptr_t)calls();
}

static int count(struct dl_phdr_info *info, size_t size, void *data) {
    ++*(int *)data;
    return 0;
}

int main(void) {
    int before = 0, after = 0;
    dl_iterate_phdr(count, &before);
    void *plugin = dlopen("/conformance/elf/plugin.so", RTLD_NOW | RTLD_LOCAL);
    CHECK("dlopen", plugin != NULL);
    dl_iterate_phdr(count, &after);
    FACT("one object more", "%d", after - before);
    add = (int (*)(int, int))(uintptr_t)dlsym(plugin, "plugin_add");
    calls = (int (*)(void))(uintptr_t)dlsym(plugin, "plugin_calls");
    FACT("call", "%d", add(2, 3));
    int *loaded = dlsym(plugin, "plugin_loaded");
    FACT("constructor ran", "%d", *loaded);
    pthread_t thread;
    void *value;
    pthread_create(&thread, NULL, in_thread, NULL);
    pthread_join(thread, &value);
    FACT("calls of the thread, of main", "%ld %d", (long)value, calls());
    Dl_info info;
    FACT("dladdr", "%d", dladdr((void *)(uintptr_t)add, &info) != 0);
    FACT("name", "%s in %s", info.dli_sname, info.dli_fname);
    FACT("same handle", "%d", dlopen("/conformance/elf/plugin.so", RTLD_NOW) == plugin);
    FACT("missing symbol", "%d", dlsym(plugin, "nothing") == NULL);
    FACT("dlclose twice", "%d", dlclose(plugin));
    FACT("still there", "%d", add(1, 1));
    FACT("dlclose", "%d", dlclose(plugin));
    FACT("gone", "%d", dlopen("/conformance/elf/plugin.so", RTLD_NOW | RTLD_NOLOAD) == NULL);
    FACT("missing file", "%s", dlopen("/no/such.so", RTLD_NOW) ? "?" : dlerror());
    FACT("not an object", "%s", dlopen("/etc/passwd", RTLD_NOW) ? "?" : dlerror());
    CHECK("libm", dlsym(dlopen("libm.so.6", RTLD_LAZY), "cos") != NULL);
    CHECK("RTLD_DEFAULT", dlsym(RTLD_DEFAULT, "printf") != NULL);
    for (int i = 0; i < 200; i++) dlclose(dlopen("/conformance/elf/plugin.so", RTLD_NOW));
    after = 0;
    dl_iterate_phdr(count, &after);
    FACT("after two hundred rounds", "%d", after - before);
    return done();
}
