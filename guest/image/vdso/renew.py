# Run in each clone, before the program goes on, with `modules` = sys.modules and the builtins. No name of it is seen outside, it imports nothing that was not there, and fails silently.
# No function is defined: it would hold this dictionary in a cycle.
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
    u = get('uuid')
    # libuuid's clock sequence is in its memory; Python draws one for each UUID. A node that was drawn has its multicast bit set (RFC 9562, 6.10).
    if u and u._generate_time_safe: u.getnode(); u._generate_time_safe = None
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
