"""The calls of ``delay_many``, in the shapes a user may give them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from umbel.canvas.signature import Signature

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

__all__ = ["plain_arguments", "split_calls"]


def plain_arguments(
    calls: Iterable[Any], checked: Callable[[Any, Any], tuple[Any, Any]]
) -> list[tuple[Any, Any]] | None:
    """The checked (args, kwargs) of each call; None where one has options of its own. Raises TypeError."""
    pairs = []
    for call in calls:
        # Most calls are a tuple of arguments; what could be anything else is looked at closely.
        if type(call) is tuple and (len(call) != 2 or not isinstance(call[1], dict)):
            pairs.append(checked(call, {}))
        else:
            args, kwargs, options = _split(call)
            if options:
                return None
            pairs.append(checked(args, kwargs))
    return pairs


def split_calls(calls: Iterable[Any]) -> Iterator[tuple[Any, Mapping[str, Any], Mapping[str, Any]]]:
    """(args, kwargs, options) of each call: a signature, a pair of arguments and a mapping, or arguments alone.

    Raises TypeError for anything else.
    """
    return map(_split, calls)


def _split(call: Any) -> tuple[Any, Mapping[str, Any], Mapping[str, Any]]:
    if isinstance(call, Signature):
        return call.args, call.kwargs, call.options
    if not isinstance(call, (tuple, list)):
        raise TypeError(f"expected a tuple of arguments, (args, kwargs) or a signature, got {call!r}")
    if len(call) == 2 and isinstance(call[1], dict) and isinstance(call[0], (tuple, list)):
        return call[0], call[1], {}
    return call, {}, {}
