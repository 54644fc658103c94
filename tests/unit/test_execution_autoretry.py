"""``autoretry_for`` and its options."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.execution_fakes import FakeTask
from umbel.errors import Ignore, ImproperlyConfigured, Reject, Retry
from umbel.execution.autoretry import with_autoretry
from umbel.execution.context import Context


class Retrying(FakeTask):
    """A task whose ``retry`` takes down what it was called with."""

    def __init__(self, function: Any, **options: Any) -> None:
        super().__init__(function, **options)
        self.request = Context(retries=options.pop("retries", 0))
        self.calls: list[dict[str, Any]] = []
        with_autoretry(self)

    def retry(self, **options: Any) -> BaseException:
        self.calls.append(options)
        raise Retry(exc=options["exc"])


def fails(error: BaseException) -> Any:
    def body(*args: Any) -> None:
        raise error

    return body


def test_a_named_error_is_retried() -> None:
    task = Retrying(fails(KeyError("x")), autoretry_for=(LookupError,), retry_kwargs={"max_retries": 5})
    with pytest.raises(Retry):
        task.run(1)
    assert (type(task.calls[0]["exc"]), task.calls[0]["max_retries"]) == (KeyError, 5)
    assert "countdown" not in task.calls[0]


@pytest.mark.parametrize(
    "error", [ValueError("not named"), Ignore(), Retry(), FileNotFoundError("excepted"), KeyboardInterrupt()]
)
def test_others_are_passed_on(error: BaseException) -> None:
    task = Retrying(
        fails(error), autoretry_for=(OSError, Ignore, Retry), dont_autoretry_for=[FileNotFoundError]
    )
    with pytest.raises(type(error)):
        task.run()
    assert task.calls == []


def test_reject_is_retried_only_where_it_is_named() -> None:
    with pytest.raises(Reject):
        Retrying(fails(Reject()), autoretry_for=(OSError,)).run()


def test_a_value_is_passed_on() -> None:
    assert Retrying(lambda x: x + 1, autoretry_for=(Exception,)).run(1) == 2


def test_without_the_option_the_body_is_left_alone() -> None:
    task = FakeTask(len)
    with_autoretry(task)
    assert task.run is len


def test_a_task_is_wrapped_once() -> None:
    task = Retrying(lambda: 1, autoretry_for=(Exception,))
    run = task.run
    with_autoretry(task)
    assert task.run is run


@given(st.integers(0, 40), st.sampled_from([True, 1, 3, 0.5]), st.integers(1, 900))
def test_delays_double_up_to_the_maximum(retries: int, factor: float, maximum: int) -> None:
    options = {"autoretry_for": (OSError,), "retry_backoff": factor, "retry_backoff_max": maximum}
    expected = min(maximum, int(max(1, factor)) * 2**retries)
    for jitter in (False, True):
        task = Retrying(fails(OSError()), retry_jitter=jitter, **options)
        task.request.retries = retries
        with pytest.raises(Retry):
            task.run()
        countdown = task.calls[0]["countdown"]
        assert 0 <= countdown <= expected
        assert jitter or countdown == expected


def test_a_limit_that_the_body_set_itself_is_kept() -> None:
    task = Retrying(fails(KeyError("x")), autoretry_for=(KeyError,))
    task.override_max_retries = 7  # type: ignore[attr-defined]
    with pytest.raises(Retry):
        task.run()
    assert task.calls[0]["max_retries"] == 7
    assert not hasattr(task, "override_max_retries")


def test_async_bodies_are_retried_too() -> None:
    async def body() -> None:
        raise KeyError("x")

    task = Retrying(body, autoretry_for=(KeyError,))
    with pytest.raises(Retry):
        asyncio.run(task.run())
    assert len(task.calls) == 1


def test_what_is_no_exception_class_is_refused() -> None:
    with pytest.raises(ImproperlyConfigured, match=r"autoretry_for of task fakes\.task.*'ValueError'"):
        Retrying(len, autoretry_for=("ValueError",))
