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

    Such as ``dumpOnSignal(signal.SIGUSR1)``; then ``kill -USR1 PID`` shows who holds what. Works
    while all threads are stuck in ``take``: it takes no lock and writes straight to the file
    descriptor. Call it in the main thread. A handler that the signal had before is called as well.
    CPython runs it in the main thread, as soon as that executes Python code: not while it waits for
    an answer of a database.
    """
    if file is not None:
        file.fileno()  # what has none is to be told here

    def dump(signum: int, frame: FrameType | None) -> None:
        text = "".join(map(_reportOf, allPools())) or "no queuepool\n"
        data = text.encode(errors="backslashreplace")
        with contextlib.suppress(OSError, ValueError):  # as of a file that was closed
            descriptor = 2 if file is None else file.fileno()
            while data:
                data = data[os.write(descriptor, data):]
        if callable(before):
            before(signum, frame)

    before = signal.signal(number, dump)


def _reportOf(pool: Any) -> str:
    try:
        return f"{pool.report()}\n"
    except Exception as error:  # of the pool's clock; the program that was interrupted goes on
        return f"pool {pool.name!r}: no report: {brief(error)}\n"
