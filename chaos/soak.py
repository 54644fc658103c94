"""A load without faults, for hours: does a worker grow? Memory and file descriptors of its processes, sampled.

    python -m chaos soak --broker redis --seconds 3600 --json --plot soak.svg

The slope is that of a straight line through the second half of the samples, when caches are filled and pools warm.
"""

from __future__ import annotations

import argparse
import contextlib
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from chaos.checker import Checker, Evidence
from chaos.clocks import Clocks
from chaos.crew import SUBJECTS, Crew
from chaos.faults import Stage
from chaos.journal import read
from chaos.options import add_common
from chaos.run import confirmed, say, settle
from chaos.world import WORLDS
from tests.support.processes import pss_bytes

_ABOUT = "Put a load on workers without any faults, and sample their memory and file descriptors."
_MIB = 1024 * 1024
_HOUR = 3600.0
_SAMPLES = 360  #: of a run, however long it is
_WIDTH, _HEIGHT, _MARGIN = 720, 240, 40


@dataclass
class Series:
    """What was sampled of one process tree."""

    at: list[float] = field(default_factory=list)  #: seconds since the begin
    mib: list[float] = field(default_factory=list)
    descriptors: list[int] = field(default_factory=list)

    def sample(self, at: float, pids: Sequence[int]) -> None:
        """Look at the processes once."""
        self.at.append(round(at, 1))
        self.mib.append(round(pss_bytes(pids) / _MIB, 2))
        self.descriptors.append(sum(map(_descriptors, pids)))

    def figures(self) -> dict[str, float]:
        """First and last sample, and how much an hour adds."""
        return {
            "mib_first": self.mib[0],
            "mib_last": self.mib[-1],
            "mib_per_hour": round(slope(self.at, self.mib) * _HOUR, 2),
            "descriptors_first": self.descriptors[0],
            "descriptors_last": self.descriptors[-1],
            "descriptors_per_hour": round(slope(self.at, self.descriptors) * _HOUR, 2),
        }


def slope(at: Sequence[float], values: Sequence[float]) -> float:
    """By least squares, of the second half of the samples: units a second."""
    half = len(at) // 2
    xs, ys = at[half:], values[half:]
    middle, mean = sum(xs) / len(xs), sum(ys) / len(ys)
    spread = sum((x - middle) ** 2 for x in xs)
    return sum((x - middle) * (y - mean) for x, y in zip(xs, ys, strict=True)) / spread if spread else 0.0


def main(arguments: Sequence[str]) -> dict[str, Any]:
    """Run, and give the document."""
    parser = argparse.ArgumentParser(prog="python -m chaos soak", description=_ABOUT)
    add_common(parser)
    parser.add_argument("--plot", type=Path, help="a file for a plot (SVG)")
    words = parser.parse_args(arguments)
    with ExitStack() as ending:
        directory = Path(ending.enter_context(tempfile.TemporaryDirectory(prefix="soak-")))
        world = ending.enter_context(WORLDS[words.broker](durable=True, queue_type=words.queue_type))
        clocks = Clocks(directory, shared=world.shares_clock)
        crew = ending.enter_context(
            Crew(SUBJECTS[words.subject], world, clocks, directory, seed=1, rate=words.rate)
        )
        crew.start()
        series = _watch(crew, words.seconds)
        left = settle(Stage(world, crew, clocks, directory))
        records = read(directory)
        documents = world.documents(list(records.confirmed.values()))
        evidence = Evidence(records, (), documents, left.messages, world.dead(), atomic=world.atomic)
        verdict = Checker(evidence).verdict()
    if words.plot:
        words.plot.write_text(plot(series))
    return {
        "broker": words.broker,
        "subject": words.subject,
        "seconds": words.seconds,
        "rate": words.rate,
        "confirmed": verdict.confirmed,
        "executed": verdict.executed,
        "holds": verdict.holds and not crew.ended_unasked and not crew.never_ended,
        "wrong": verdict.wrong[:10],
        "workers": {name: each.figures() for name, each in series.items()},
        "samples": {
            name: {"at": each.at, "mib": each.mib, "descriptors": each.descriptors}
            for name, each in series.items()
        },
    }


def _watch(crew: Crew, seconds: float) -> dict[str, Series]:
    workers = {
        member.pool.name + f" {member.number}": member for member in crew.members if member.pool is not None
    }
    series = {name: Series() for name in workers}
    began = time.monotonic()
    every = max(1.0, seconds / _SAMPLES)
    number = 0
    while (at := time.monotonic() - began) < seconds:
        for name, member in workers.items():
            series[name].sample(at, member.running.members())
        if number % 10 == 0:
            memory = ", ".join(f"{name} {each.mib[-1]:.0f} MiB" for name, each in series.items())
            say(f"[{at:6.0f} s] confirmed {confirmed(crew.directory)}; {memory}")
        number += 1
        time.sleep(max(0.0, began + number * every - time.monotonic()))
    return series


def _descriptors(pid: int) -> int:
    with contextlib.suppress(OSError):  # it has ended in between
        return sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir())
    return 0


def plot(series: dict[str, Series]) -> str:
    """Memory over time as SVG, a line for each worker."""
    last = max(max(each.at) for each in series.values()) or 1.0
    most = max(max(each.mib) for each in series.values()) * 1.1
    colours = ("#1b6", "#36c", "#c63", "#939")

    def point(at: float, mib: float) -> str:
        x = _MARGIN + (_WIDTH - 2 * _MARGIN) * at / last
        y = _HEIGHT - _MARGIN - (_HEIGHT - 2 * _MARGIN) * mib / most
        return f"{x:.1f},{y:.1f}"

    lines = []
    for number, (name, each) in enumerate(series.items()):
        colour = colours[number % len(colours)]
        points = " ".join(point(at, mib) for at, mib in zip(each.at, each.mib, strict=True))
        lines.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="1.5"/>')
        lines.append(f'<text x="{_MARGIN + 140 * number}" y="20" fill="{colour}">{name}</text>')
    axis = f"{point(0, most)} {point(0, 0)} {point(last, 0)}"
    return f"""\
<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" font-family="sans-serif" font-size="12">
<polyline points="{axis}" fill="none" stroke="#888"/>
<text x="2" y="{_MARGIN}">{most:.0f} MiB</text>
<text x="{_WIDTH - 2 * _MARGIN}" y="{_HEIGHT - 12}">{last:.0f} s</text>
{chr(10).join(lines)}
</svg>
"""
