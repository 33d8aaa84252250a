"""An HTTPS server for a pod with a certmount volume. It takes up each renewal of its certificate
without dropping a connection, with Python's standard library alone.

    python3 server.py [DIRECTORY [ADDRESS:PORT]]

FollowedTLS is the part to copy: its context is an ordinary ssl.SSLContext, and as good for asyncio,
uvicorn or gunicorn as for http.server.
"""

import os
import signal
import ssl
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class FollowedTLS:
    """The TLS settings for new connections. They follow the certificate in a directory."""

    def __init__(self, directory):
        self.link = os.path.join(directory, "..data")
        self.files = self.current_files()
        self.latest, self.serial = load(self.files)
        # What servers get to hold. For each handshake OpenSSL calls back, whether or not the client
        # names a server, and goes on with the latest context. Loading a new certificate into this
        # one instead would be wrong: a handshake in another thread could get the new certificate
        # with the old key, and files that do not match would leave it with neither.
        self.context, _ = load(self.files)
        self.context.sni_callback = self.use_latest
        threading.Thread(target=self.follow, daemon=True).start()

    def use_latest(self, connection, _name, _context):
        connection.context = self.latest

    def current_files(self):
        # A renewal makes a new directory and swaps this link over to it.
        return os.path.join(os.path.dirname(self.link), os.readlink(self.link))

    def follow(self):
        while True:
            # Reading a link costs next to nothing, and unlike a watch it never misses a swap.
            time.sleep(0.5)
            try:
                files = self.current_files()
                if files != self.files:
                    self.files = files
                    self.latest, self.serial = load(files)
                    print(f"renewed, now serving serial {self.serial}", flush=True)
            except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
                print(f"keeping the old certificate: {error}", flush=True)


def load(files):
    """A context with the key and the certificate of one directory, so that they belong together,
    and the certificate's serial number."""
    certificate = os.path.join(files, "tls.crt")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, os.path.join(files, "tls.key"))
    with open(certificate, encoding="ascii") as chain:
        pem = chain.read()
    leaf = pem[: pem.index(ssl.PEM_FOOTER) + len(ssl.PEM_FOOTER)]
    return context, serial_number(ssl.PEM_cert_to_DER_cert(leaf))


def serial_number(certificate):
    """The second field of a certificate (RFC 5280, section 4.1), which Python does not show."""

    def element(start):
        length, start = certificate[start + 1], start + 2
        if length & 0x80:
            end = start + (length & 0x7F)
            length, start = int.from_bytes(certificate[start:end], "big"), end
        return start, start + length

    certificate_start, _ = element(0)
    fields_start, _ = element(certificate_start)
    _, version_end = element(fields_start)
    start, end = element(version_end)
    return f"{int.from_bytes(certificate[start:end], 'big'):x}"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = 60
    disable_nagle_algorithm = True

    def do_GET(self):
        body = f"serial {self.server.tls.serial}\n".encode()
        self.send_response(200)
        self.send_header("Content-Type", "text/plain")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, address, tls):
        super().__init__(address, Handler)
        self.tls = tls

    def get_request(self):
        connection, client = super().get_request()
        # The handshake comes with the first read, in the connection's own thread.
        connection = self.tls.context.wrap_socket(
            connection, server_side=True, do_handshake_on_connect=False
        )
        return connection, client

    def handle_error(self, *_):
        pass  # a client that hung up: there is nobody to tell


def main():
    directory = sys.argv[1] if len(sys.argv) > 1 else "/tls"
    address = sys.argv[2] if len(sys.argv) > 2 else "0.0.0.0:8443"
    host, port = address.rsplit(":", 1)
    server = Server((host, int(port)), FollowedTLS(directory))
    print(f"listening on {host}:{server.server_port}, serial {server.tls.serial}", flush=True)
    signal.signal(signal.SIGTERM, lambda *_: threading.Thread(target=server.shutdown).start())
    server.serve_forever()


if __name__ == "__main__":
    main()
