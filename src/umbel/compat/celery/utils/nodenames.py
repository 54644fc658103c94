"""Names of workers."""

from __future__ import annotations

import os
import socket
from functools import lru_cache
from multiprocessing.process import current_process
from typing import Any

from umbel.core.queues import Exchange, Queue

from .text import simple_format

__all__ = (
    "anon_nodename",
    "default_nodename",
    "gethostname",
    "host_format",
    "node_format",
    "nodename",
    "nodesplit",
    "worker_direct",
)

WORKER_DIRECT_EXCHANGE = Exchange("C.dq2")
WORKER_DIRECT_QUEUE_FORMAT = "{hostname}.dq2"
NODENAME_SEP = "@"
NODENAME_DEFAULT = "celery"


@lru_cache(maxsize=1)
def gethostname() -> str:
    """The name of this machine."""
    return socket.gethostname()


def worker_direct(hostname: Any) -> Any:
    """The queue of one worker's own; a queue as it is."""
    if isinstance(hostname, Queue):
        return hostname
    return Queue(WORKER_DIRECT_QUEUE_FORMAT.format(hostname=hostname), WORKER_DIRECT_EXCHANGE, hostname)


def nodename(name: str, hostname: str) -> str:
    """``name@hostname``."""
    return f"{name}{NODENAME_SEP}{hostname}"


def anon_nodename(hostname: str | None = None, prefix: str = "gen") -> str:
    """The name of this process, which is no worker."""
    return nodename(f"{prefix}{os.getpid()}", hostname or gethostname())


def nodesplit(name: str) -> Any:
    """The two parts of a worker's name; the first is None where there is one only."""
    first, at, host = name.partition(NODENAME_SEP)
    return [first, host] if at else (None, first)


def default_nodename(hostname: str | None, default_name: str = NODENAME_DEFAULT) -> str:
    """A worker's name made whole."""
    name, host = nodesplit(hostname or "")
    return nodename(name or default_name, host or gethostname())


def node_format(s: str, name: str, **extra: Any) -> str:
    """A text with ``%n``, ``%h`` and the like of a worker's name in it."""
    short, host = nodesplit(name)
    return host_format(s, host, short or NODENAME_DEFAULT, p=name, **extra)


def host_format(s: str, host: str | None = None, name: str | None = None, **extra: Any) -> str:
    """A text with ``%n`` (name), ``%h`` (host), ``%d`` (domain), ``%i`` and ``%I`` (pool process) replaced."""
    host = host or gethostname()
    first, _, domain = host.partition(".")
    keys = {
        "h": host,
        "n": name or first,
        "d": domain,
        "i": lambda: str(_process_number() or "0"),
        "I": lambda: f"-{_process_number()}" if _process_number() else "",
        **extra,
    }
    return simple_format(s, keys)


def _process_number() -> int:
    number = current_process().name.rpartition("-")[2]
    return int(number) if number.isdigit() else 0
