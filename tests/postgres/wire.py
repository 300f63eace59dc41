"""A way to the server that records what clients say, and that can be held up or cut."""

import contextlib
import socket
import threading


class Wire:
    """A loopback port from which everything is passed on to a unix socket.

    ``said`` is all that clients sent. While it is held, nothing passes in either direction and
    nobody is told: a silent cut. With ``keepsEnds`` a client learns that the server ended its
    connection only when it sends something more.
    """

    def __init__(self, target):
        self.target = target
        self.said = bytearray()
        self.keepsEnds = False
        self._passes = threading.Event()
        self._passes.set()
        self._clients = []
        self._servers = []
        self._threads = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]

    def __enter__(self):
        self._run(self._accept)
        return self

    def __exit__(self, *exc_info):
        self.release()
        self.refuse()
        for each in self._clients + self._servers:
            _end(each)
        for thread in self._threads:
            thread.join()
        for each in self._clients + self._servers:
            each.close()

    def hold(self):
        self._passes.clear()

    def release(self):
        self._passes.set()

    def refuse(self):
        """Refuse new connections from now on."""
        _end(self._listener)
        self._threads[0].join()
        self._listener.close()

    def bytesOf(self, pool, checkouts, use=lambda conn: None):
        """Count what is said in this many checkouts and in one that asks something."""
        before = len(self.said)
        for _ in range(checkouts):
            with pool.take() as conn:
                use(conn)
        with pool.take() as conn, conn.cursor() as cur:
            cur.execute("select 1")
            cur.fetchone()  # its answer tells that all that was said before was counted
        return len(self.said) - before

    def tell(self, message):
        """Send to the client that came last, as if the server did so unasked."""
        self._clients[-1].sendall(message)

    def _run(self, target, *args):
        thread = threading.Thread(target=target, args=args, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self):
        with contextlib.suppress(OSError):
            while True:
                client = self._listener.accept()[0]
                server = socket.socket(socket.AF_UNIX)
                self._clients.append(client)
                self._servers.append(server)
                server.connect(self.target)
                self._run(self._passOn, client, server)
                self._run(self._passBack, server, client)

    def _passOn(self, client, server):
        with contextlib.suppress(OSError):
            while data := client.recv(65536):
                self._passes.wait()
                self.said += data
                server.sendall(data)
        _end(client, server)

    def _passBack(self, server, client):
        with contextlib.suppress(OSError):
            while data := server.recv(65536):
                self._passes.wait()
                client.sendall(data)
        self._passes.wait()
        if not self.keepsEnds:
            _end(client, server)


def _end(*sockets):
    for each in sockets:
        with contextlib.suppress(OSError):
            each.shutdown(socket.SHUT_RDWR)
