#: group = "F"
#: summary = "multiprocessing with fork, spawn and forkserver: Pool, Queue, Pipe, shared memory, locks, Manager; ProcessPoolExecutor"
#: with = ["/usr/bin/python3"]
#: timeout = 180
#: memory = "1G"
import concurrent.futures, multiprocessing as mp, os, sys, time
from multiprocessing import shared_memory

def square(x): return x * x
def worker(q, n): q.put((n, n * n))
def bump(value, lock, n):
    for _ in range(n):
        with lock: value.value += 1
def child(conn): conn.send(conn.recv()[::-1]); conn.close()
def fill(name): s = shared_memory.SharedMemory(name); s.buf[:5] = b'child'; s.close()
def dies(): os._exit(7)
def raises(x): raise ValueError(f'from the child {x}')

if __name__ == '__main__':
    for method in ('fork', 'spawn', 'forkserver'):
        ctx = mp.get_context(method)
        with ctx.Pool(3) as pool:
            print(method, pool.map(square, range(20)), sum(pool.imap_unordered(square, range(200), chunksize=7)), pool.apply(square, (9,)))
            try: pool.apply(raises, (1,))
            except ValueError as e: print(e)
        q = ctx.Queue(); ps = [ctx.Process(target=worker, args=(q, i)) for i in range(4)]; [p.start() for p in ps]
        print(sorted(q.get(timeout=30) for _ in ps)); [p.join() for p in ps]; print([p.exitcode for p in ps])
        a, b = ctx.Pipe(); p = ctx.Process(target=child, args=(b,)); p.start(); a.send('abc' * 50000); print(len(a.recv())); p.join()
        p = ctx.Process(target=dies); p.start(); p.join(); print('exit code', p.exitcode)
        p = ctx.Process(target=time.sleep, args=(100,)); p.start(); p.terminate(); p.join(); print('terminated', p.exitcode)
    value, lock = mp.Value('i', 0, lock=False), mp.Lock()
    ps = [mp.Process(target=bump, args=(value, lock, 1000)) for _ in range(4)]; [p.start() for p in ps]; [p.join() for p in ps]; print('shared value', value.value)
    array = mp.Array('d', [1.0, 2.0]); print(array[:], mp.RawArray('i', 3)[:])
    s = shared_memory.SharedMemory(create=True, size=10000); p = mp.Process(target=fill, args=(s.name,)); p.start(); p.join(); print(bytes(s.buf[:5]), s.size >= 10000); s.close(); s.unlink()
    with mp.Manager() as m:
        d, l = m.dict(), m.list(); ps = [mp.Process(target=d.update, args=({i: i * 2},)) for i in range(3)]; [p.start() for p in ps]; [p.join() for p in ps]; l.extend([1, 2]); print(dict(sorted(d.items())), list(l))
    with concurrent.futures.ProcessPoolExecutor(3) as pool: print(list(pool.map(square, range(10))), pool.submit(square, 12).result())
    e = mp.Event(); p = mp.Process(target=e.wait, args=(20,)); p.start(); e.set(); p.join(); print('event', p.exitcode); print('semaphore', mp.Semaphore(1).acquire(timeout=1), mp.active_children())
