"""Children that take all memory, one after the other, for ever."""
import mmap
import os

told = False
while True:
    child = os.fork()
    if child == 0:
        kept = []
        while True:
            piece = mmap.mmap(-1, 4 << 20)
            for at in range(0, 4 << 20, 4096):
                piece[at] = 1
            kept.append(piece)
    status = os.waitpid(child, 0)[1]
    if not told:
        os.write(1, b"limit: killed by %d\n" % os.WTERMSIG(status))
        told = True
