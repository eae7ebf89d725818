#: group = "D"
#: summary = "threads, locks, queues, GIL hand-over between a busy and a sleeping thread, executors, thread-local data"
#: with = ["/usr/bin/python3"]
import concurrent.futures, queue, sys, threading, time

counter, lock = 0, threading.Lock()
def add():
    global counter
    for _ in range(20000):
        with lock: counter += 1
threads = [threading.Thread(target=add) for _ in range(8)]
[t.start() for t in threads]; [t.join() for t in threads]; print('locked counter', counter)

# The sleeping thread must wake on time although another never gives up the GIL by itself.
stop = threading.Event(); spins = 0
def busy():
    global spins
    while not stop.is_set(): spins += 1
wakes = []
def sleeper():
    for _ in range(20):
        start = time.monotonic(); time.sleep(0.01); wakes.append(time.monotonic() - start)
b, s = threading.Thread(target=busy), threading.Thread(target=sleeper)
b.start(); s.start(); s.join(); stop.set(); b.join()
print('hand-over', len(wakes), sum(wakes) < 30, min(wakes) >= 0.01, spins > 1000)
def compute(n): return sum(i * i for i in range(n))
with concurrent.futures.ThreadPoolExecutor(4) as pool: print('executor', list(pool.map(compute, range(0, 50000, 10000))))
start = time.monotonic()
with concurrent.futures.ThreadPoolExecutor(20) as pool: list(pool.map(lambda _: time.sleep(0.2), range(20)))
print('sleep together', time.monotonic() - start < 2)

q, results = queue.Queue(10), []
def consume():
    while (item := q.get()) is not None: results.append(item)
consumers = [threading.Thread(target=consume) for _ in range(3)]; [c.start() for c in consumers]
for i in range(1000): q.put(i)
for _ in consumers: q.put(None)
[c.join() for c in consumers]; print('queue', len(results), sum(results))
local = threading.local()
def with_local(n, out): local.x = n; time.sleep(0.01); out.append(local.x == n)
out = []; threads = [threading.Thread(target=with_local, args=(i, out)) for i in range(20)]; [t.start() for t in threads]; [t.join() for t in threads]
print('local', all(out), hasattr(local, 'x'))
barrier, order = threading.Barrier(5), []
def phases(n):
    for p in range(3): order.append(p); barrier.wait()
threads = [threading.Thread(target=phases, args=(i,)) for i in range(5)]; [t.start() for t in threads]; [t.join() for t in threads]; print('barrier', order)
cond, ready = threading.Condition(), []
def waiter():
    with cond: cond.wait_for(lambda: len(ready) == 3, timeout=20)
    ready.append('w')
w = threading.Thread(target=waiter); w.start()
for i in range(3):
    with cond: ready.append(i); cond.notify_all()
w.join(); print('condition', ready)
sem = threading.BoundedSemaphore(2); print('semaphore', sem.acquire(), sem.acquire(), sem.acquire(timeout=0.05)); print('lock time-out', lock.acquire(), lock.acquire(timeout=0.05), lock.release())
event = threading.Event(); timer = threading.Timer(0.05, event.set); timer.start(); print('timer', event.wait(10)); timer.join()
print('ids', threading.get_native_id() > 0, threading.main_thread() is threading.current_thread(), threading.active_count())
many = [threading.Thread(target=event.wait) for _ in range(300)]; [t.start() for t in many]; [t.join() for t in many]; print('three hundred', threading.active_count())
sys.setswitchinterval(0.0001); counter = 0
threads = [threading.Thread(target=add) for _ in range(4)]; [t.start() for t in threads]; [t.join() for t in threads]; print('quick switches', counter)
daemon = threading.Thread(target=lambda: time.sleep(1000), daemon=True); daemon.start(); print('a daemon does not keep the process')
