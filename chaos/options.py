"""The command line of ``python -m chaos``."""

from __future__ import annotations

import argparse
import random
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from chaos.crew import SUBJECTS
from chaos.faults import KINDS
from chaos.world import WORLDS

#: Brokers that Celery does not have, or not for several processes.
_NOT_FOR_CELERY = ("sqlite",)


@dataclass(frozen=True)
class Options:
    """What to run, and for how long."""

    broker: str
    subject: str
    seed: int
    seconds: float
    faults: tuple[str, ...]
    every: float
    rate: float
    durable: bool
    queue_type: str
    keep: Path | None


def parse(arguments: Sequence[str]) -> Options:
    """Read the command line; wrong words end the program with a line that says so."""
    parser = argparse.ArgumentParser(
        prog="python -m chaos",
        description="Put a load on workers and a broker, do them harm by a seeded schedule, and count what is left. "
        "The exit status is 0 when every promise was kept, 1 when one was not. `python -m chaos soak` samples memory "
        "and file descriptors under a load without faults.",
    )
    add_common(parser)
    parser.add_argument("--seed", type=int, default=random.randrange(1_000_000), help="of everything random")
    parser.add_argument(
        "--faults",
        default="all",
        help="kinds or groups, comma-separated; -KIND leaves one out (default: all). Groups: "
        f"{', '.join(sorted({kind.group for kind in KINDS.values()}))}; kinds: {', '.join(KINDS)}",
    )
    parser.add_argument("--every", type=float, default=3.0, help="seconds between two faults, on average (3)")
    parser.add_argument(
        "--without-persistence",
        action="store_true",
        help="a broker that forgets when it is killed: the checker has to find losses",
    )
    parser.add_argument("--keep", type=Path, help="a directory where journals, logs and faults stay")
    words = parser.parse_args(arguments)
    if words.subject == "celery" and words.broker in _NOT_FOR_CELERY:
        parser.error(f"Celery cannot use {words.broker}: choose redis or rabbitmq")
    return Options(
        broker=words.broker,
        subject=words.subject,
        seed=words.seed,
        seconds=words.seconds,
        faults=_kinds(parser, words.faults, words.broker),
        every=words.every,
        rate=words.rate,
        durable=not words.without_persistence,
        queue_type=words.queue_type,
        keep=words.keep,
    )


def add_common(parser: argparse.ArgumentParser) -> None:
    """What a run with faults and one without have in common."""
    parser.add_argument("--broker", choices=sorted(WORLDS), default="redis")
    parser.add_argument("--subject", choices=sorted(SUBJECTS), default="umbel", help="the library (umbel)")
    parser.add_argument("--seconds", type=_positive, default=60.0, help="of load (60)")
    parser.add_argument("--rate", type=_positive, default=60.0, help="pieces of work sent a second (60)")
    parser.add_argument(
        "--queue-type",
        choices=("classic", "quorum"),
        default="classic",
        help="of RabbitMQ's queues (classic)",
    )
    parser.add_argument("--json", action="store_true", help="end with one JSON document on a line of its own")


def _positive(word: str) -> float:
    number = float(word)
    if not number > 0:
        raise argparse.ArgumentTypeError(f"a number above 0 is expected, not {word}")
    return number


def _kinds(parser: argparse.ArgumentParser, words: str, broker: str) -> tuple[str, ...]:
    """The kinds that the words name and the broker can have, in the order of the table."""
    names = _names(parser, words)
    without = [name[1:] for name in names if name.startswith("-")]
    named = [name for name in names if not name.startswith("-")] or ["all"]
    return tuple(
        name
        for name, kind in KINDS.items()
        if broker in kind.brokers and _is_among(name, named) and not _is_among(name, without)
    )


def _names(parser: argparse.ArgumentParser, words: str) -> list[str]:
    names = [word for word in words.split(",") if word]
    known = {"all", *KINDS, *(kind.group for kind in KINDS.values())}
    for name in names:
        if name.removeprefix("-") not in known:
            parser.error(f"unknown fault {name!r}: known are {', '.join(sorted(known))}")
    return names


def _is_among(name: str, names: Collection[str]) -> bool:
    return not {name, KINDS[name].group, "all"}.isdisjoint(names)
