"""Looking at a process."""

from __future__ import annotations

import os
import signal
import sys
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from io import StringIO
from typing import Any

__all__ = (
    "blockdetection",
    "cry",
    "humanbytes",
    "mem_rss",
    "memdump",
    "ps",
    "sample",
    "sample_mem",
)

_UNITS = ((2**40, "TB"), (2**30, "GB"), (2**20, "MB"), (2**10, "KB"), (0.0, "b"))
_samples: list[str] = []


@contextmanager
def blockdetection(timeout: float | None) -> Iterator[None]:
    """Raise RuntimeError in the main thread when the body takes longer than so many seconds."""
    if not timeout:
        yield
        return

    def blocked(signum: int, frame: Any) -> None:
        where = f"{frame.f_code.co_filename}:{frame.f_lineno}" if frame else "?"
        raise RuntimeError(f"Blocking detection timed-out at: {where}")

    before = signal.signal(signal.SIGALRM, blocked)
    signal.setitimer(signal.ITIMER_REAL, timeout)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def ps() -> Any:
    """This process, as psutil shows it; None where psutil is not installed."""
    try:
        import psutil  # type: ignore[import-untyped]
    except ImportError:
        return None
    return psutil.Process(os.getpid())


def mem_rss() -> str | None:
    """Resident memory, for reading; None where psutil is not installed."""
    process = ps()
    return None if process is None else humanbytes(process.memory_info().rss)


def sample_mem() -> str | None:
    """Note the resident memory."""
    used = mem_rss()
    _samples.append(used or "")
    return used


def memdump(samples: int = 10, file: Any = None) -> None:
    """Print ``samples`` of the figures noted, evenly chosen, and forget them."""
    noted = list(sample(_samples, samples)) if _samples else []
    _samples.clear()
    for figure in (*noted, f"After GC: {mem_rss()}"):
        print(f"- rss (sample): {figure}.", file=file)


def sample(x: Any, n: int, k: int = 0) -> Iterator[Any]:
    """``n`` evenly chosen elements, and the last."""
    step = max(len(x) // n, 1)
    for _ in range(n):
        if k >= len(x):
            break
        yield x[k]
        k += step
    yield x[-1]


def humanbytes(s: float) -> str:
    """A number of bytes, for reading."""
    size, unit = next((size, unit) for size, unit in _UNITS if s >= size)
    return f"{s / size if size else s:.5g}{unit}"


def cry(out: Any = None, sepchr: str = "=", seplen: int = 49) -> str | None:
    """The stacks of all threads, as text, or written to ``out``."""
    text = StringIO()
    names = {thread.ident: thread for thread in threading.enumerate()}
    for ident, frame in sys._current_frames().items():
        if ident in names:
            text.write(f"{names[ident].name}\n{sepchr * seplen}\n")
            traceback.print_stack(frame, file=text)
            text.write(f"{sepchr * seplen}\nLOCAL VARIABLES\n{sepchr * seplen}\n{frame.f_locals!r}\n\n")
    if out is None:
        return text.getvalue()
    out.write(text.getvalue())
    return None
