"""What was done to which processes, and whether that excuses an attempt's being made again. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from chaos.journal import Run

EVERYBODY = "*"  #: the host of a fault that every worker met


@dataclass(frozen=True)
class Fault:
    """What was done, from when to when (as journals tell time), and to which processes of which worker, if to any."""

    name: str
    since: float
    until: float
    pids: frozenset[int] = frozenset()
    host: str = ""
    ends_pool: bool = True  #: the processes ended; otherwise they were out of touch
    forgets: bool = False  #: the broker may have forgotten that it had delivered a message before
    doubles: bool = False  #: what was being passed on (delayed, or as the next attempt) may be there twice


def fault_under(run: Run, faults: Iterable[Fault], window: float) -> Fault | None:
    """The fault that ended the process, or cut off the worker, before the run was settled.

    ``window`` is how many seconds after its end an attempt may still be unsettled.
    """
    for fault in faults:
        if fault.ends_pool and run.pid in fault.pids and run.began <= fault.until:
            if run.ended is None or fault.since - run.ended <= window:
                return fault
        elif not fault.ends_pool and fault.host in {run.host, EVERYBODY} and overlaps(run, fault, window):
            return fault
    return None


def overlaps(run: Run, fault: Fault, window: float) -> bool:
    """Whether the attempt and the fault were at the same time, or nearly so."""
    ended = fault.until if run.ended is None else run.ended
    return run.began <= fault.until + window and ended >= fault.since - window
