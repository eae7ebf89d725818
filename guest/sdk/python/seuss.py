"""Snapshots from inside a SEUSS guest.

    import seuss

    load_models()
    seuss.before_snapshot(close_connections)
    seuss.after_restore(open_connections)
    seuss.snapshot("function", key="models-v3")     # returns here, and in every clone

Where snapshots are taken from outside (a pod that is ready), a clone learns of it in one of two ways:

    seuss.watch()       # once: a thread waits for it, and is told before such a snapshot is taken
    seuss.refresh()     # at the start of each request: a few microseconds

`watch` lets the functions of `before_snapshot` run before a snapshot is taken from outside, too; the snapshot waits for them, for a second at the most. Those of
`after_snapshot` run in the guest that goes on. All of these run in the watching thread.
Random numbers need nothing of this: in every clone the library OS has `random`, NumPy's functions, `tempfile` and OpenSSL seeded anew before the program goes on, and calls `refresh` at the same time if this module is imported
(unless `seuss.dev/hooks: "off"`). Other threads stand still until the functions of `after_restore` are done, or wait; they have 10 s.

In every clone `random` is seeded anew, OpenSSL (`ssl`) gets fresh entropy, and os.environ gets the variables that differ (HOSTNAME and the like) before the functions of `after_restore` are called.
Outside of a guest (no /dev/seuss) `available()` is false, `refresh` and `watch` do nothing, and `snapshot` raises OSError. The device's protocol is told in guest/DESIGN.md.
"""

import os
import random
import sys
import threading
import traceback

DEVICE = "/dev/seuss"
_before = []
_taken = []
_after = []
_lock = threading.Lock()


def _environment():
    """What execve(2) laid down, with what a restore has written over it."""
    try:
        with open("/proc/self/environ", "rb") as file:
            entries = file.read().split(b"\0")
    except OSError:
        return {}
    return dict(entry.split(b"=", 1) for entry in entries if b"=" in entry)


def _identity(device):
    """Generation and id, as a read of the device tells them."""
    words = os.read(device, 256).split()
    return int(words[1]), words[3].decode()


def _read():
    device = os.open(DEVICE, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return _identity(device)
    finally:
        os.close(device)


def available():
    """Whether this is a SEUSS guest."""
    return os.path.exists(DEVICE)


def before_snapshot(function):
    """Call `function()` before a snapshot is taken with `snapshot`, or, with `watch`, from outside; the last one registered is called first. Usable as a decorator."""
    _before.append(function)
    return function


def after_snapshot(function):
    """Call `function()` in the guest that goes on when a snapshot was taken, or could not be: the counterpart of `before_snapshot`. Usable as a decorator."""
    _taken.append(function)
    return function


def after_restore(function):
    """Call `function(generation)` in every clone. Usable as a decorator."""
    _after.append(function)
    return function


def generation():
    """How often the lineage of this guest has been restored: 0 before the first snapshot."""
    return _read()[0]


def instance():
    """A random id that no other guest has; another one in every clone."""
    return _read()[1]


def snapshot(level="function", key=""):
    """Take a snapshot; returns the generation: the old one in this guest, a higher one in a clone.

    `level` is "base", "function" or "argument". Raises OSError if there is no store (EOPNOTSUPP) or the snapshot cannot be written (EIO).
    """
    if len(key.split()) > 1:
        raise ValueError("a key has no spaces")
    for function in reversed(_before):
        function()
    device = os.open(DEVICE, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(device, f"snapshot {level} {key}".encode())
    finally:
        os.close(device)
        if not refresh():
            _call(_taken)
    return generation()


def refresh():
    """If this has become a clone since the last call: do what a clone must do. Returns whether it has."""
    try:
        return _take(_read())
    except FileNotFoundError:
        return False


def watch():
    """Start a thread that calls `refresh` when this becomes a clone, and hooks around snapshots that are taken from outside. Once is enough."""
    if not available():
        return
    device = os.open(DEVICE, os.O_RDWR | os.O_CLOEXEC)
    try:
        # Here, so that no snapshot comes between.
        os.write(device, b"hooks")
    except OSError:
        # More listeners than the guest takes: restores are told all the same.
        pass
    threading.Thread(target=_watch, args=(device,), name="seuss", daemon=True).start()


def _watch(device):
    while True:
        # The first read returns at once, the next ones when something has happened.
        words = os.read(device, 256).split()
        if words[0] == b"capture":
            try:
                _call(reversed(_before))
            finally:
                os.write(device, b"ready " + words[1])
        elif words[0] == b"generation":
            _take((int(words[1]), words[3].decode()))
        else:
            _call(_taken)


def _call(functions):
    """Call each; one that raises is told and keeps no other from being called."""
    for function in functions:
        try:
            function()
        except Exception:
            traceback.print_exc()


def _take(now):
    global _known, _laid_down
    with _lock:
        if now == _known:
            return False
        _known = now
        random.seed(os.urandom(32))
        if "ssl" in sys.modules:
            # OpenSSL's generator keeps its state in memory, and does not see that this is another process.
            sys.modules["ssl"].RAND_add(os.urandom(32), 32.0)
        changed = _environment()
        for key, value in changed.items():
            if _laid_down.get(key) != value:
                os.environb[key] = value
        _laid_down = changed
        for function in _after:
            function(now[0])
    return True


_laid_down = _environment()
_known = _read() if available() else None
