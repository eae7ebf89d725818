# Opens a port for others of its own first, waits, and opens the one that it serves on. Tells in which generation that was.
import http.server
import socket
import threading
import time

inner = socket.create_server(("127.0.0.1", 8001))
threading.Thread(target=inner.accept, daemon=True).start()
time.sleep(0.3)
with open("/dev/seuss", "rb", buffering=0) as device:
    opened_in = device.read(256).split(b"\n")[0]


class Application(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(opened_in)


http.server.ThreadingHTTPServer(("0.0.0.0", 8000), Application).serve_forever()
