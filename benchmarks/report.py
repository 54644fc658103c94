"""Figures of several runs: medians, ratios, the machine, a table for people and a document for programs."""

from __future__ import annotations

import json
import os
import platform
import statistics
import sys
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from scripts.environments import ROOT

RESULTS = ROOT / "benchmarks" / "results"

#: Units of which more is better; of the others less is.
_MORE_IS_BETTER = {"tasks/s", "messages/s", "%"}


@dataclass(frozen=True)
class Figure:
    """One number of one run."""

    metric: str
    unit: str
    value: float
    pool: str = ""  #: where it is another than the run's


@dataclass(frozen=True)
class Key:
    """What a row is about."""

    system: str
    broker: str
    pool: str
    metric: str
    unit: str


@dataclass
class Report:
    """The figures of one suite."""

    suite: str
    versions: dict[str, str]
    load: float = 0.0  #: the machine's load over the minute before the suite began
    samples: dict[Key, list[float]] = field(default_factory=dict)

    def add(self, system: str, broker: str, pool: str, figures: list[Figure]) -> None:
        """Keep the figures of one run."""
        for figure in figures:
            key = Key(system, broker, figure.pool or pool, figure.metric, figure.unit)
            self.samples.setdefault(key, []).append(figure.value)

    def document(self) -> dict[str, Any]:
        """The document that programs read."""
        return {
            "suite": self.suite,
            "machine": machine() | {"load_before": round(self.load, 2)},
            "versions": self.versions,
            "rows": [self._row(key, values) for key, values in self.samples.items()],
            "ratios": self._ratios(),
        }

    def table(self) -> str:
        """The same for people."""
        lines = [
            f"{'system':10} {'broker':8} {'pool':12} {'metric':34} {'median':>12} {'min':>12} {'max':>12}  unit"
        ]
        for key in sorted(self.samples, key=lambda key: (key.metric, key.system != "umbel", key.system)):
            row = self._row(key, self.samples[key])
            figures = " ".join(f"{row[name]:>12,.6g}" for name in ("median", "min", "max"))
            lines.append(
                f"{key.system:10} {key.broker:8} {key.pool:12} {key.metric:34} {figures}  {key.unit}"
            )
        lines += [
            f"umbel is {ratio['ratio']:.3g} times better than {ratio['peer']}: {ratio['metric']} "
            f"({ratio['broker']}, {ratio['pool']})"
            for ratio in self._ratios()
        ]
        return "\n".join(lines)

    def save(self, broker: str) -> Path:
        """Keep the document under benchmarks/results."""
        RESULTS.mkdir(exist_ok=True)
        path = RESULTS / f"{self.suite}-{broker}-{datetime.now(UTC):%Y-%m-%d}.json"
        path.write_text(json.dumps(self.document(), indent=1) + "\n")
        return path

    def _row(self, key: Key, values: list[float]) -> dict[str, Any]:
        figures = {"median": statistics.median(values), "min": min(values), "max": max(values)}
        return {
            "system": key.system,
            "broker": key.broker,
            "pool": key.pool,
            "metric": key.metric,
            "unit": key.unit,
            **{name: float(f"{value:.6g}") for name, value in figures.items()},
            "runs": len(values),
        }

    def _ratios(self) -> list[dict[str, Any]]:
        """How many times better Umbel is than each peer; Celery's rows are compared pool by pool."""
        ratios = []
        for own, values in self.samples.items():
            if own.system != "umbel":
                continue
            for peer, others in self.samples.items():
                same = (peer.metric, peer.broker) == (own.metric, own.broker)
                if not same or peer.system == "umbel" or (peer.system == "celery" and peer.pool != own.pool):
                    continue
                ratio = _ratio(own.unit, statistics.median(values), statistics.median(others))
                if ratio is not None:
                    about = {"metric": own.metric, "broker": own.broker, "pool": own.pool}
                    ratios.append({**about, "peer": peer.system, "ratio": ratio})
        return ratios


def _ratio(unit: str, own: float, peer: float) -> float | None:
    better, worse = (own, peer) if unit in _MORE_IS_BETTER else (peer, own)
    return float(f"{better / worse:.4g}") if worse else None


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    model = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        platform.machine(),
    )
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "cpu": model,
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(memory / 2**30, 1),
        "kernel": f"{platform.system()} {platform.release()}",
        "python": sys.version.split()[0],
        "date": f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}",
    }
