"""Pickles that Celery reads too."""

from __future__ import annotations

import pickle
import pickletools
from typing import Any

import pytest

from umbel.core.pickles import dump_pickle, load_pickle
from umbel.core.serializers import accept_set, dumps, loads
from umbel.errors import ChordError, Retry, TaskRevokedError, TimeLimitExceeded
from umbel.results.handles import AsyncResult, GroupResult


def named(data: bytes) -> set[str]:
    """Every text in a pickle."""
    return {str(argument) for _, argument, _ in pickletools.genops(data) if isinstance(argument, str)}


@pytest.mark.parametrize("protocol", [2, 4, 5])
@pytest.mark.parametrize(
    "error", [ChordError("x"), TaskRevokedError("revoked"), Retry("again", None, 3), TimeLimitExceeded(3)]
)
def test_our_errors_go_by_celerys_names_and_come_back(error: BaseException, protocol: int) -> None:
    data = dump_pickle({"result": error, "again": [error]}, protocol)
    assert b"umbel" not in data
    back = load_pickle(data)
    assert type(back["result"]) is type(error)
    assert back["result"].args == error.args
    assert back["again"][0] is back["result"]


def test_results_go_by_celerys_names_and_come_back() -> None:
    group = GroupResult("g", [AsyncResult("a"), AsyncResult("b", parent=AsyncResult("p"))])
    data = dump_pickle(group)
    assert "celery.result" in named(data)
    assert b"umbel" not in data
    assert load_pickle(data) == group


def test_other_values_are_pickled_as_ever() -> None:
    value: Any = {"x": [1, 2.5, {"y": {1, 2}}], "error": KeyError("k"), "type": dict}
    assert dump_pickle(value) == pickle.dumps(value, 4)
    assert repr(load_pickle(pickle.dumps(value))) == repr(value)


def test_the_serializer_writes_such_pickles() -> None:
    content_type, encoding, data = dumps(ChordError("x"), "pickle")
    assert b"celery.exceptions" in data
    assert type(loads(data, content_type, encoding, accept_set(["pickle"]))) is ChordError
