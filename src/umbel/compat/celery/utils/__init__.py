"""Helpers that programs import from Celery."""

from __future__ import annotations

from functools import cached_property
from typing import Any

from umbel.compat.lazily import lazily as _lazily
from umbel.core.ids import new_id as uuid

from .functional import chunks, memoize, noop
from .imports import gen_task_name, import_from_cwd, instantiate
from .imports import qualname as get_full_cls_name
from .imports import symbol_by_name as get_cls_by_name
from .log import LOG_LEVELS
from .nodenames import nodename, nodesplit, worker_direct

gen_unique_id = uuid

__all__ = (
    "LOG_LEVELS",
    "cached_property",
    "chunks",
    "gen_task_name",
    "gen_unique_id",
    "get_cls_by_name",
    "get_full_cls_name",
    "import_from_cwd",
    "instantiate",
    "memoize",
    "nodename",
    "nodesplit",
    "noop",
    "uuid",
    "worker_direct",
)


def isatty(fh: Any) -> bool:
    """Whether a stream is a terminal."""
    try:
        return bool(fh.isatty())
    except AttributeError:
        return False


__getattr__ = _lazily(__name__, {})
