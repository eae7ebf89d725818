# What generators say that were used before the snapshot: in every pod and every clone something else.
import http.server
import json
import random
import ssl
import tempfile
import uuid

try:
    import numpy
except ImportError:
    numpy = None


def draw():
    values = {
        "ssl": ssl.RAND_bytes(8).hex(),
        "random": random.random(),
        "name": tempfile.mktemp(),
        "uuid1": str(uuid.uuid1()),
    }
    if numpy:
        values["numpy"] = numpy.random.random()
    return values


class Application(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = json.dumps(draw()).encode() + b"\n"
        self.send_response(200)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *words):
        pass


draw()
http.server.ThreadingHTTPServer(("0.0.0.0", 8000), Application).serve_forever()
