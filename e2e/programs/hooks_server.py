"""A server on port 8000 that says which of its hooks around snapshots have run."""
import http.server
import json

import seuss

ran = {"before": 0, "after": 0, "restored": None}


@seuss.before_snapshot
def before():
    ran["before"] += 1


@seuss.before_snapshot
def fails():
    raise RuntimeError("a hook that fails keeps no other from running")


@seuss.after_snapshot
def after():
    ran["after"] += 1


@seuss.after_restore
def restored(generation):
    ran["restored"] = generation


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        seuss.refresh()
        body = json.dumps(ran).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *words):
        pass


seuss.watch()
http.server.HTTPServer(("0.0.0.0", 8000), Handler).serve_forever()
