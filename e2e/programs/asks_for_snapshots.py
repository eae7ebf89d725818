"""Asks for snapshots as fast as it can, each of memory that has changed; argv: how often, MiB that change."""
import os
import sys
import time

count, mib = int(sys.argv[1]), int(sys.argv[2])
memory = bytearray(mib << 20)
taken = 0
refused = {}
for number in range(count):
    for at in range(0, len(memory), 4096):
        memory[at] = number % 255 + 1
    fd = os.open("/dev/seuss", os.O_WRONLY)
    try:
        os.write(fd, b"snapshot")
        taken += 1
    except OSError as error:
        refused[error.errno] = refused.get(error.errno, 0) + 1
    os.close(fd)
print("taken:", taken, flush=True)
for errno, times in refused.items():
    print("refused:", os.strerror(errno), times, flush=True)
print("limit: told", flush=True)
time.sleep(100000)
