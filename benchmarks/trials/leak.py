"""A task that leaks a megabyte a run: the worker tree's memory stays bounded and the throughput steady, or not."""

from __future__ import annotations

import statistics
import time
from itertools import pairwise
from typing import Any

from benchmarks.trials.stand import stand
from tests.support.processes import pss_bytes, tree

PROCESSES = 2
LIMIT_MIB = 100
_MIB = 1 << 20
_PATIENCE = 120.0
_CHUNK = 5000
#: Times the limit that the tree may use: each process and its replacement, and what grows until it is looked at.
_BOUND = 2.5
_PARTS = 10
_WIDTH, _HEIGHT, _MARGIN = 720, 240, 44


def run(runs: int) -> dict[str, Any]:
    """So many runs; the samples too."""
    samples: list[tuple[float, float, int]] = []
    with (
        stand(runs) as ground,
        ground.worker("-c", str(PROCESSES), f"--max-memory-per-child={LIMIT_MIB * 1024}") as worker,
    ):
        idle = pss_bytes(tree(worker.pid)) / _MIB
        leak, begun = ground.tasks().leak, time.monotonic()
        every = max(0.25, runs / 200_000)

        def look() -> None:
            at = time.monotonic() - begun
            if not samples or at - samples[-1][0] >= every:
                samples.append(
                    (round(at, 2), round(pss_bytes(tree(worker.pid)) / _MIB, 1), ground.stamps.count())
                )

        for first in range(0, runs, _CHUNK):
            leak.delay_many((number,) for number in range(first, min(runs, first + _CHUNK)))
            look()
        ground.wait_count(runs, _PATIENCE, look)
        samples.append((round(time.monotonic() - begun, 2), samples[-1][1], ground.stamps.count()))
        wrong = len(ground.stamps.wrong(0, runs))
    rates = _rates(samples, runs)
    most = max(mib for _, mib, _ in samples)
    bound = idle + _BOUND * PROCESSES * LIMIT_MIB
    return {
        "runs": runs,
        "seconds": samples[-1][0],
        "limit_mib": LIMIT_MIB,
        "mib_idle": round(idle, 1),
        "mib_most": most,
        "mib_bound": round(bound, 1),
        "runs_per_second": [round(rate) for rate in rates],
        "not_run_exactly_once": wrong,
        "passed": most <= bound and not wrong and min(rates) >= statistics.median(rates) / 2,
        "samples": samples,
    }


def _rates(samples: list[tuple[float, float, int]], runs: int) -> list[float]:
    """Runs a second of each tenth of the runs."""
    edges = [
        next(at for at, _, count in samples if count >= runs * part // _PARTS) for part in range(_PARTS + 1)
    ]
    return [runs / _PARTS / max(0.01, later - earlier) for earlier, later in pairwise(edges)]


def plot(samples: list[tuple[float, float, int]], bound: float) -> str:
    """Memory and runs over time as SVG."""
    last, count = samples[-1][0] or 1.0, samples[-1][2] or 1
    most = bound * 1.1

    def point(at: float, part: float) -> str:
        x = _MARGIN + (_WIDTH - 2 * _MARGIN) * at / last
        return f"{x:.1f},{_HEIGHT - _MARGIN - (_HEIGHT - 2 * _MARGIN) * part:.1f}"

    memory = " ".join(point(at, mib / most) for at, mib, _ in samples)
    done = " ".join(point(at, number / count) for at, _, number in samples)
    return f"""\
<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" font-family="sans-serif" font-size="12">
<polyline points="{point(0, 1)} {point(0, 0)} {point(last, 0)}" fill="none" stroke="#888"/>
<polyline points="{point(0, bound / most)} {point(last, bound / most)}" fill="none" stroke="#c63" stroke-dasharray="4"/>
<polyline points="{memory}" fill="none" stroke="#1b6" stroke-width="1.5"/>
<polyline points="{done}" fill="none" stroke="#36c" stroke-width="1.5"/>
<text x="{_MARGIN}" y="20" fill="#1b6">memory of the worker tree, up to {most:.0f} MiB</text>
<text x="{_MARGIN + 260}" y="20" fill="#c63">its bound, {bound:.0f} MiB</text>
<text x="{_MARGIN + 400}" y="20" fill="#36c">runs, up to {count}</text>
<text x="{_WIDTH - 2 * _MARGIN}" y="{_HEIGHT - 12}">{last:.0f} s</text>
</svg>
"""
