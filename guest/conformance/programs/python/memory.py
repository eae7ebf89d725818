#: group = "B"
#: summary = "200 MB in big and small objects, freed and taken again; bytearray growth; gc"
#: with = ["/usr/bin/python3"]
#: memory = "1G"
import gc, resource, sys, weakref

data = bytearray(200 << 20)
for i in range(0, len(data), 4096):
    data[i] = i >> 12 & 255
print(len(data), sum(data[::4096]) == sum((i & 255) for i in range(len(data) >> 12)))
del data
for _ in range(5):
    data = bytearray(100 << 20); data[::4096] = b'x' * len(data[::4096]); print(data.count(b'x')); del data
lists = [[i, str(i), {i: i}] for i in range(300000)]
print(len(lists), sum(l[0] for l in lists), lists[-1]); del lists
text = ''.join(str(i) for i in range(500000)); print(len(text), hash(text) == hash(str(text)))
grow = bytearray()
for i in range(200000):
    grow += b'0123456789'
print(len(grow)); del grow, text
class Node: pass
nodes = [Node() for _ in range(10000)]
for a, b in zip(nodes, nodes[1:]): a.next, b.back = b, a
ref = weakref.ref(nodes[0]); del nodes, a, b; print(gc.collect() > 0, ref() is None)
try:
    bytearray(1 << 50)
except MemoryError as e:
    print('MemoryError')
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss > 200 << 10, resource.getpagesize(), sys.maxsize)
