"""The kinds of work that the load is mixed of. Pure: producers, tasks and the checker agree on it."""

from __future__ import annotations

from typing import NamedTuple

QUEUE = "celery"  #: where everything is sent


class Kind(NamedTuple):
    """One piece of work.

    It has ``members`` marks, its own and the ones after it; each is one task that has to run ``attempts`` times. The
    last one's result is the result of the whole. ``passed_on``: a worker publishes some of it (the next attempt, the
    next step) or puts it away until it is due.
    """

    weight: int
    members: int = 1
    attempts: int = 1
    seconds: float = 0.0
    countdown: float = 0.0
    passed_on: bool = False


KINDS = {
    "plain": Kind(weight=40),
    "short": Kind(weight=20, seconds=0.01),
    "long": Kind(weight=5, seconds=0.4),
    "retry": Kind(weight=8, attempts=2, passed_on=True),
    "later": Kind(weight=8, countdown=1.5, passed_on=True),
    "soon": Kind(weight=4, countdown=7.0, passed_on=True),
    "chain": Kind(weight=5, members=3, passed_on=True),
    "chord": Kind(weight=4, members=5, passed_on=True),
}

#: Tasks that harm the process they run in, by the name of the fault that sends one. Each has to come to an end too: a
#: failure as its result, or a dead letter.
POISONS = {"segfault": "chaos.segfault", "spin": "chaos.spin", "memory": "chaos.hoard"}

#: Marks that a producer may use, and from which on those of poisons begin.
MARKS = 10_000_000
POISON_MARKS = 1_000_000_000_000


def answer(mark: int) -> int:
    """What a task returns that was given nothing but its mark."""
    return mark * 7 + 3


def expected(kind: str, mark: int) -> int:
    """The result of a whole piece of work."""
    match kind:
        case "chain":
            return sum(answer(mark + step) for step in range(KINDS[kind].members))
        case "chord":
            return sum(answer(mark + part) for part in range(KINDS[kind].members - 1))
        case _:
            return answer(mark)
