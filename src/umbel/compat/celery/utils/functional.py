"""Small functions on functions and sequences."""

from __future__ import annotations

import inspect
from collections import UserList
from collections.abc import Callable, Iterable, Iterator
from itertools import islice, tee, zip_longest
from typing import Any, Self, cast

from umbel.compat.helpers.functional import (
    LRUCache,
    dictfilter,
    is_list,
    lazy,
    maybe_evaluate,
    maybe_list,
    memoize,
    noop,
)
from umbel.task.checking import arguments_checker

__all__ = (
    "LRUCache",
    "chunks",
    "dictfilter",
    "first",
    "firstmethod",
    "fun_accepts_kwargs",
    "head_from_fun",
    "is_list",
    "lazy",
    "mattrgetter",
    "maybe",
    "maybe_evaluate",
    "maybe_list",
    "memoize",
    "mlazy",
    "noop",
    "padlist",
    "regen",
    "uniq",
)


class DummyContext:
    """A context manager that does nothing."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        pass


class mlazy(lazy):
    """A call that is made once, when its value is first asked for."""

    evaluated = False
    _value: Any = None

    def evaluate(self) -> Any:
        """Make the call, unless it was made."""
        if not self.evaluated:
            self._value = super().evaluate()
            self.evaluated = True
        return self._value


def pass1(arg: Any, *args: Any, **kwargs: Any) -> Any:
    """The first argument."""
    return arg


def evaluate_promises(it: Iterable[Any]) -> Iterator[Any]:
    """The elements, those that are promises evaluated."""
    # Only a promise of vine has this method, whichever vine is installed.
    for value in it:
        yield value() if "throw1" in dir(type(value)) else maybe_evaluate(value)


def first(predicate: Callable[[Any], Any] | None, it: Iterable[Any]) -> Any:
    """The first element that ``predicate`` accepts (None: that is not None); None if there is none."""
    for value in evaluate_promises(it):
        if predicate(value) if predicate is not None else value is not None:
            return value
    return None


def firstmethod(method: str, on_call: Callable[..., Any] | None = None) -> Callable[..., Any]:
    """A function that calls this method of each of the objects given, until one gives something."""

    def ask(it: Iterable[Any], *args: Any, **kwargs: Any) -> Any:
        for each in it:
            found = inspect.getattr_static(maybe_evaluate(each), method, None)
            if found is None and method not in dir(maybe_evaluate(each)):
                continue
            bound = getattr(maybe_evaluate(each), method)
            reply = on_call(bound, *args, **kwargs) if on_call else bound(*args, **kwargs)
            if reply is not None:
                return reply
        return None

    return ask


def chunks(it: Iterator[Any], n: int) -> Iterator[list[Any]]:
    """An iterator's elements in lists of ``n``; the last may be shorter."""
    for item in it:
        yield [item, *islice(it, n - 1)]


def padlist(container: Any, size: int, default: Any = None) -> list[Any]:
    """A list of exactly ``size`` elements: cut, or filled up with ``default``."""
    return [*list(container)[:size], *[default] * (size - len(container))]


def mattrgetter(*attrs: str) -> Callable[[Any], dict[str, Any]]:
    """A function that gives these attributes of an object, None for those it does not have."""
    return lambda obj: {attr: getattr(obj, attr, None) for attr in attrs}


def uniq(it: Iterable[Any]) -> Iterator[Any]:
    """Each element once, in the order they came."""
    seen = set()
    for each in it:
        if each not in seen:
            seen.add(each)
            yield each


def lookahead(it: Iterable[Any]) -> Iterator[tuple[Any, Any]]:
    """Pairs of an element and the next; the last comes with None."""
    now, later = tee(it)
    next(later, None)
    return zip_longest(now, later)


def regen(it: Any) -> Any:
    """An iterable that may be iterated over more than once; lists and tuples are that already."""
    return it if isinstance(it, (list, tuple)) else _regen(it)


class _regen(UserList[Any], list[Any]):  # type: ignore[misc]  # a list, so that serializers take it for one
    """Remembers what an iterator gave. It reads one element ahead at most, so that it knows where the end is."""

    def __init__(self, it: Iterable[Any]) -> None:
        self._source = it
        self._rest: Iterator[Any] | None = None
        self._seen: list[Any] = []
        self._ended = False

    @property
    def data(self) -> list[Any]:  # type: ignore[override]
        """All the elements; reads the iterator to its end."""
        while self._pull():
            pass
        return self._seen

    def _pull(self) -> bool:
        """Read one more element; false at the end."""
        if self._ended:
            return False
        if self._rest is None:
            self._rest = iter(self._source)
        try:
            self._seen.append(next(self._rest))
        except StopIteration:
            self._ended = True
        return not self._ended

    def map(self, func: Callable[[Any], Any]) -> None:
        """Change every element, those to come too."""
        self._seen = [func(each) for each in self._seen]
        self._source = self._rest = map(func, self._source if self._rest is None else self._rest)

    def __iter__(self) -> Iterator[Any]:
        index, pulling = 0, False
        while index < len(self._seen) or self._pull_for(index):
            if index == len(self._seen) - 1 and (pulling or not self._ended):
                pulling = self._pull() or pulling
            yield self._seen[index]
            index += 1

    def _pull_for(self, index: int) -> bool:
        return self._pull() and index < len(self._seen)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return self.data[index]
        index = index.__index__()
        if index < 0:
            return self.data[index]
        while index >= len(self._seen) - 1 and self._pull():
            pass
        return self._seen[index]

    def __bool__(self) -> bool:
        return bool(self._seen) or self._pull()

    def __len__(self) -> int:
        return len(self.data)

    def __length_hint__(self) -> int:
        return cast("int", cast("Any", self._source).__length_hint__())

    def __reduce__(self) -> Any:
        return list, (self.data,)

    def __repr__(self) -> str:
        shown = ", ".join(map(repr, self._seen))
        return f"<{type(self).__name__}: [{shown}{'' if self._ended else '...'}]>"


def head_from_fun(fun: Callable[..., Any], bound: bool = False) -> Callable[..., Any]:
    """A function with the parameters of ``fun`` and no body: calling it checks arguments."""
    return arguments_checker(fun, bound)


def arity_greater(fun: Callable[..., Any], n: int) -> bool:
    """Whether a function takes more than ``n`` arguments by position."""
    spec = inspect.getfullargspec(fun)
    return bool(spec.varargs) or len(spec.args) > n


def fun_takes_argument(name: str, fun: Callable[..., Any], position: int | None = None) -> bool:
    """Whether a function takes an argument, by its name or by its position."""
    spec = inspect.getfullargspec(fun)
    return bool(spec.varkw or spec.varargs or (len(spec.args) >= position if position else name in spec.args))


def fun_accepts_kwargs(fun: Any) -> bool:
    """Whether a function takes any keyword."""
    parameters = inspect.signature(fun).parameters.values()
    return any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters)


def maybe(typ: Callable[[Any], Any], val: Any) -> Any:
    """``typ(val)``; None stays None."""
    return None if val is None else typ(val)


def seq_concat_item(seq: Any, item: Any) -> Any:
    """A copy of a list or tuple with one more element."""
    return (*seq, item) if isinstance(seq, tuple) else [*seq, item]


def seq_concat_seq(a: Any, b: Any) -> Any:
    """Two sequences as one, of the type of the longer."""
    kind = type(max((a, b), key=len))
    return kind(a) + kind(b)


def is_numeric_value(value: Any) -> bool:
    """Whether something is a number, truth values apart."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)
