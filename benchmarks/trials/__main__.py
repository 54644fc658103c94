"""``python -m benchmarks.trials waves|leak|recycling``: Umbel's pools over time, each trial with its bound.

The exit status is 1 when a bound was not kept. ``--save`` keeps the figures under ``benchmarks/results``, and the
leak's plot beside them.
"""

from __future__ import annotations

import argparse
import json
import sys
from datetime import UTC, datetime
from typing import Any

from benchmarks.report import RESULTS, machine
from benchmarks.trials import leak, recycling, waves
from scripts.environments import say


def main(arguments: list[str]) -> int:
    """Run one trial."""
    words = _parse(arguments)
    if words.trial == "waves":
        found = waves.run(words.waves, words.seconds)
    elif words.trial == "leak":
        found = leak.run(words.runs)
    else:
        found = recycling.run(words.rounds, words.seconds)
    samples = found.pop("samples", None)
    document = {"trial": words.trial, "machine": machine(), **found}
    print(json.dumps(document, indent=1))
    if words.save:
        _save(document, samples)
    return 0 if found["passed"] else 1


def _parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.trials", description=__doc__)
    trials = parser.add_subparsers(dest="trial", required=True)
    wave = trials.add_parser("waves", help="a square wave on --autoscale=16,4")
    wave.add_argument("--waves", type=int, default=3)
    wave.add_argument("--seconds", type=float, default=15.0, help="of load in each wave (15)")
    leaking = trials.add_parser("leak", help="a task that leaks a megabyte a run")
    leaking.add_argument("--runs", type=int, default=100_000)
    recycled = trials.add_parser("recycling", help="begin delays while processes are recycled")
    recycled.add_argument("--rounds", type=int, default=3)
    recycled.add_argument("--seconds", type=float, default=15.0, help="of load for each way (15)")
    for trial in (wave, leaking, recycled):
        trial.add_argument("--save", action="store_true", help="keep the figures under benchmarks/results/")
    return parser.parse_args(arguments)


def _save(document: dict[str, Any], samples: Any) -> None:
    path = RESULTS / f"trial-{document['trial']}-{datetime.now(UTC):%Y-%m-%d}.json"
    path.write_text(json.dumps(document, indent=1) + "\n")
    say(f"kept as {path}")
    if samples is not None:
        path.with_suffix(".svg").write_text(leak.plot(samples, document["mib_bound"]))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
