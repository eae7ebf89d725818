"""wsgiref on port 8000: one thread, one request after the other."""
import wsgiref.simple_server


def application(environ, start_response):
    body = f"hello from wsgiref: {environ['PATH_INFO']}\n".encode()
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))])
    return [body]


class Handler(wsgiref.simple_server.WSGIRequestHandler):
    def log_message(self, *arguments):
        pass


class Server(wsgiref.simple_server.WSGIServer):
    request_queue_size = 128


print("ready", flush=True)
wsgiref.simple_server.make_server("", 8000, application, Server, Handler).serve_forever()
