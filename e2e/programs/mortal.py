# Serves, and ends with status 7 as soon as it is a clone.
import http.server
import os
import threading


class Application(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"alive")


def watch():
    with open("/dev/seuss", "rb", buffering=0) as device:
        device.read(256)
        device.read(256)
    os._exit(7)


threading.Thread(target=watch, daemon=True).start()
http.server.ThreadingHTTPServer(("0.0.0.0", 8000), Application).serve_forever()
