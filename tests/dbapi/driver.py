"""A driver of DB-API 2.0 that is connected to nobody, and fails as it is told."""

import socket

apilevel = "2.0"
threadsafety = 1
paramstyle = "qmark"


class Error(Exception):
    pass


class InterfaceError(Error):
    pass


class OperationalError(Error):
    pass


class ProgrammingError(Error):
    pass


class Connection:
    """Keeps account of its calls. ``script`` maps a method to what it raises, or calls."""

    def __init__(self, hasSocket=True, script=None, password=None):
        self.calls = []
        self.script = script or {}
        self.closed = False
        self.near, self.far = socket.socketpair()
        self.near.settimeout(30)
        if hasSocket:
            self.fileno = self.near.fileno

    def _play(self, method):
        self.calls.append(method)
        if self.closed:
            raise InterfaceError("it is closed")
        entry = self.script.get(method)
        if isinstance(entry, Exception):
            raise entry
        return entry and entry(self)

    def cursor(self):
        return self._play("cursor")

    def commit(self):
        self._play("commit")

    def rollback(self):
        self._play("rollback")

    def ping(self):
        return self._play("ping")

    def close(self):
        self._play("close")
        self.closed = True
        self.near.close()
        self.far.close()


def waitForAnswer(conn):
    """Block until there is an answer, or the connection was cut off."""
    if not conn.near.recv(1):
        raise OperationalError("server has gone away")


def connect(hasSocket=True, script=None, *, password=None):
    return Connection(hasSocket, script, password)
