"""What ``Pool.report()`` returns: a pool as it is now, and who has what of it."""

from __future__ import annotations

import enum
import linecache
import os
import re
import textwrap
from collections.abc import Iterator, Sequence
from typing import NamedTuple

#: How many holders str(report) shows; what is longest checked out comes first.
SHOWN = 20
WIDTH = 80

#: Whose frames are of little interest to somebody who looks where a thread is.
_OWN = os.path.dirname(__file__) + os.sep
_STANDARD_LIBRARY = os.path.dirname(os.__file__) + os.sep
_INSTALLED = f"{os.sep}site-packages{os.sep}"

_LINE_OF_TRACE = re.compile(r'^  File "(.*)", line (\d+), in (.*)$', re.MULTILINE)


class Verdict(str, enum.Enum):
    """Why a take gets nothing. The value ends the message, as in ``[queuepool:exhausted]``."""

    EXHAUSTED = "exhausted"  #: all are checked out
    NESTED = "nested"  #: all are checked out by threads that wait for another one themselves
    CANNOT_OPEN = "cannot-open"  #: one is free, but it could not be opened, or not in time
    EMPTY = "empty"  #: nothing was put into the pool yet, and it has no factory
    SHUTTING_DOWN = "shutting-down"  #: the pool was closed

    def __str__(self) -> str:
        return self.value


class Frame(NamedTuple):
    """Where a function is."""

    file: str
    line: int
    function: str


class _Holder(NamedTuple):
    resource: str  #: its name
    thread: str  #: the name of the thread that took it
    seconds: float  #: since the take
    waitsIn: str | None  #: the pool in which the thread waits now, if it waits
    hasEnded: bool  #: whether the thread has ended
    frames: tuple[Frame, ...]  #: where the thread is now, the innermost last; () if not known
    takeTrace: str | None  #: the stack of the take, with the pool's ``leakTrace``


class Holder(_Holder):
    """Who has a resource checked out, since when, and where he is now."""

    __slots__ = ()

    @property
    def stack(self) -> str:
        """The stack of the thread as it was when the report was made, as a traceback shows it."""
        return "".join(
            f'  File "{file}", line {line}, in {function}\n'
            + (f"    {text}\n" if (text := linecache.getline(file, line).strip()) else "")
            for file, line, function in self.frames)

    @property
    def place(self) -> str:
        """The line of the user's program at which the thread is."""
        return _place(self.frames)

    @property
    def takenAt(self) -> str:
        """The line of the user's program that took it, with the pool's ``leakTrace``."""
        return _place([Frame(file, int(line), function) for file, line, function
                       in _LINE_OF_TRACE.findall(self.takeTrace or "")])

    @property
    def state(self) -> str:
        """What is known of the thread, in a few words."""
        return ("has ended without returning it" if self.hasEnded
                else f"waits in pool {self.waitsIn!r}" if self.waitsIn is not None else "")


def _place(frames: Sequence[Frame]) -> str:
    """Return the innermost line of the user's own program, or else of what is not ours."""
    found = [each for each in reversed(frames) if not each.file.startswith(_OWN)]
    frame = next((each for each in found if not each.file.startswith(_STANDARD_LIBRARY)
                  and _INSTALLED not in each.file), found[0] if found else None)
    return f"{os.path.basename(frame.file)}:{frame.line} in {frame.function}" if frame else ""


class Report(NamedTuple):
    """A pool as it was at one instant. ``str()`` is a table for humans. Times are seconds."""

    name: str
    closed: bool
    capacity: int
    open: int
    idle: int
    taken: int
    waiting: int
    verdict: Verdict | None  #: why a take would get nothing now; None if it would get something
    lastError: str | None  #: the last exception that an ``open`` raised, its first line
    lastErrorAge: float | None
    isReconnecting: bool  #: whether one resource is tried at a time, after a failure
    retryIn: float | None  #: until the next one is tried; None if nothing is waited for
    recyclerRuns: bool
    holders: tuple[Holder, ...]  #: of all that is checked out, the longest first

    def __str__(self) -> str:
        return "\n".join(line[:WIDTH - 1] + "…" if len(line) > WIDTH else line
                         for line in self._lines())

    def _lines(self) -> Iterator[str]:
        verdict = "all is well" if self.verdict is None else self.verdict
        yield f"pool {_cut(repr(self.name), 50)}: {verdict}"
        yield (f"  capacity {self.capacity}, checked out {self.taken}, idle {self.idle}, "
               f"open {self.open}, waiting {self.waiting}")
        yield (f"  recycler {'on' if self.recyclerRuns else 'off'}"
               + (", closed" if self.closed else "")
               + (", reconnecting" if self.isReconnecting else "")
               + (f", next attempt in {self.retryIn:.1f} s" if self.retryIn is not None else ""))
        if self.lastError is not None:
            yield from textwrap.wrap(
                f"last failed open {self.lastErrorAge:.1f} s ago: {_printable(self.lastError)}",
                WIDTH, initial_indent="  ", subsequent_indent="    ")
        if self.holders:
            yield f"  {'seconds':>9}  {'resource':20}  thread"
        for holder in self.holders[:SHOWN]:
            yield (f"  {holder.seconds:9.3f}  {_cut(holder.resource, 20):20}  "
                   f"{_cut(holder.thread, 45)}").rstrip()
            if holder.hasEnded and holder.takenAt == "":
                yield f"{'':13}{holder.state}; leakTrace=True tells where it took"
            elif holder.state:
                yield f"{'':13}{_cut(holder.state, 67)}"
            if holder.place:
                yield f"{'':13}now at {holder.place}"
            if holder.takenAt:
                yield f"{'':13}taken at {holder.takenAt}"
        if len(self.holders) > SHOWN:
            yield f"  and {len(self.holders) - SHOWN} more"


def _printable(text: str) -> str:
    """Return the text with all that would leave its line, or colour a terminal, escaped."""
    return "".join(each if each.isprintable() else ascii(each)[1:-1] for each in text)


def _cut(text: str, width: int) -> str:
    text = _printable(text)
    return text if len(text) <= width else text[:width - 1] + "…"
