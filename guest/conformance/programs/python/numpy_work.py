#: group = "F"
#: summary = "numpy with OpenBLAS: products, decompositions, FFT, memory maps, random numbers, threads"
#: with = ["/usr/bin/python3"]
#: memory = "1G"
#: needs = ["/usr/lib/python3/dist-packages/numpy/__init__.py"]
import os, tempfile, threading
import numpy as np

r = np.random.default_rng(1); a, b = r.random((300, 300)), r.random((300, 300))
print(np.allclose(a @ np.linalg.inv(a), np.eye(300), atol=1e-6), np.allclose(a @ b, np.einsum('ij,jk->ik', a, b)), r.integers(0, 100, 5))
q, t = np.linalg.qr(a); print(np.allclose(q @ t, a)); u, s, v = np.linalg.svd(b); print(np.allclose((u * s) @ v, b), np.allclose(np.fft.ifft(np.fft.fft(a)).real, a))
print(np.linalg.solve([[3, 1], [1, 2]], [9, 8]), np.sort(r.permutation(10)), np.arange(10 ** 7, dtype=np.int64).sum(), np.dtype('f8').itemsize)
big = np.zeros((2000, 5000)); big[::3] = 1; print(big.sum(), big.nbytes); del big
path = tempfile.mktemp(); m = np.memmap(path, dtype='f4', mode='w+', shape=(1000, 1000)); m[:] = 2; m.flush(); print(os.path.getsize(path), np.memmap(path, dtype='f4', mode='r').sum()); np.save(path + '.npy', a); print(np.array_equal(np.load(path + '.npy', mmap_mode='r'), a))
out = [None] * 4
def work(i): out[i] = np.allclose((a * i) @ b, i * (a @ b))
ts = [threading.Thread(target=work, args=(i,)) for i in range(4)]; [x.start() for x in ts]; [x.join() for x in ts]; print(out)
try: np.zeros(1 << 50)
except MemoryError: print('MemoryError')
with np.errstate(all='ignore'): print(np.array([1.0]) / 0, np.float32(1e38) * 10, np.int8(127) + np.int8(1))
