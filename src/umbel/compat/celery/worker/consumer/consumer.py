"""The part of a worker that takes messages."""

from __future__ import annotations

from typing import Any

from umbel.compat.lazily import lazily as _lazily
from umbel.core.textrepr import safe_repr

__all__ = ("Consumer", "Evloop", "dump_body")

COLLECT_SOCKET_TIMEOUT = 5.0


def dump_body(m: Any, body: Any) -> str:
    """A message's body as a line of a log, with its size."""
    return f"{safe_repr(body, maxlen=1024)} ({len(m.body)}b)"


__getattr__ = _lazily(__name__, {name: f"celery.worker.steps:{name}" for name in ("Consumer", "Evloop")})
