"""A pool that has every fault, to prove that each can be seen."""

import atexit
import threading

from tests.benchmarks.subjects import Subject


class BadPool(Subject):
    """Hand over to the waiter that came last, and forget what went wrong."""

    def __init__(self, dsn, capacity):
        import psycopg2

        self.connect = lambda: psycopg2.connect(dsn)
        self.lock = threading.Lock()
        self.idle = [self.connect() for _ in range(capacity)]
        self.waiting = []
        # In a forked child, too, where they are the parent's.
        atexit.register(lambda: [conn.close() for conn in self.idle])

    def lend(self, use):
        conn = self.take()
        use(conn)
        self.put(conn)  # not after an exception

    def take(self):
        with self.lock:
            if self.idle:
                conn = self.idle.pop(0)
            else:
                turn, box = threading.Event(), []
                self.waiting.append((turn, box))
                conn = None
        if conn is None:
            turn.wait()  # who is interrupted here stays in the line
            conn = box.pop()
        if conn.closed:
            conn = self.connect()  # and has lost its slot if that raises
        self.ask(conn, "select 1")  # a round trip at each take
        return conn

    def put(self, conn):
        with self.lock:
            if self.waiting:
                turn, box = self.waiting.pop()
                box.append(conn)
                turn.set()
            else:
                self.idle.append(conn)
