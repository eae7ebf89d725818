#: group = "B"
#: summary = "deep recursion: RecursionError at the limit, 50,000 Python frames, deep C recursion in a big thread stack"
#: with = ["/usr/bin/python3"]
#: memory = "1G"
import functools, sys, threading

def depth(n): return 0 if n == 0 else 1 + depth(n - 1)
print(depth(900))
try:
    depth(5000)
except RecursionError as e:
    print('RecursionError:', e)
sys.setrecursionlimit(60000)
print(depth(50000))
class Deep:
    def __init__(self, n): self.n = n
    def __repr__(self): return 'x' if self.n == 0 else repr(Deep(self.n - 1))
def work():
    print(repr(Deep(15000)), functools.reduce(lambda a, b: a + b, range(10)))
    nested = []
    for _ in range(40000): nested = [nested]
    print('nested')
threading.stack_size(256 << 20)
t = threading.Thread(target=work); t.start(); t.join()
try:
    eval('(' * 300 + ')' * 300)
except (SyntaxError, MemoryError) as e:
    print(type(e).__name__)
