"""What limits the throughput, as far as it can be seen from here, and how one knows."""

from __future__ import annotations

import statistics
import sys
from collections.abc import Sequence
from typing import NamedTuple

from queuepool.size.load import Measurement

#: From this share of a core on, a process with a GIL has no more to give.
GIL_FULL = 0.85
#: From this share of the machine's cores on, they have no more to give.
MACHINE_FULL = 0.85
#: What share of the busy sessions has to wait for something for it to be what limits. That for
#: locks is lower, because the session that holds the lock does not wait for it.
SHARE = 0.5
LOCK_SHARE = 1 / 3

KINDS = {
    "IO": ("the server's disk", "read or wrote files (wait_event_type IO)"),
    "LWLock": ("locks inside of the server", "waited for internal locks (wait_event_type LWLock)"),
    "CPU": ("the server's CPU", "ran or waited for a core (active, with no wait_event)"),
}


class Limit(NamedTuple):
    """What it looks like, in a few words, and a sentence that tells how that is known."""

    kind: str
    evidence: str


def hasGil() -> bool:
    """Tell whether only one thread of this process can run Python at a time."""
    return bool(getattr(sys, "_is_gil_enabled", lambda: True)())


def findLimit(runs: Sequence[Measurement], capacity: int) -> Limit:
    """Tell what limits in these runs, which were made at this capacity."""
    cpu = statistics.median(run.cpu for run in runs)
    known = [run.machine for run in runs if run.machine is not None]
    machine = statistics.median(known) if known else None
    kinds = {kind for run in runs for kind in run.waits}
    waits = {kind: statistics.fmean(run.waits.get(kind, 0.0) for run in runs) for kind in kinds}
    everything = sum(waits.values())
    busy = everything - waits.get("Client", 0.0)
    used = f"This process used {cpu:.0%} of one core"
    if machine is not None:
        used += f", and all cores of this machine were {machine:.0%} busy"
    if cpu >= GIL_FULL and hasGil():
        return Limit("the client's own GIL",
                     f"{used}. One process can use no more than one core for Python, so more "
                     "processes would get more out of the server.")
    if busy < SHARE * everything:
        return Limit("the client, or the way to the server",
                     f"On average {waits['Client']:.1f} of {everything:.1f} sessions waited for "
                     f"the next statement, at capacity {capacity}. {used}.")
    if not busy:
        return Limit("not known", f"{used}; pg_stat_activity shows no busy session of this load.")

    def average(kind: str, what: str) -> str:
        return (f"On average {waits[kind]:.1f} of {busy:.1f} busy sessions {what} in "
                f"pg_stat_activity, at capacity {capacity}. {used}.")

    if waits.get("Lock", 0.0) >= LOCK_SHARE * busy:
        return Limit("locks", average("Lock", "waited for another one's lock "
                                              "(wait_event_type Lock)"))
    most = max((kind for kind in waits if kind != "Client"), key=lambda kind: waits[kind])
    if most == "CPU" and machine is not None and machine >= MACHINE_FULL:
        return Limit("the CPU of this machine, on which the server runs, too",
                     average("CPU", KINDS["CPU"][1]))
    if most == "CPU" and machine is not None:
        return Limit("not known", average(most, KINDS[most][1]))
    if waits[most] < SHARE * busy:
        return Limit("not known", average(most, f"waited for {most}, the most frequent"))
    kind, what = KINDS.get(most, (f"what the sessions wait for: {most}",
                                  f"waited (wait_event_type {most})"))
    return Limit(kind, average(most, what))
