"""wsgiref on port 8000. A request for /argument/KEY computes what requests with that key have in common, and takes a snapshot half-way: clones of it have that already."""
import os
import socketserver
import wsgiref.simple_server

prepared = {}


def application(environ, start_response):
    path = environ["PATH_INFO"]
    if path.startswith("/argument/"):
        key = path.rpartition("/")[2]
        prepared[key] = {number: f"{key}-{number}" for number in range(2000)}
        device = os.open("/dev/seuss", os.O_RDWR)
        os.write(device, f"snapshot argument {key}".encode())
        os.close(device)
    body = f"hello from wsgiref: {path}, prepared for {len(prepared)} keys\n".encode()
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))])
    return [body]


class Handler(wsgiref.simple_server.WSGIRequestHandler):
    def log_message(self, *arguments):
        pass


class Server(wsgiref.simple_server.WSGIServer):
    request_queue_size = 128

    def server_bind(self):
        # Without the look-up of this host's name, which waits for a name server that may not be there.
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = "localhost", 8000
        self.setup_environ()


print("ready", flush=True)
wsgiref.simple_server.make_server("", 8000, application, Server, Handler).serve_forever()
