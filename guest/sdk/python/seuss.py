"""Snapshots from inside a SEUSS guest.

    import seuss

    load_models()
    seuss.before_snapshot(close_connections)
    seuss.after_restore(open_connections)
    seuss.snapshot("function", key="models-v3")     # returns here, and in every clone

Outside of a guest (no /dev/seuss) `available()` is false and `snapshot` raises OSError. The device's protocol is told in guest/DESIGN.md.
"""

import os
import random

DEVICE = "/dev/seuss"
_before = []
_after = []


def available():
    """Whether this is a SEUSS guest."""
    return os.path.exists(DEVICE)


def before_snapshot(function):
    """Call `function()` before a snapshot is taken; the last one registered is called first. Usable as a decorator."""
    _before.append(function)
    return function


def after_restore(function):
    """Call `function(generation)` in every clone, after `random` was seeded anew. Usable as a decorator."""
    _after.append(function)
    return function


def generation():
    """How often the lineage of this guest has been restored: 0 before the first snapshot."""
    device = os.open(DEVICE, os.O_RDONLY)
    try:
        return int(os.read(device, 64).split()[1])
    finally:
        os.close(device)


def snapshot(level="function", key=""):
    """Take a snapshot; returns the generation: the old one in this guest, a higher one in a clone.

    `level` is "base", "function" or "argument". Raises OSError if there is no store (EOPNOTSUPP) or the snapshot cannot be written (EIO).
    """
    if len(key.split()) > 1:
        raise ValueError("a key has no spaces")
    for function in reversed(_before):
        function()
    before = generation()
    device = os.open(DEVICE, os.O_WRONLY)
    try:
        os.write(device, f"snapshot {level} {key}".encode())
    finally:
        os.close(device)
    now = generation()
    if now != before:
        _wake_up(now)
    return now


def _wake_up(now):
    random.seed(os.urandom(32))
    if "HOSTNAME" in os.environ:
        os.environ["HOSTNAME"] = os.uname().nodename
    for function in _after:
        function(now)
