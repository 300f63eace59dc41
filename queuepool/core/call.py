"""One call of a pool: what it has in hand, and until when it may go on."""

from __future__ import annotations

from typing import Any

#: The default of take's timeout: the pool's takeTimeout. None means for ever. It is a class, since
#: without the GIL threads would hinder each other by counting the references to an instance.
POOL_DEFAULT: Any = type(
    "Default", (type,), {"__repr__": lambda self: "<the pool's takeTimeout>"})(
    "PoolsTakeTimeout", (), {})

#: Seconds that the hooks of a take may use even if its timeout is shorter, such as 0.
LEAST_HOOK_TIME = 0.05


class Call:
    """What one call of a pool has in hand, and the deadline of a take.

    The hand is what makes the long way safe. A resource gets into it by a pick (``core/idle.py``)
    and leaves it in the line that makes the resource idle. CPython runs signal handlers only
    after a call, after a jump back and when a function is entered, so none runs within a pick. In
    a line such as ``slot.place = IDLE; call.resource = None; put(resource)`` one can run only at
    its end: what it calls comes last. So whatever is raised, the one ``except BaseException`` of
    a call finds in the hand what it has to return, and nothing that is not its own.
    """

    __slots__ = ("resource", "startedAt", "now", "deadline", "isFirst")

    # There is no __init__: each take would call one more Python function. Only a take sets more
    # than the hand.
    resource: Any  #: what is in hand, or None
    startedAt: float  #: an instant of the pool's clock, as the next two
    now: float  #: read again after anything that may have blocked
    deadline: float
    isFirst: bool  #: it had its turn; if it has to wait again, it stands first in line

    def mayRunAnotherHook(self) -> bool:
        """Tell whether there is time to begin something else that may block."""
        return self.now <= self.deadline or self.now <= self.startedAt + LEAST_HOOK_TIME
