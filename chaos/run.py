"""One run: start everything, do what the schedule says, let everything be done, and judge."""

from __future__ import annotations

import heapq
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from itertools import count
from pathlib import Path
from typing import Any

import msgspec

from chaos import journal
from chaos.checker import Checker, Evidence, Verdict
from chaos.clocks import Clocks
from chaos.crew import SUBJECTS, Crew
from chaos.faults import KINDS, NobodyError, Stage
from chaos.options import Options
from chaos.schedule import Planned, plan
from chaos.world import WORLDS, Left, World
from tests.support.waiting import NeverHappenedError, wait_until
from umbel.errors import OperationalError

_LOOK = 0.05  #: seconds between two looks at the schedule and at the crew
_TELL = 10.0  #: seconds between two lines of progress
#: Seconds without any progress after which what the broker still has is stuck, and the most that settling may take.
_STANDSTILL = 60.0
_SETTLING = 600.0
_AFTERWARDS = 20  #: pieces of work that must be confirmed when the faults are over
_CONFIRMED = b"\nconfirmed "
_MOST_TOLD = 10  #: wrongs that the document tells in words
_LONGEST_TOLD = 600  #: characters of each


def say(message: str) -> None:
    """Progress, for whoever watches."""
    print(message, file=sys.stderr, flush=True)


class Performance:
    """Does what the schedule says when it is time, and undoes it."""

    def __init__(self, stage: Stage, schedule: Sequence[Planned]) -> None:
        self._stage = stage
        self._planned = list(reversed(schedule))
        self._going_on: list[tuple[float, int, Iterator[float]]] = []
        self._numbers = count()
        self._began = time.monotonic()

    @property
    def elapsed(self) -> float:
        """Seconds since the begin."""
        return time.monotonic() - self._began

    def look(self) -> None:
        """Go on with what is due, and begin what is."""
        while self._going_on and self._going_on[0][0] <= self.elapsed:
            self._go_on(heapq.heappop(self._going_on)[2])
        while self._planned and self._planned[-1].at <= self.elapsed:
            self._begin(self._planned.pop())

    def finish(self) -> None:
        """Undo everything now."""
        self._planned.clear()
        while self._going_on:
            self._go_on(heapq.heappop(self._going_on)[2])
            time.sleep(_LOOK)  # some wait for a server to begin

    def _begin(self, planned: Planned) -> None:
        deed = KINDS[planned.kind].deed(self._stage, planned)
        try:
            seconds = next(deed)
        except NobodyError:
            say(f"[{self.elapsed:6.1f} s] {planned.kind}: there is nobody to do it to")
            return
        self._stage.done[planned.kind] += 1
        say(f"[{self.elapsed:6.1f} s] {planned.kind}" + (f" for {seconds:.1f} s" if seconds else ""))
        heapq.heappush(self._going_on, (self.elapsed + seconds, next(self._numbers), deed))
        if not seconds:
            self.look()

    def _go_on(self, deed: Iterator[float]) -> None:
        for seconds in deed:
            heapq.heappush(self._going_on, (self.elapsed + seconds, next(self._numbers), deed))
            return


def run(options: Options) -> dict[str, Any]:
    """Run, and give the document."""
    with ExitStack() as ending:
        directory = options.keep or Path(ending.enter_context(tempfile.TemporaryDirectory(prefix="chaos-")))
        directory.mkdir(parents=True, exist_ok=True)
        directory = directory.resolve()
        world = ending.enter_context(_world(options))
        clocks = Clocks(directory, shared=world.shares_clock)
        kinds = available(options.faults, clocks, world)
        crew = ending.enter_context(
            Crew(
                SUBJECTS[options.subject],
                world,
                clocks,
                directory,
                options.seed,
                options.rate,
                fakes_time="clock" in kinds,
            )
        )
        stage = Stage(world, crew, clocks, directory)
        schedule = plan(options.seed, options.seconds, kinds, options.every)
        say(f"seed {options.seed}: {len(schedule)} faults of {len(kinds)} kinds in {options.seconds:g} s")
        crew.start()
        _wait_for_load(directory)
        _perform(Performance(stage, schedule), stage, options.seconds)
        return _judge(options, stage, len(schedule))


def _wait_for_load(directory: Path) -> None:
    """Begin with the faults when there is something to harm: on a busy machine a producer takes a while to begin."""
    wait_until(lambda: confirmed(directory), timeout=_STANDSTILL, what="the first piece of work")


def _world(options: Options) -> World:
    return WORLDS[options.broker](durable=options.durable, queue_type=options.queue_type)


def available(kinds: Sequence[str], clocks: Clocks, world: World) -> tuple[str, ...]:
    """The kinds that this machine can do; says which are left out, and why."""
    lacking = {}
    if not clocks.can_jump:
        lacking["clock"] = "libfaketime is not installed: run `apt-get install faketime` as root"
    if not world.has_disk:
        lacking["disk"] = "a small disk can be mounted by root alone"
    for name in lacking.keys() & set(kinds):
        say(f"{name} is left out: {lacking[name]}")
    return tuple(kind for kind in kinds if kind not in lacking)


def _perform(performance: Performance, stage: Stage, seconds: float) -> None:
    told = 0.0
    while performance.elapsed < seconds:
        performance.look()
        stage.crew.keep_up()
        if performance.elapsed >= told:
            told += _TELL
            say(
                f"[{performance.elapsed:6.1f} s] confirmed {confirmed(stage.directory)}, {_faults(stage)} faults"
            )
        time.sleep(_LOOK)
    performance.finish()


def confirmed(directory: Path) -> int:
    """How many pieces of work were confirmed so far."""
    return sum(path.read_bytes().count(_CONFIRMED) for path in directory.glob("*.journal"))


def _faults(stage: Stage) -> int:
    return sum(stage.done.values())


def settle(stage: Stage) -> Left:
    """End the load and let everything be done; what is left in the broker then."""
    crew = stage.crew
    if not _comes(crew.ready, crew):
        crew.never_ended.append(f"not every worker takes tasks:\n{crew.story()}")
    ticks = journal.read(stage.directory).counts["tick"]
    if not _comes(lambda: journal.read(stage.directory).counts["tick"] > ticks, crew):
        crew.never_ended.append(f"beat is silent:\n{crew.story()}")
    sent = confirmed(stage.directory)
    if not _comes(lambda: confirmed(stage.directory) >= sent + _AFTERWARDS, crew):
        crew.never_ended.append(f"producers are silent:\n{crew.story()}")
    say("the load ends")
    crew.stop("producer")
    crew.stop("beat")
    left = _drain(stage)
    for queue, number in zip(Left._fields, left, strict=True):
        if number:
            say(f"{queue}: {number} messages are left")
    crew.stop("worker")
    return left


def _comes(condition: Any, crew: Crew) -> bool:
    def look() -> bool:
        crew.keep_up()
        return bool(condition())

    try:
        wait_until(look, timeout=_STANDSTILL, what="it")
    except NeverHappenedError:
        return False
    return True


def _drain(stage: Stage) -> Left:
    """Wait until nothing is left, seen twice, or nothing goes on any more."""
    began = moved = time.monotonic()
    seen: tuple[Left, int] | None = None
    empty = 0
    while True:
        stage.crew.keep_up()
        left = _left(stage.world)
        if left is not None:
            empty = empty + 1 if not any(left) else 0
            if empty > 1:
                return left
            if (left, journal.size(stage.directory)) != seen:
                seen = (left, journal.size(stage.directory))
                moved = time.monotonic()
        if time.monotonic() - moved > _STANDSTILL or time.monotonic() - began > _SETTLING:
            say(f"what is left does not come out:\n{stage.crew.story()}")
            return left or Left(1, 0, 0)
        time.sleep(1.0)  # between the end of a job and its settlement it may be nowhere to be seen


def _left(world: World) -> Left | None:
    try:
        return world.left()
    except OperationalError:
        return None  # its connection was of the time when the broker was killed; the next one is new


def _judge(options: Options, stage: Stage, planned: int) -> dict[str, Any]:
    began = time.monotonic()
    left = settle(stage)
    settling = time.monotonic() - began
    records = journal.read(stage.directory)
    (stage.directory / "faults.json").write_bytes(msgspec.json.encode(stage.faults))
    evidence = Evidence(
        records,
        stage.faults,
        stage.world.documents(list(records.confirmed.values())),
        left=left.messages,
        dead=stage.world.dead(),
        atomic=stage.world.atomic,
        window=stage.world.window,
    )
    verdict = Checker(evidence).verdict()
    verdict.stuck += len(stage.crew.never_ended)
    verdict.wrong += stage.crew.never_ended
    return document(options, stage, verdict) | {
        "faults_planned": planned,
        "ticks": records.counts["tick"],
        "settling_seconds": round(settling, 1),
    }


def document(options: Options, stage: Stage, verdict: Verdict) -> dict[str, Any]:
    """What a run says in the end."""
    figures = asdict(verdict)
    wrong = figures.pop("wrong")
    return {
        "broker": options.broker,
        "subject": options.subject,
        "seed": options.seed,
        "seconds": options.seconds,
        "rate": options.rate,
        "every": options.every,
        "durable": options.durable,
        "queue_type": options.queue_type if options.broker == "rabbitmq" else None,
        **figures,
        "holds": verdict.holds,
        "faults": dict(sorted(stage.done.items())),
        "faults_total": _faults(stage),
        "ended_unasked": [story[-_LONGEST_TOLD:] for story in stage.crew.ended_unasked[:_MOST_TOLD]],
        "wrong": [story[:_LONGEST_TOLD] for story in wrong[:_MOST_TOLD]],
        "versions": {
            "python": platform.python_version(),
            options.subject: _version(stage.crew.subject.python(), options.subject),
            **stage.world.versions(),
        },
    }


def _version(python: Path, library: str) -> str:
    asking = f"import importlib.metadata as m; print(m.version({library!r}))"
    return subprocess.run(
        [str(python), "-c", asking], check=True, capture_output=True, text=True
    ).stdout.strip()
