"""A wsgiref server on port 8000 that says who it is: what it made as it started, and what must differ from clone to clone."""
import json
import os
import random
import socket
import socketserver
import ssl
import time
import uuid
import wsgiref.simple_server

try:
    import seuss
except ImportError:
    # Under another runtime, or where the module is not in the image.
    seuss = None

try:
    from version import VERSION
except ImportError:
    VERSION = None

STARTED = uuid.uuid4().hex
# Its state is in the snapshot, then.
ssl.RAND_bytes(16)
answered = 0


def generation():
    try:
        with open("/dev/seuss") as device:
            return int(device.readline().split()[1])
    except FileNotFoundError:
        return None


def own_port():
    """The port that a connection from here gets. It is to this server itself, which finds it ended."""
    with socket.create_connection(("127.0.0.1", 8000)) as connection:
        return connection.getsockname()[1]


def application(environ, start_response):
    global answered
    answered += 1
    if seuss is not None:
        seuss.refresh()
    with open("/proc/self/environ", "rb") as file:
        environment = file.read().decode().split("\0")
    who = {
        "path": environ["PATH_INFO"],
        "version": VERSION,
        "started": STARTED,
        "answered": answered,
        "generation": generation(),
        "hostname": os.uname().nodename,
        "environment": [entry for entry in environment if entry.startswith("HOSTNAME=")],
        "id": seuss.instance() if seuss is not None else None,
        "environ": os.environ.get("HOSTNAME"),
        "random": random.random(),
        "getrandom": os.getrandom(16).hex(),
        "uuid4": uuid.uuid4().hex,
        "ssl": ssl.RAND_bytes(16).hex(),
        "port": own_port() if environ["PATH_INFO"] == "/who/port" else None,
        "time": time.time(),
    }
    body = json.dumps(who).encode()
    start_response("200 OK", [("Content-Type", "application/json"), ("Content-Length", str(len(body)))])
    return [body]


class Handler(wsgiref.simple_server.WSGIRequestHandler):
    def log_message(self, *arguments):
        pass


class Server(wsgiref.simple_server.WSGIServer):
    def server_bind(self):
        # Without the look-up of this host's name, which waits for a name server that may not be there.
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = "localhost", 8000
        self.setup_environ()


random.seed(os.urandom(8))
server = wsgiref.simple_server.make_server("0.0.0.0", 8000, application, Server, Handler)
print("ready", flush=True)
server.serve_forever()
