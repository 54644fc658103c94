"""The pool of processes."""

from __future__ import annotations

from typing import Any

from umbel.pools.prefork import PreforkPool as TaskPool
from umbel.signals import worker_process_init, worker_process_shutdown

__all__ = ("TaskPool", "process_destructor", "process_initializer")


def process_initializer(app: Any, hostname: str) -> None:
    """What happens when a pool process has started: ``worker_process_init``."""
    worker_process_init.send(sender=None)


def process_destructor(pid: int, exitcode: int) -> None:
    """What happens when a pool process ends: ``worker_process_shutdown``."""
    worker_process_shutdown.send(sender=None, pid=pid, exitcode=exitcode)
