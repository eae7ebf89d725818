# Run in each clone, before the program goes on, with `modules` = sys.modules and the builtins. No name of it is seen outside, it imports nothing that was not there, and fails silently.
# No function is defined without need: it holds this dictionary.
get = modules.get
try:
    if get('random'): get('random')._inst.seed()
except BaseException: pass
try:
    if get('numpy.random'): get('numpy.random').mtrand._rand.seed()
except BaseException: pass
try:
    if get('tempfile'): get('tempfile')._name_sequence = None
except BaseException: pass
try:
    # libuuid's clock sequence is in its memory: here is another one. A node that was drawn has its multicast bit set (RFC 9562, 6.10).
    u = get('uuid')
    f = u and u._generate_time_safe
    if f:
        c = get('os').urandom(2)
        u._generate_time_safe = lambda f=getattr(f, '__defaults__', (f,))[0], c=bytes((c[0] & 63 | 128, c[1])): (lambda b, s: (b[:8] + c + b[10:], s))(*f())
    if u and u._node and u._node >> 40 & 1: u._node = int.from_bytes(get('os').urandom(6), 'big') | 1 << 40
except BaseException: pass
try:
    # The wheel of `cryptography` has an OpenSSL of its own that exports nothing.
    c = get('cryptography.hazmat.bindings._rust')
    if c: c._openssl.lib.RAND_add(get('os').urandom(32), 32, 32.0)
except BaseException: pass
try:
    if get('seuss'): get('seuss').refresh()
except BaseException: pass
