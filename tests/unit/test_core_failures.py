"""Exceptions as documents: Celery's form, our own classes found, nothing imported and nothing called but exceptions."""

from __future__ import annotations

import sys
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from umbel import errors
from umbel.core.failures import decode_error, encode_error, format_traceback
from umbel.core.json_types import dumps_json, loads_json
from umbel.errors import SecurityError


class Mine(Exception):
    class Inner(Exception):
        pass


class Picky(Exception):
    def __init__(self, one: int, two: int) -> None:
        super().__init__("only text")


class Stubborn:
    def __repr__(self) -> str:
        raise RuntimeError("no")


def test_a_document_is_celery_s() -> None:
    assert encode_error(ValueError("boom", 3)) == {
        "exc_type": "ValueError",
        "exc_message": ["boom", 3],
        "exc_module": "builtins",
    }
    assert encode_error(errors.TaskRevokedError("revoked")) == {
        "exc_type": "TaskRevokedError",
        "exc_message": ["revoked"],
        "exc_module": "celery.exceptions",
    }


def test_arguments_without_a_json_form_become_text() -> None:
    assert encode_error(Mine({1}, b"x"))["exc_message"] == ["{1}", b"x"]
    assert encode_error(Mine(Stubborn()))["exc_message"] == ["<unrepresentable Stubborn: RuntimeError>"]


@pytest.mark.parametrize(
    "error", [ValueError("boom", 3), Mine("x"), Mine.Inner(), KeyError("k"), OSError(2, "no"), SystemExit(3)]
)
def test_an_exception_of_a_known_class_comes_back(error: BaseException) -> None:
    back = decode_error(loads_json(dumps_json(encode_error(error))))
    assert type(back) is type(error)
    assert back.args == error.args


@pytest.mark.parametrize("name", [name for name in errors.__all__ if name != "wire_module"])
def test_our_own_classes_are_found_by_celery_s_modules(name: str) -> None:
    cls = getattr(errors, name)
    document = encode_error(cls("why"))
    assert document["exc_module"].split(".")[0] in {"celery", "kombu", "billiard", "umbel"}
    assert type(decode_error(document)) is cls


def test_an_unknown_class_becomes_one_of_its_name() -> None:
    back = decode_error({"exc_type": "Far.Away", "exc_message": ["x"], "exc_module": "not.imported.here"})
    assert (type(back).__name__, back.args) == ("Far.Away", ("x",))
    assert isinstance(back, Exception)
    assert "not.imported.here" not in sys.modules


def test_a_constructor_that_does_not_take_the_arguments_is_named() -> None:
    back = decode_error(encode_error(Picky(1, 2)))
    assert type(back) is Exception
    assert str(back) == f"{Picky}(['only text'])"


@pytest.mark.parametrize(
    ("module", "name"), [("os", "system"), ("builtins", "eval"), ("builtins", "dict"), ("os", "path")]
)
def test_what_is_no_exception_is_refused_and_never_called(module: str, name: str) -> None:
    with pytest.raises(
        SecurityError, match=f"Expected an exception class, got {module}.{name} with payload echo"
    ):
        decode_error({"exc_type": name, "exc_message": "echo", "exc_module": module})


@pytest.mark.parametrize(
    ("document", "text"),
    [
        (None, "the task failed; its worker gave no reason"),
        ({}, "the task failed; its worker gave no reason"),
        ("boom", "boom"),
        ({"message": "boom"}, "boom"),
        ({"exc_message": ["boom"]}, "['boom']"),
        ({"exc_type": None, "exc_message": "boom"}, "boom"),
        ([1], "[1]"),
        ({"exc_type": "a\0b", "exc_module": "x", "exc_message": "boom"}, "boom"),
        ({"exc_type": "NoModule", "exc_message": "boom"}, "boom"),
    ],
)
def test_documents_of_other_writers_are_read(document: Any, text: str) -> None:
    assert str(decode_error(document)) == text


def test_an_exception_is_returned_as_it_is() -> None:
    error = Mine("x")
    assert decode_error(error) is error


anything = st.recursive(
    st.none() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
)


@given(
    st.fixed_dictionaries(
        {},
        optional={
            "exc_type": st.sampled_from(["ValueError", "dict", "Mine.Inner", "", ".", "a\0", "\ud800"])
            | anything,
            "exc_module": st.sampled_from(["builtins", __name__, "celery.exceptions", ""]) | anything,
            "exc_message": anything,
        },
    )
    | anything
)
def test_any_document_is_an_exception_or_refused(document: Any) -> None:
    with suppress(SecurityError):
        assert isinstance(decode_error(document), BaseException)


def run_in_library(function: Any) -> BaseException:
    """Call a function from a frame that belongs to the library, as a worker does."""
    scope: dict[str, Any] = {"__name__": "umbel.execution.run"}
    exec("def call(function):\n    function()\n", scope)
    with pytest.raises(BaseException) as caught:
        scope["call"](function)
    error = caught.value
    trace = error.__traceback__
    while trace is not None and trace.tb_frame.f_globals.get("__name__") != "umbel.execution.run":
        trace = trace.tb_next
    return error.with_traceback(trace)


def failing_task() -> None:
    try:
        {}["missing"]
    except KeyError as error:
        raise ValueError("boom") from error


def test_a_traceback_begins_with_the_task_s_own_function() -> None:
    text = format_traceback(run_in_library(failing_task))
    assert text.startswith("Traceback (most recent call last):\n")
    assert text.endswith("ValueError: boom\n")
    assert "in failing_task" in text
    assert "KeyError: 'missing'" in text
    assert "in call" not in text


def test_a_traceback_of_the_library_alone_is_kept() -> None:
    library = run_in_library(5)  # calling a number fails in the library's own frame
    assert "in call" in format_traceback(library)


def test_an_exception_without_a_traceback_or_text_is_shown() -> None:
    class Broken(Exception):
        def __str__(self) -> str:
            raise RuntimeError("no")

    assert format_traceback(ValueError("x")) == "ValueError: x\n"
    assert "Broken" in format_traceback(Broken())
