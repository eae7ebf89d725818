# Keeps a connection open to its "database", as pools do, and serves what it asks for there.
import http.client
import http.server
import threading


class Database(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Length", "4")
        self.end_headers()
        self.wfile.write(b"rows")

    def log_message(self, *_):
        pass


class Application(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        try:
            body = ask()
        except OSError:
            # It was reset: http.client connects again.
            pool.close()
            body = ask()
        self.send_response(200)
        self.end_headers()
        self.wfile.write(body)


def ask():
    pool.request("GET", "/")
    return pool.getresponse().read()


database = http.server.ThreadingHTTPServer(("127.0.0.1", 8001), Database)
threading.Thread(target=database.serve_forever, daemon=True).start()
pool = http.client.HTTPConnection("127.0.0.1", 8001)
ask()
http.server.ThreadingHTTPServer(("0.0.0.0", 8000), Application).serve_forever()
