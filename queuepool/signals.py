"""The reports of all pools, on a signal."""

from __future__ import annotations

import contextlib
import os
import signal
from types import FrameType
from typing import Any

from queuepool.core.fork import allPools
from queuepool.core.log import brief


def dumpOnSignal(number: int, file: Any = None) -> None:
    """Write the report of every pool to stderr, or to ``file``, whenever this signal arrives.

    Such as ``dumpOnSignal(signal.SIGUSR1)``; then ``kill -USR1 PID`` shows who holds what. On
    Windows it is ``signal.SIGBREAK``, and Ctrl-Break. Works while all threads are stuck in
    ``take``: it takes no lock and writes straight to the file descriptor. Call it in the main
    thread. A handler that the signal had before is called as well. CPython runs it in the main
    thread, as soon as that executes Python code: not while it waits for an answer of a database.
    Called again for the same signal, it replaces the file only.
    """
    if file is not None and not isinstance(file.fileno(), int):
        raise ValueError("file must be one of the operating system: its fileno() must be an int")
    before = signal.getsignal(number)
    if isinstance(before, _Dump):
        before = before.before
    signal.signal(number, _Dump(file, before))


class _Dump:
    """The signal handler."""

    def __init__(self, file: Any, before: Any) -> None:
        self._file = file
        self.before = before

    def __call__(self, signum: int, frame: FrameType | None) -> None:
        with contextlib.suppress(Exception):  # as of a file that was closed: the program goes on
            text = "".join(map(_reportOf, allPools())) or "no queuepool\n"
            data = text.encode(errors="backslashreplace")
            descriptor = 2 if self._file is None else self._file.fileno()
            while data:
                data = data[os.write(descriptor, data):]
        if callable(self.before):
            self.before(signum, frame)


def _reportOf(pool: Any) -> str:
    try:
        return f"{pool.report()}\n"
    except Exception as error:  # of the pool's clock; the program that was interrupted goes on
        return f"pool {pool.name!r}: no report: {brief(error)}\n"
