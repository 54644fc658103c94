"""The command line of ``python -m benchmarks``."""

from __future__ import annotations

import argparse
from dataclasses import dataclass

from benchmarks.catalogue import SYSTEMS

SUITES = ("throughput", "enqueue", "latency", "footprint", "backlog", "canvas", "pools")


@dataclass(frozen=True)
class Options:
    """What to measure, and how long."""

    suite: str
    broker: str
    pool: str
    systems: tuple[str, ...]
    runs: int
    tasks: int  #: 0: as many as take ``seconds``
    seconds: float
    loglevels: tuple[str, ...]
    without_results: bool
    idle_seconds: float
    queued: int
    delayed: int
    json: bool
    save: bool


def parse(arguments: list[str]) -> Options:
    """Read the command line; wrong words end the program with a line that says so."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description="Measure Umbel and its peers in turn, in the same run."
    )
    parser.add_argument("suite", choices=SUITES)
    parser.add_argument("--broker", choices=("redis", "sqlite", "rabbitmq"), default="redis")
    parser.add_argument("--pool", default="prefork", help="the pool of Umbel and Celery (default: prefork)")
    parser.add_argument(
        "--peers", default="celery", help="comma-separated, or 'all' or 'none' (default: celery)"
    )
    parser.add_argument("--only-peers", action="store_true", help="leave Umbel out")
    parser.add_argument("--runs", type=_positive, default=5, help="runs of each system (default: 5)")
    parser.add_argument(
        "--tasks", type=int, default=0, help="tasks a run (default: as many as take --seconds)"
    )
    parser.add_argument(
        "--seconds", type=float, default=4.0, help="length of a run that chooses its tasks (4)"
    )
    parser.add_argument("--loglevels", default="WARNING,INFO", help="of throughput (default: WARNING,INFO)")
    parser.add_argument(
        "--without-results", action="store_true", help="of throughput: without results too, where systems can"
    )
    parser.add_argument("--idle-seconds", type=float, default=20.0, help="of footprint (default: 20)")
    parser.add_argument("--queued", type=int, default=1_000_000, help="of backlog (default: 1,000,000)")
    parser.add_argument("--delayed", type=int, default=200_000, help="of backlog (default: 200,000)")
    parser.add_argument("--json", action="store_true", help="end with one JSON document on a line of its own")
    parser.add_argument("--save", action="store_true", help="keep the document under benchmarks/results/")
    words = parser.parse_args(arguments)
    values = vars(words) | {
        "systems": _systems(parser, words.peers, only_peers=words.only_peers, broker=words.broker),
        "loglevels": tuple(words.loglevels.upper().split(",")),
    }
    del values["peers"], values["only_peers"]
    return Options(**values)


def _positive(word: str) -> int:
    number = int(word)
    if number < 1:
        raise argparse.ArgumentTypeError(f"a number from 1 on is expected, not {word}")
    return number


def _systems(
    parser: argparse.ArgumentParser, peers: str, *, only_peers: bool, broker: str
) -> tuple[str, ...]:
    known = [name for name in SYSTEMS if name != "umbel"]
    wanted = {"all": known, "none": []}.get(peers, [name for name in peers.split(",") if name])
    for name in wanted:
        if name not in known:
            parser.error(f"unknown peer {name!r}: known are {', '.join(known)}")
    names = [*([] if only_peers else ["umbel"]), *wanted]
    able = tuple(name for name in names if broker in SYSTEMS[name].brokers)
    if not able:
        parser.error(f"none of {', '.join(names) or 'no systems'} can use {broker}")
    return able
