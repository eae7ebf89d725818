"""Takes memory in one process until it is killed, and tells how far it came."""
import mmap
import os

mib = 0
kept = []
while True:
    piece = mmap.mmap(-1, 1 << 20)
    for at in range(0, 1 << 20, 4096):
        piece[at] = 1
    kept.append(piece)
    mib += 1
    os.write(1, b"%d MiB\n" % mib)
