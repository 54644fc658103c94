"""Which fault when: everything random of a run comes from its seed. Pure."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

QUIET = 2.0  #: seconds of load before the first fault


@dataclass(frozen=True)
class Planned:
    """One fault: ``at`` seconds from the begin; ``pick`` says whom, ``size`` how long or how hard, both from 0 to 1."""

    at: float
    kind: str
    pick: float
    size: float


def plan(seed: int, seconds: float, kinds: Sequence[str], every: float) -> list[Planned]:
    """The faults of a run of so many seconds, one ``every`` so many seconds on average.

    All kinds come in turn, each time in another order, so that a run of any length has as many of each as there is
    time for.
    """
    dice = random.Random(seed)
    planned: list[Planned] = []
    bag: list[str] = []
    at = QUIET
    while kinds and at < seconds:
        if not bag:
            bag = list(kinds)
            dice.shuffle(bag)
        planned.append(Planned(round(at, 3), bag.pop(), dice.random(), dice.random()))
        at += dice.uniform(0.4, 1.6) * every
    return planned
