#: group = "C"
#: summary = "the socket module: echo with threads and selectors, options, errors, socketpair, sendfile, time-outs, UDP"
#: with = ["/usr/bin/python3"]
import errno, os, select, selectors, socket, socketserver, tempfile, threading

class Echo(socketserver.StreamRequestHandler):
    def handle(self):
        for line in self.rfile: self.wfile.write(line.upper())
class Server(socketserver.ThreadingTCPServer): allow_reuse_address, daemon_threads = True, True
with Server(('127.0.0.1', 0), Echo) as server:
    threading.Thread(target=server.serve_forever, daemon=True).start()
    def talk(n, out):
        with socket.create_connection(server.server_address) as s, s.makefile('rwb') as f:
            for i in range(10): f.write(b'%d-%d\n' % (n, i)); f.flush(); assert f.readline() == b'%d-%d\n' % (n, i)
            f.write(b'abc\n'); f.flush(); out.append(f.readline())
    out = []; ts = [threading.Thread(target=talk, args=(n, out)) for n in range(20)]; [t.start() for t in ts]; [t.join() for t in ts]; print(len(out), set(out)); server.shutdown()
sel = selectors.DefaultSelector(); lsock = socket.create_server(('127.0.0.1', 0)); lsock.setblocking(False); sel.register(lsock, selectors.EVENT_READ)
clients = [socket.create_connection(lsock.getsockname()) for _ in range(10)]; conns = {}
for i, c in enumerate(clients): c.sendall(b'client %d' % i); c.shutdown(socket.SHUT_WR)
done = 0
while done < 10:
    for key, _ in sel.select(10):
        if key.fileobj is lsock: c, _ = lsock.accept(); c.setblocking(False); sel.register(c, selectors.EVENT_READ); conns[c] = b''
        elif data := key.fileobj.recv(4): conns[key.fileobj] += data
        else: key.fileobj.sendall(conns[key.fileobj][::-1]); sel.unregister(key.fileobj); key.fileobj.close(); done += 1
print([c.recv(100) for c in clients], type(sel).__name__)
a, b = socket.socketpair(); a.send(b'pair'); print(b.recv(10), a.family.name, select.select([a], [a], [], 0)[1] == [a]); a.close(); print(b.recv(1))
s = socket.socket(); s.settimeout(0.05); l = socket.create_server(('127.0.0.1', 0)); s.connect(l.getsockname())
try: s.recv(1)
except TimeoutError as e: print(e)
for action in (lambda: socket.create_connection(('127.0.0.1', 1)), lambda: socket.create_server(l.getsockname()), lambda: socket.socket().recv(1), lambda: socket.socket().bind(('1.2.3.4', 0)), lambda: socket.socket(socket.AF_UNIX).connect('/no/such')):
    try: action(); print('no error')
    except OSError as e: print(type(e).__name__, errno.errorcode[e.errno])
for option in (socket.SO_REUSEADDR, socket.SO_KEEPALIVE, socket.SO_BROADCAST): s.setsockopt(socket.SOL_SOCKET, option, 1); print(s.getsockopt(socket.SOL_SOCKET, option))
s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1); print(s.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY), s.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR))
c, addr = l.accept(); f = tempfile.TemporaryFile(); f.write(os.urandom(1) * 500000); f.seek(0); got = bytearray(); t = threading.Thread(target=lambda: [got.extend(d) for d in iter(lambda: c.recv(65536), b'')]); t.start(); s.settimeout(20); print(s.sendfile(f)); s.close(); t.join(); print(len(got), len(set(got)))
u1, u2 = socket.socket(socket.AF_INET, socket.SOCK_DGRAM), socket.socket(socket.AF_INET, socket.SOCK_DGRAM); u1.bind(('127.0.0.1', 0)); u2.sendto(b'datagram', u1.getsockname()); print(u1.recvfrom(100)[0])
print(socket.gethostbyname('localhost'), socket.inet_aton('1.2.3.4').hex(), socket.getaddrinfo('127.0.0.1', 80, type=socket.SOCK_STREAM)[0][4], socket.has_ipv6, socket.ntohs(1), isinstance(socket.gethostname(), str))
a, b = socket.socketpair(); r, w = os.pipe(); socket.send_fds(a, [b'fds'], [w]); data, fds, _, _ = socket.recv_fds(b, 10, 1); os.write(fds[0], b'passed'); print(data, os.read(r, 10))
