# Run in each clone, before the program goes on, with `modules` = sys.modules and nothing else. No name of it is seen outside, it imports nothing that was not there, and fails silently.
# No function is defined: it would hold this dictionary in a cycle.
try:
    modules['random']._inst.seed()
except BaseException: pass
try:
    modules['numpy.random'].mtrand._rand.seed()
except BaseException: pass
try:
    modules['tempfile']._name_sequence = None
except BaseException: pass
try:
    # libuuid's clock sequence is in its memory; Python draws one for each UUID. A node that was drawn has its multicast bit set (RFC 9562, 6.10).
    if modules['uuid']._generate_time_safe: modules['uuid'].getnode(); modules['uuid']._generate_time_safe = None
    if modules['uuid']._node >> 40 & 1: modules['uuid']._node = int.from_bytes(modules['os'].urandom(6), 'big') | 1 << 40
except BaseException: pass
try:
    # The wheel of `cryptography` has an OpenSSL of its own that exports nothing.
    modules['cryptography.hazmat.bindings._rust']._openssl.lib.RAND_add(modules['os'].urandom(32), 32, 32.0)
except BaseException: pass
try:
    modules['seuss'].refresh()
except BaseException: pass
