"""How long brief jobs take, and so how many may wait in a busy process."""

from __future__ import annotations

import math

#: What a job costs its pool process besides its body, in seconds.
_OVERHEAD = 20e-6
#: A process is given no more jobs than this beyond what it can start; more makes frames no cheaper.
_MOST = 128
#: Where many jobs share a loop, many end in one of its turns, and no other comes in before the next: so many times the
#: horizon has to wait there, or slots stay empty.
_LOOP_TURNS = 10
#: The average reaches this many jobs back.
_MEMORY = 32
#: Seconds of a pool process's birth at the least; its replacement is started so long before it is worn out.
_BIRTH = 0.02


class Pace:
    """A running average over the jobs that were said to be brief."""

    def __init__(self, horizon: float, abreast: int = 1) -> None:
        self._horizon = horizon
        self._abreast = abreast  #: jobs that run at the same time in a process
        self._mean: float | None = None
        self._first: float | None = None
        self._any_mean: float | None = None
        self._birth = _BIRTH

    def note(self, seconds: float, count: int) -> None:
        """``count`` brief jobs took ``seconds`` together."""
        mean = seconds / count
        if self._mean is None:
            self._mean = mean
        else:
            self._mean += (mean - self._mean) * min(1.0, count / _MEMORY)

    def note_first(self, seconds: float) -> None:
        """The first job that has ended took so long, which goes for brief ones until one has ended."""
        self._first = seconds

    @property
    def is_new(self) -> bool:
        """Whether no job has ended yet."""
        return self._first is None

    def note_any(self, seconds: float) -> None:
        """A job took so long, brief or not."""
        if self._any_mean is None:
            self._any_mean = seconds
        else:
            self._any_mean += (seconds - self._any_mean) / _MEMORY

    def born(self, seconds: float) -> None:
        """A process took so long to come up."""
        # Those that are started together hinder each other: the next one is expected to be faster, half and half.
        self._birth = max(_BIRTH, (self._birth + seconds) / 2 if self._birth > _BIRTH else seconds)

    @property
    def longest(self) -> float:
        """What a job counts for at most: one that was not brief after all does not close the door for long."""
        return 10 * self._horizon * self._abreast

    def depth(self) -> int:
        """How many jobs may wait behind those that run: as many as a process does in the horizon."""
        mean = self._first if self._mean is None else self._mean
        if mean is None:
            return 0
        horizon = self._horizon if self._abreast == 1 else self._horizon * _LOOP_TURNS
        return min(_MOST, int(horizon / (mean / self._abreast + _OVERHEAD)))

    def lead(self, slots: int) -> int:
        """How many jobs before its last one the replacement of a process with so many slots has to be on its way."""
        if self._any_mean is None:
            return slots
        return slots * max(1, math.ceil(self._birth / (self._any_mean + _OVERHEAD)))
