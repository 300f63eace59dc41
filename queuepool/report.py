"""What ``Pool.report()`` returns: a pool as it is now, and who has what of it."""

from __future__ import annotations

import enum
import linecache
import os
import re
import sys
import sysconfig
import textwrap
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

#: How many holders str(report) shows; what is longest checked out comes first.
SHOWN = 20
WIDTH = 80

#: Whose frames are of little interest to somebody who looks where a thread is.
_OWN = os.path.dirname(__file__) + os.sep
_INSTALLED = tuple(f"{os.sep}{each}-packages{os.sep}" for each in ("site", "dist"))
#: The standard library, what is built in, and commands such as gunicorn.
_PYTHONS = (os.path.dirname(os.__file__) + os.sep, "<frozen ",
            *(sysconfig.get_path("scripts", vars={"base": base}) + os.sep
              for base in (sys.prefix, sys.base_prefix)))

#: The methods of a resource that the pool runs.
HOOKS = {"open", "close", "takeRepair", "putRepair", "abandon", "isTransient", "noteError"}

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
    #: Where the thread is now, the innermost last, at most 50. () if that is not known, and in the
    #: report of an error for those that str(report) does not show.
    frames: tuple[Frame, ...]
    takeTrace: str | None  #: the stack of the take, with the pool's ``leakTrace``
    isHeld: bool = False  #: not checked out: a take, a put or the recycler runs a hook of it


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
    def hook(self) -> str | None:
        """The hook of the resource that the thread runs now, if it is known."""
        if not self.isHeld:
            return None
        return next((inner.function for outer, inner in reversed([*pairwise(self.frames)])
                     if inner.function in HOOKS and outer.file.startswith(_OWN)), None)

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
        does = []
        if self.isHeld:
            does.append(f"runs its {self.hook}" if self.hook else "runs a hook of it")
        if self.hasEnded:
            does.append("has ended without returning it")
        elif self.waitsIn is not None:
            does.append(f"waits in pool {self.waitsIn!r}")
        return ", ".join(does)


def _place(frames: Sequence[Frame]) -> str:
    """Return the innermost line of the user's own program, else of an installed package."""
    found = [each for each in reversed(frames) if not each.file.startswith(_OWN)]
    frame = min(found, key=lambda each: _distance(each.file), default=None)
    return _printable(f"{os.path.basename(frame.file)}:{frame.line} in {frame.function}"
                      if frame else "")


def _distance(file: str) -> int:
    """Return 0 for a file of the user's program, 1 of a package, 2 of Python and of commands."""
    if any(each in file for each in _INSTALLED):
        return 1
    return 2 if file.startswith(_PYTHONS) else 0


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
    holders: tuple[Holder, ...]  #: of all that is checked out or held by a hook, longest first

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
