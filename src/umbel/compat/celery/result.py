"""Results of tasks."""

from __future__ import annotations

import sys as _sys
from types import ModuleType as _ModuleType
from typing import Any as _Any

from umbel.compat.lazily import lazily as _lazily
from umbel.results import waiting as _waiting
from umbel.results.handles import AsyncResult, EagerResult, result_from_tuple
from umbel.results.sets import GroupResult, ResultSet
from umbel.results.waiting import (
    allow_join_result,
    assert_will_not_block,
    denied_join_result,
)
from umbel.results.waiting import (
    set_join_will_block as _set_task_join_will_block,
)

from . import states

__all__ = (
    "AsyncResult",
    "EagerResult",
    "GroupResult",
    "ResultBase",
    "ResultSet",
    "result_from_tuple",
)

__getattr__ = _lazily(
    __name__, {"ResultBase": "umbel.results.handles:ResultBase", "current_app": "celery._state:current_app"}
)

_ASKED = _waiting.task_join_will_block


class _Module(_ModuleType):
    """Programs replace ``task_join_will_block`` here in their tests; what replaces it is asked."""

    @property
    def task_join_will_block(self) -> _Any:
        return _waiting.task_join_will_block

    @task_join_will_block.setter
    def task_join_will_block(self, asked: _Any) -> None:
        _waiting.task_join_will_block = asked

    @task_join_will_block.deleter
    def task_join_will_block(self) -> None:
        _waiting.task_join_will_block = _ASKED


_sys.modules[__name__].__class__ = _Module
