"""One call of a pool: what it has in hand, and until when it may go on."""

from __future__ import annotations

#: Seconds that the hooks of a call may use even if its timeout is shorter, such as 0.
LEAST_HOOK_TIME = 0.05


class Call:
    """What one call of a pool has in hand, and its deadline.

    The hand is the safety of the long way. A resource comes in by ``for call.resource in …`` and
    leaves by one line that makes it idle and empties the hand. Each is so few instructions that
    no signal handler runs within it. So whatever is raised, the one ``except BaseException`` of
    the call finds in the hand what it has to return.

    ``resource`` is what is in hand, or None. ``startedAt``, ``now`` and ``deadline`` are instants
    of the pool's clock; ``now`` is read again after anything that may have blocked. ``isFirst``: it
    had its turn already, so if it has to wait again it stands first in line. Only a take has more
    than a hand. There is no ``__init__``: a call of Python code less for each take and put.
    """

    __slots__ = ("resource", "taker", "startedAt", "now", "deadline", "isFirst")

    def mayRunAnotherHook(self) -> bool:
        """Tell whether there is time to begin something else that may block."""
        return self.now <= self.deadline or self.now <= self.startedAt + LEAST_HOOK_TIME
