#: group = "F"
#: summary = "ssl: a certificate made here, a local TLS server and client, verification and its failure, ALPN"
#: with = ["/usr/bin/python3"]
import os, socket, ssl, subprocess, sys, threading

key, cert = '/conformance/python/tls.key', '/conformance/python/tls.crt'
server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER); server.load_cert_chain(cert, key); server.set_alpn_protocols(['h2', 'http/1.1'])
listener = socket.create_server(('127.0.0.1', 0))
def serve():
    for _ in range(12):
        raw, _ = listener.accept()
        try:
            with server.wrap_socket(raw, server_side=True) as s:
                while data := s.recv(100000): s.sendall(data[::-1])
        except (ssl.SSLError, OSError): raw.close()
threading.Thread(target=serve, daemon=True).start()
def client(): c = ssl.create_default_context(cafile=cert); c.verify_flags &= ~ssl.VERIFY_X509_STRICT if hasattr(ssl, 'VERIFY_X509_STRICT') else ~0; return c
context = client(); context.set_alpn_protocols(['http/1.1'])
with context.wrap_socket(socket.create_connection(listener.getsockname()), server_hostname='localhost') as s:
    print(s.version(), s.cipher()[0], s.selected_alpn_protocol(), dict(x[0] for x in s.getpeercert()['subject'])); s.sendall(b'through tls'); print(s.recv(100))
    big = os.urandom(15000); s.sendall(big); got = b''
    while len(got) < len(big): got += s.recv(100000)
    print(len(got))
for _ in range(8):
    with client().wrap_socket(socket.create_connection(listener.getsockname()), server_hostname='localhost') as s: s.sendall(b'again'); assert s.recv(10) == b'niaga'
try: client().wrap_socket(socket.create_connection(listener.getsockname()), server_hostname='wrong.name')
except ssl.SSLCertVerificationError as e: print(e.verify_message)
try: ssl.create_default_context().wrap_socket(socket.create_connection(listener.getsockname()), server_hostname='localhost')
except ssl.SSLCertVerificationError as e: print(e.verify_code in (18, 19, 20))
context = client(); context.maximum_version = ssl.TLSVersion.TLSv1_2
with context.wrap_socket(socket.create_connection(listener.getsockname()), server_hostname='localhost') as s: print(s.version())
print(ssl.OPENSSL_VERSION.split()[0], ssl.RAND_status(), len(ssl.RAND_bytes(16)))
