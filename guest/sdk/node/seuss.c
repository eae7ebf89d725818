/* Seeds OpenSSL's generator anew whenever it is loaded: seuss.js loads it in every clone, since Node.js has no function for it.
 *
 *   cc -shared -fPIC -O2 -o seuss.node seuss.c
 *
 * It needs no headers: what it calls is in every Node.js (node itself or its libcrypto exports RAND_add). */
#include <sys/random.h>

extern void RAND_add(const void *bytes, int count, double entropy);

/* Node-API calls this at each process.dlopen. */
__attribute__((visibility("default"))) void *napi_register_module_v1(void *env, void *exports) {
    unsigned char seed[48];
    (void)env;
    if (getrandom(seed, sizeof seed, 0) != sizeof seed) __builtin_trap();
    RAND_add(seed, sizeof seed, sizeof seed);
    return exports;
}
