#: group = "C"
#: summary = "http.server, wsgiref and a forking server answer many requests over loopback; urllib and http.client"
#: with = ["/usr/bin/python3"]
#: timeout = 120
import concurrent.futures, hashlib, http.client, http.server, os, signal, socket, socketserver, threading, urllib.error, urllib.request, wsgiref.simple_server, wsgiref.util

os.makedirs('/tmp/www/sub'); open('/tmp/www/index.html', 'w').write('<h1>index</h1>'); open('/tmp/www/big', 'wb').write(b'0123456789' * 50000); os.chdir('/tmp/www')
class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *a): pass
class Handler(wsgiref.simple_server.WSGIRequestHandler):
    def log_message(self, *a): pass
def app(environ, start_response):
    body = environ['wsgi.input'].read(int(environ.get('CONTENT_LENGTH') or 0)); start_response('200 OK', [('Content-Type', 'text/plain')])
    return [f"{environ['REQUEST_METHOD']} {environ['PATH_INFO']} {environ['QUERY_STRING']} {len(body)} {hashlib.md5(body).hexdigest()}".encode()]
def serve(server): threading.Thread(target=server.serve_forever, daemon=True).start(); return 'http://127.0.0.1:%d' % server.server_address[1]
def get(url): return urllib.request.urlopen(url, timeout=30).read()

url = serve(http.server.ThreadingHTTPServer(('127.0.0.1', 0), Quiet))
print(get(url + '/'), len(get(url + '/big')), b'sub/' in get(url + '/') or b'index' in get(url + '/'))
try: get(url + '/nothing')
except urllib.error.HTTPError as e: print(e.code, e.reason)
with concurrent.futures.ThreadPoolExecutor(16) as pool: bodies = list(pool.map(get, [url + '/big'] * 100))
print(len(bodies), {len(b) for b in bodies}, len(set(bodies)))
connection = http.client.HTTPConnection(url[7:]); connection.request('HEAD', '/big'); r = connection.getresponse(); print(r.status, r.getheader('Content-Length'), r.read())
url = serve(wsgiref.simple_server.make_server('127.0.0.1', 0, app, handler_class=Handler))
print(get(url + '/path?q=1')); print(urllib.request.urlopen(url + '/post', data=b'x' * 300000, timeout=30).read())
with concurrent.futures.ThreadPoolExecutor(8) as pool: print(len(set(pool.map(get, [f'{url}/r?{i}' for i in range(200)]))))

# As gunicorn does: the parent listens, forked workers accept, a signal stops them.
listener = socket.create_server(('127.0.0.1', 0), backlog=64); workers = []
class Worker(wsgiref.simple_server.WSGIServer):
    def __init__(self): super().__init__(listener.getsockname(), Handler, bind_and_activate=False); self.socket.close(); self.socket = listener; self.server_name, self.server_port = listener.getsockname(); self.setup_environ(); self.set_app(lambda e, s: (s('200 OK', []), [str(os.getpid()).encode()])[1])
for _ in range(3):
    if (pid := os.fork()) == 0:
        signal.signal(signal.SIGTERM, lambda n, f: os._exit(0)); Worker().serve_forever()
    workers.append(pid)
url = 'http://127.0.0.1:%d/' % listener.getsockname()[1]
with concurrent.futures.ThreadPoolExecutor(8) as pool: pids = [int(b) for b in pool.map(get, [url] * 200)]
print(len(pids), set(pids) <= set(workers)); [os.kill(p, signal.SIGTERM) for p in workers]; print([os.waitstatus_to_exitcode(os.waitpid(p, 0)[1]) for p in workers])
