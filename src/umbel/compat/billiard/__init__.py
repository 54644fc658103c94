"""billiard's names over ``multiprocessing``: for those who import it because Celery uses it."""

from __future__ import annotations

from multiprocessing import (
    Event,
    Lock,
    Manager,
    Pipe,
    Pool,
    Process,
    Queue,
    RLock,
    Semaphore,
    Value,
    active_children,
    cpu_count,
    current_process,
    freeze_support,
    get_context,
    get_logger,
    set_start_method,
)
from typing import Any

from umbel.compat.helpers.versions import version_info_t

from . import context, einfo, exceptions, process

__umbel_alias__ = True
__version__ = "4.3.2"
VERSION = version_info_t(4, 3, 2, "", "")


def ensure_multiprocessing() -> None:
    """Accepted: ``multiprocessing`` is always there."""


def forking_enable(value: Any) -> None:
    """Accepted: Umbel's pools have a start method of their own."""
