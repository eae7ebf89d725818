"""An HTTP server of asyncio streams on port 8000, on the event loop alone."""
import asyncio


async def serve(reader, writer):
    try:
        request = (await reader.readuntil(b"\r\n\r\n")).split(b" ")
    except asyncio.IncompleteReadError:
        writer.close()
        return
    body = b"hello from asyncio: " + request[1] + b"\n"
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\nConnection: close\r\n\r\n" % len(body) + body)
    await writer.drain()
    writer.close()
    await writer.wait_closed()


async def main():
    server = await asyncio.start_server(serve, "0.0.0.0", 8000, backlog=128)
    print("ready", flush=True)
    await server.serve_forever()


asyncio.run(main())
