#: group = "F"
#: summary = "asyncio: tasks, time-outs, queues, streams, subprocesses, signals, executors, TCP and unix servers"
#: with = ["/usr/bin/python3"]
import asyncio, os, signal, sys, time

async def say(delay, what, log):
    await asyncio.sleep(delay); log.append(what); return what
async def echo(reader, writer):
    while data := await reader.read(1000):
        writer.write(data.upper()); await writer.drain()
    writer.close()
async def client(port, n):
    reader, writer = await asyncio.open_connection('127.0.0.1', port)
    for i in range(20):
        writer.write(f'client {n} message {i}\n'.encode()); await writer.drain()
        assert await reader.readline() == f'CLIENT {n} MESSAGE {i}\n'.encode()
    writer.close(); await writer.wait_closed(); return n
async def main():
    log = []
    print(await asyncio.gather(say(0.15, 'c', log), say(0.05, 'a', log), say(0.1, 'b', log)), log)
    try: await asyncio.wait_for(asyncio.sleep(10), 0.05)
    except asyncio.TimeoutError: print('timed out')
    task = asyncio.create_task(asyncio.sleep(10)); await asyncio.sleep(0); task.cancel()
    try: await task
    except asyncio.CancelledError: print('cancelled')
    async with asyncio.TaskGroup() as group: tasks = [group.create_task(say(0.01, i, log)) for i in range(5)]
    print([t.result() for t in tasks])
    q = asyncio.Queue(2)
    async def produce():
        for i in range(10): await q.put(i)
        await q.put(None)
    producer = asyncio.create_task(produce()); got = []
    while (item := await q.get()) is not None: got.append(item)
    print(got, producer.done() or await producer)
    server = await asyncio.start_server(echo, '127.0.0.1', 0); port = server.sockets[0].getsockname()[1]
    print(sorted(await asyncio.gather(*(client(port, n) for n in range(30))))); server.close(); await server.wait_closed()
    server = await asyncio.start_unix_server(echo, '/tmp/sock'); reader, writer = await asyncio.open_unix_connection('/tmp/sock')
    writer.write(b'unix'); print(await reader.read(10)); writer.close(); server.close()
    try: await asyncio.open_connection('127.0.0.1', port)
    except OSError as e: print(type(e).__name__)
    p = await asyncio.create_subprocess_exec('cat', stdin=-1, stdout=-1); print(await p.communicate(b'to cat'), p.returncode)
    p = await asyncio.create_subprocess_shell('sleep 0.05; echo done; exit 3', stdout=-1); print(await p.stdout.readline(), await p.wait())
    loop = asyncio.get_running_loop(); got = asyncio.Event(); loop.add_signal_handler(signal.SIGUSR1, got.set); os.kill(os.getpid(), signal.SIGUSR1); await asyncio.wait_for(got.wait(), 5); print('signal')
    print(await loop.run_in_executor(None, lambda: sum(range(100000))), await asyncio.to_thread(time.sleep, 0.01), type(loop).__name__, (await loop.getaddrinfo('127.0.0.1', 80))[0][4])
    start = time.monotonic(); await asyncio.gather(*(asyncio.sleep(0.2) for _ in range(1000))); print(time.monotonic() - start < 3)
    class Proto(asyncio.DatagramProtocol):
        def connection_made(self, transport): self.transport = transport
        def datagram_received(self, data, addr): answer.set_result(data)
    answer = loop.create_future(); t, _ = await loop.create_datagram_endpoint(Proto, local_addr=('127.0.0.1', 0)); t.sendto(b'datagram', t.get_extra_info('sockname')); print(await asyncio.wait_for(answer, 5)); t.close()
asyncio.run(main())
