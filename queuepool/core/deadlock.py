"""Whether nobody can ever be served, because all holders wait themselves."""

from __future__ import annotations

from typing import Any

from queuepool.core.idle import IdleQueue
from queuepool.core.slot import Place

#: Seconds that a take waits before it looks whether it waits for ever.
DEADLOCK_TIME = 1.0


def findKnot(queue: IdleQueue, asker: Any = None) -> list[Any] | None:
    """Return who holds what if all of them wait, in this queue or in others that they need.

    None if anybody else may put something. Nothing is locked: two passes have to find the same.
    The ``asker`` is taken for one who waits in this queue.
    """
    knot = _look(queue, asker)
    return knot if knot is not None and knot == _look(queue, asker) else None


def _look(queue: IdleQueue, asker: Any = None) -> list[Any] | None:
    found: list[Any] = []
    seen = set()
    pending, asked = [queue], (queue,)
    while pending:
        queue = pending.pop()
        if id(queue) in seen:
            continue
        seen.add(id(queue))
        if queue.hasRoom or queue.isShutDown:  # somebody may seed it, or is told that it ended
            return None
        for slot in list(queue.members):
            taker = slot.takenBy
            waits = None
            if slot.place is Place.TAKEN and not taker.hasEnded:
                waits = asked if taker is asker else taker.waits
            if waits is None:
                return None
            found.append((slot, slot.takes, waits))
            pending.append(waits[0])
    return found
