#: group = "A"
#: summary = "CPU-bound Python: loops, calls, dictionaries and strings, sorting, big integers"
#: with = ["/usr/bin/python3"]
#: timeout = 120
import json
import time

RUNS = 15


def loop():
    total = 0
    for i in range(500_000):
        total += i * i % 7
    return total


def calls():
    def fib(n):
        return n if n < 2 else fib(n - 1) + fib(n - 2)

    return fib(24)


def objects():
    words = {}
    for i in range(60_000):
        words[f"word{i}"] = [i, str(i)]
    return sorted(words, key=lambda word: words[word][1])[0]


def integers():
    return len(hex(3**100_000 // 7**9_000))


def measure(name, work):
    work()
    times = []
    for _ in range(RUNS):
        began = time.perf_counter()
        work()
        times.append((time.perf_counter() - began) * 1e3)
    times.sort()
    print(json.dumps({
        "name": f"cpu_python_{name}", "unit": "ms", "median": round(times[RUNS // 2], 3), "p99": round(times[-1], 3),
        "min": round(times[0], 3), "n": RUNS,
    }), flush=True)


for work in (loop, calls, objects, integers):
    measure(work.__name__, work)
