"""Run one suite: ``python -m benchmarks throughput --peers celery``."""

from __future__ import annotations

import json
import os
import sys
import time
from typing import TYPE_CHECKING, Protocol

from benchmarks.catalogue import SYSTEMS, CannotMeasureError
from benchmarks.options import Options, parse
from benchmarks.report import Report
from benchmarks.rig import MeasurementError, Rig, open_store
from benchmarks.suites.backlog import Backlog
from benchmarks.suites.canvas import Canvas
from benchmarks.suites.enqueue import Enqueue
from benchmarks.suites.footprint import Footprint
from benchmarks.suites.latency import Latency
from benchmarks.suites.pools import Pools
from benchmarks.suites.throughput import Throughput
from scripts.environments import say

if TYPE_CHECKING:
    from collections.abc import Callable

    from benchmarks.report import Figure
    from benchmarks.rig import Store


#: Load for each core from which on other work is in the way.
_BUSY = 0.4


class Suite(Protocol):
    """What a suite does with each system."""

    def calibrate(self, rig: Rig) -> None:
        """Called once for each system before the runs."""

    def measure(self, rig: Rig) -> list[Figure]:
        """One run."""


SUITES: dict[str, Callable[[Options], Suite]] = {
    "throughput": Throughput,
    "enqueue": Enqueue,
    "latency": Latency,
    "footprint": Footprint,
    "backlog": Backlog,
    "canvas": Canvas,
    "pools": Pools,
}


def main(arguments: list[str]) -> int:
    """Measure and print; the exit status is 1 when a system could not be measured."""
    options = parse(arguments)
    try:
        with open_store(options.broker) as store:
            report, complete = run(options, store)
    except CannotMeasureError as error:
        say(str(error))
        return 1
    print(report.table())
    if options.save:
        say(f"kept as {report.save(options.broker)}")
    if options.json:
        print(json.dumps(report.document()))
    return 0 if complete else 1


def run(options: Options, store: Store) -> tuple[Report, bool]:
    """Measure the systems in turn. One that fails is left out from then on, with its reason told."""
    suite = SUITES[options.suite](options)
    report = Report(options.suite, store.versions(), os.getloadavg()[0])
    if report.load > _BUSY * (os.cpu_count() or 1):
        say(
            f"this machine is busy (load {report.load:.1f}): the figures will tell little, ratios a little more"
        )
    rigs: dict[str, Rig] = {}
    for name in options.systems:
        try:
            rigs[name] = rig = Rig(SYSTEMS[name], store, pool=options.pool)
            report.versions |= rig.versions()
            suite.calibrate(rig)
        except (MeasurementError, CannotMeasureError) as error:
            rigs.pop(name, None)
            say(f"{name} is left out: {error}")
    for number in range(1, options.runs + 1):
        for name, rig in list(rigs.items()):
            started = time.monotonic()
            try:
                figures = suite.measure(rig)
            except MeasurementError as error:
                del rigs[name]
                say(f"{name} is left out: {error}")
                continue
            report.add(name, options.broker, rig.system.pool_name(options.pool), figures)
            told = ", ".join(f"{figure.metric} {figure.value:,.4g} {figure.unit}" for figure in figures)
            say(f"run {number} of {options.runs}, {name}, {time.monotonic() - started:.0f} s: {told}")
    return report, len(rigs) == len(options.systems)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
