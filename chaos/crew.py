"""The processes under fault: workers of several pools, producers and a beat, each replaced when it has ended."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Self

from chaos import journal
from chaos.clocks import Clocks
from chaos.world import Address, World
from scripts.environments import ROOT, ensure_environment
from tests.support.processes import kill
from tests.support.waiting import wait_until
from tests.support.workers import WorkerProcess

CELERY = ROOT / "benchmarks" / "peers" / "celery.lock"
_PATIENCE = 90.0  #: seconds that a process may take to begin, or to end when it is told to
_ANSWER = 150.0  #: seconds that a result is waited for
_LOG_END = 3000  #: characters of a log that are told


class PoolKind(NamedTuple):
    """A worker's pool: its name and the options that say how many jobs it runs at a time."""

    name: str
    options: tuple[str, ...]


@dataclass(frozen=True)
class Subject:
    """The library under fault."""

    name: str
    pools: tuple[PoolKind, ...]
    settings: dict[str, Any]

    def python(self) -> Path:
        """The interpreter that has it; an environment of its own is made on first use."""
        return Path(sys.executable) if self.name == "umbel" else ensure_environment("bench-celery", CELERY)


_LATE = {"task_acks_late": True, "task_reject_on_worker_lost": True, "result_expires": 86400}
_SOCKETS = {"socket_timeout": 5, "socket_connect_timeout": 5, "socket_keepalive": True}
SUBJECTS = {
    "umbel": Subject(
        "umbel",
        (
            PoolKind("prefork", ("-c", "2")),
            PoolKind("threads", ("-c", "4")),
            PoolKind("asyncio", ("-c", "1", "--slots", "8")),
        ),
        _LATE,
    ),
    # What its documentation and its issues advise to those who want nothing lost.
    "celery": Subject(
        "celery",
        (
            PoolKind("prefork", ("-c", "2")),
            PoolKind("threads", ("-c", "4")),
            PoolKind("prefork", ("-c", "2")),
        ),
        {
            **_LATE,
            "worker_prefetch_multiplier": 1,
            "broker_connection_retry_on_startup": True,
            "broker_connection_max_retries": None,
            "broker_transport_options": {
                "visibility_timeout": 15,
                "confirm_publish": True,
                "health_check_interval": 5,
                "retry_on_timeout": True,
                **_SOCKETS,
            },
            "redis_socket_timeout": 5,
            "redis_socket_connect_timeout": 5,
            "redis_socket_keepalive": True,
            "redis_retry_on_timeout": True,
            "redis_backend_health_check_interval": 5,
            "result_backend_always_retry": True,
        },
    ),
}


def merged(settings: Mapping[str, Any], more: Mapping[str, Any]) -> dict[str, Any]:
    """Settings and more settings, which win; those that are tables are merged too."""
    tables = {
        name: {**settings[name], **value}
        for name, value in more.items()
        if isinstance(value, dict) and name in settings
    }
    return {**settings, **more, **tables}


class NeverBeganError(RuntimeError):
    """A process ended before anything was done to it; the message carries its log."""


@dataclass
class Member:
    """One place in the crew, and the process that fills it by now."""

    role: str  #: "worker", "producer" or "beat"
    number: int
    pool: PoolKind | None = None
    producer: str = ""  #: "sender" or "waiter"
    name: str = ""
    process: WorkerProcess | None = None
    address: Address | None = None
    frozen: bool = False
    expected: bool = False  #: a fault has ended it, or told it to end
    told_at: float = 0.0  #: when it was told to end; 0: it was not
    incarnation: int = 0

    @property
    def alive(self) -> bool:
        """Whether its process runs."""
        return self.process is not None and self.process.alive

    @property
    def running(self) -> WorkerProcess:
        """Its process."""
        assert self.process is not None, f"{self.role} {self.number} was not started"
        return self.process


@dataclass
class Crew:
    """Starts, replaces and ends the members; everything ends with the block that it is used in."""

    subject: Subject
    world: World
    clocks: Clocks
    directory: Path
    seed: int
    rate: float
    fakes_time: bool = False
    members: list[Member] = field(default_factory=list)
    #: What ended although nobody had asked it to, or did not end although it was asked to.
    ended_unasked: list[str] = field(default_factory=list)
    never_ended: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._python = self.subject.python()
        self._settings = json.dumps(merged(self.subject.settings, self.world.settings()))
        self._ending = ExitStack()
        for pool in self.subject.pools:
            self.members.append(Member("worker", len(self.members), pool=pool))
        for role in ("sender", "waiter"):
            self.members.append(Member("producer", len(self.members), producer=role))
        self.members.append(Member("beat", len(self.members)))

    def of(self, role: str) -> list[Member]:
        """Those of a role that can be harmed: they run, and nothing has been done to them yet."""
        return [
            member
            for member in self.members
            if member.role == role and member.alive and not member.frozen and not member.expected
        ]

    def start(self) -> None:
        """Start everybody; workers take tasks when this returns."""
        for member in self.members:
            if member.role == "worker":
                self._start(member)
        wait_until(
            lambda: self.ready() or any(member.process and not member.alive for member in self.members),
            timeout=_PATIENCE,
            what=lambda: f"workers that are ready:\n{self.story()}",
        )
        if not self.ready():
            raise NeverBeganError(f"a worker has ended before the begin:\n{self.story()}")
        for member in self.members:
            if member.role != "worker":
                self._start(member)

    def keep_up(self) -> None:
        """Replace who has ended."""
        for member in self.members:
            if member.process is None:
                continue
            if member.alive:
                self._check_told(member)
            else:
                self._bury(member)
                self._start(member)

    def tell_to_end(self, member: Member) -> None:
        """Ask a member to end (SIGTERM)."""
        member.expected = True
        member.told_at = time.monotonic()
        kill(member.running.pid, signal.SIGTERM)

    def _check_told(self, member: Member) -> None:
        if member.told_at and time.monotonic() - member.told_at > _PATIENCE and not member.frozen:
            self.never_ended.append(f"{member.name}:\n{member.running.output[-_LOG_END:]}")
            member.running.kill9()

    def _bury(self, member: Member) -> None:
        process = member.running
        status = process.wait()
        process.close()
        if not member.expected:
            self.ended_unasked.append(f"{member.name}: status {status}\n{process.output[-_LOG_END:]}")
        (self.directory / f"{member.name.partition('@')[0]}.log").write_text(process.output)
        if member.address is not None:
            member.address.close()
        member.process = None

    def _start(self, member: Member) -> None:
        member.incarnation += 1
        label = f"{member.role}{member.number}-{member.incarnation}"
        member.name = f"{label}@chaos" if member.role == "worker" else label
        member.frozen = member.expected = False
        member.told_at = 0.0
        member.address = self.world.address(member.role)
        environment = {
            "CHAOS_LIBRARY": self.subject.name,
            "BROKER": member.address.broker,
            "BACKEND": member.address.backend,
            "JOURNAL": str(self.directory),
            "SETTINGS": self._settings,
            "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep),
            "C_FORCE_ROOT": "true",  # a run as root is what containers do
            **(self.clocks.environment(member.name) if self.fakes_time else {}),
        }
        argv = [str(self._python), *self._arguments(member)]
        process = WorkerProcess(argv, cwd=self.directory, env=environment, name=member.name)
        self._ending.callback(process.close)
        member.process = process.start()

    def _arguments(self, member: Member) -> Iterator[str]:
        if member.role == "producer":
            # Each incarnation has marks of its own.
            number = member.number + member.incarnation * len(self.members)
            rate = self.rate if member.producer == "sender" else max(2.0, self.rate / 10)
            # Results that a broker has forgotten are not waited for.
            patience = str(_ANSWER if self.world.durable else 5.0)
            yield from (
                "-m",
                "chaos.producer",
                str(number),
                str(rate),
                member.producer,
                str(self.seed),
                patience,
            )
            return
        yield from ("-m", self.subject.name, "-A", "chaos.app", member.role, "--loglevel=WARNING")
        if member.pool is not None:
            yield from ("-P", member.pool.name, *member.pool.options, "-n", member.name)
        else:
            yield from ("-s", str(self.directory / "beat.schedule"), "--pidfile=")

    def stop(self, role: str) -> None:
        """End all of a role as usual, and do not replace them."""
        members = [member for member in self.members if member.role == role and member.process is not None]
        for member in members:
            if member.alive:
                self.tell_to_end(member)
        deadline = time.monotonic() + _PATIENCE + (_ANSWER if role == "producer" else 0.0)
        for member in members:
            self._end_by(member, deadline)

    def _end_by(self, member: Member, deadline: float) -> None:
        try:
            member.running.wait(timeout=max(0.1, deadline - time.monotonic()))
        except AssertionError:
            self.never_ended.append(f"{member.name}:\n{member.running.output[-_LOG_END:]}")
            member.running.kill9()
        self._bury(member)

    def ready(self) -> bool:
        """Whether every worker takes tasks."""
        hosts = journal.read(self.directory).hosts
        return all(
            member.alive and member.name in hosts for member in self.members if member.role == "worker"
        )

    def story(self) -> str:
        """The end of everybody's log."""
        return "\n".join(
            f"--- {member.name}\n{member.running.output[-_LOG_END:]}"
            for member in self.members
            if member.process
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for member in self.members:
            if member.alive and member.frozen:
                kill(member.running.pid, signal.SIGCONT)
        self._ending.close()
        for member in self.members:
            if member.process is not None:
                log = self.directory / f"{member.name.partition('@')[0]}.log"
                log.write_text(member.process.output)


def freeze(pid: int) -> None:
    """Stop a process in its tracks, if it runs."""
    kill(pid, signal.SIGSTOP)


def thaw(pid: int) -> None:
    """Let it go on."""
    kill(pid, signal.SIGCONT)
