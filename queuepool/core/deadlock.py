"""Whether nobody can ever be served, because all holders wait themselves."""

from __future__ import annotations

from typing import Any

from queuepool.core.idle import IdleQueue
from queuepool.core.slot import Place

#: Seconds that a take waits before it looks whether it waits for ever.
DEADLOCK_TIME = 1.0


#: By identity who holds what, and the number of its takes.
Knot = list[tuple[int, int, int]]


def findKnot(queue: IdleQueue, asker: Any = None) -> Knot | None:
    """Return who holds what if all of them wait, in this queue or in others that they need.

    None if anybody else may put something. Nothing is locked: two passes have to find the same.
    The ``asker`` is taken for one who waits in this queue. What is returned keeps nothing alive.
    """
    knot = _look(queue, asker)
    if knot is None or knot != _look(queue, asker):
        return None
    return [(id(taker), id(slot), takes) for taker, slot, takes, _ in knot]


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
            if slot.place in (Place.TAKEN, Place.HELD) and taker and not taker.hasEnded:
                waits = asked if taker is asker else taker.waits
            if waits is None:
                return None
            found.append((taker, slot, slot.takes, waits))
            pending.append(waits[0])
    return found
