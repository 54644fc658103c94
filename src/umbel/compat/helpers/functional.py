"""Small functions on functions and sequences that kombu and celery both show."""

from __future__ import annotations

import inspect
import time
from collections import OrderedDict, UserDict
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import wraps
from itertools import count
from threading import RLock
from typing import Any

__all__ = [
    "LRUCache",
    "accepts_argument",
    "dictfilter",
    "is_list",
    "lazy",
    "maybe_evaluate",
    "maybe_list",
    "memoize",
    "noop",
    "retry_over_time",
]


def noop(*args: Any, **kwargs: Any) -> None:
    """Takes anything and does nothing."""


class lazy:
    """A call that is made each time its value is asked for."""

    def __init__(self, fun: Callable[..., Any], *args: Any, **kwargs: Any) -> None:
        self._fun = fun
        self._args = args
        self._kwargs = kwargs

    def __call__(self) -> Any:
        """Make the call."""
        return self.evaluate()

    def evaluate(self) -> Any:
        """Make the call."""
        return self._fun(*self._args, **self._kwargs)

    def __str__(self) -> str:
        return str(self())

    def __repr__(self) -> str:
        return repr(self())

    def __eq__(self, other: object) -> bool:
        return bool(self() == other)

    def __ne__(self, other: object) -> bool:
        return bool(self() != other)

    __hash__ = None  # type: ignore[assignment]

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        memo[id(self)] = self
        return self

    def __reduce__(self) -> Any:
        return self.__class__, (self._fun, *self._args), {"_args": self._args, "_kwargs": self._kwargs}


def maybe_evaluate(value: Any) -> Any:
    """The value of a ``lazy``; everything else as it is."""
    return value.evaluate() if isinstance(value, lazy) else value


class LRUCache(UserDict[Any, Any]):
    """Keeps the ``limit`` keys that were used last; None: all. Safe for use by several threads."""

    def __init__(self, limit: int | None = None) -> None:
        self.limit = limit
        self.mutex = RLock()
        self.data: OrderedDict[Any, Any] = OrderedDict()

    def __getitem__(self, key: Any) -> Any:
        with self.mutex:
            value = self.data[key]
            self.data.move_to_end(key)
            return value

    def __setitem__(self, key: Any, value: Any) -> None:
        with self.mutex:
            self.data[key] = value
            self.data.move_to_end(key)
            self._shrink()

    def _shrink(self) -> None:
        while self.limit and len(self.data) > self.limit:
            self.data.popitem(last=False)

    def update(self, *args: Any, **kwargs: Any) -> None:
        """Set many keys."""
        with self.mutex:
            self.data.update(*args, **kwargs)
            self._shrink()

    def popitem(self, last: bool = True) -> tuple[Any, Any]:
        """Take out the key that was used last, or with ``last`` false the one that was not used for longest."""
        with self.mutex:
            return self.data.popitem(last)

    def __iter__(self) -> Iterator[Any]:
        with self.mutex:
            return iter(list(self.data))

    def items(self) -> Any:
        """Keys and values as they are now."""
        with self.mutex:
            return list(self.data.items())

    def values(self) -> Any:
        """The values as they are now."""
        with self.mutex:
            return list(self.data.values())

    def keys(self) -> Any:
        """The keys as they are now."""
        with self.mutex:
            return list(self.data)

    def incr(self, key: Any, delta: int = 1) -> int:
        """Add to a number that is kept as text, or as a number."""
        with self.mutex:
            value = int(self.data.pop(key)) + delta
            self[key] = str(value)
            return value

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "mutex": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state, mutex=RLock())


def memoize(maxsize: int | None = None, keyfun: Any = None, Cache: Any = LRUCache) -> Any:
    """Decorate a function so that it remembers what it gave, ``maxsize`` arguments long."""

    def decorate(fun: Callable[..., Any]) -> Any:
        return wraps(fun)(_Memoized(fun, keyfun, Cache(limit=maxsize)))

    return decorate


_MARK = object()


class _Memoized:
    """A function that remembers; ``hits`` and ``misses`` count how often it did."""

    def __init__(self, fun: Callable[..., Any], keyfun: Any, cache: Any) -> None:
        self.original_func = fun
        self.hits = self.misses = 0
        self._keyfun = keyfun
        self._cache = cache
        self._lock = RLock()

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        key = self._keyfun(args, kwargs) if self._keyfun else (*args, _MARK, *sorted(kwargs.items()))
        with self._lock:
            if key in self._cache:
                self.hits += 1
                return self._cache[key]
        value = self.original_func(*args, **kwargs)
        with self._lock:
            self.misses += 1
            self._cache[key] = value
        return value

    def clear(self) -> None:
        """Forget everything."""
        with self._lock:
            self._cache.clear()
            self.hits = self.misses = 0


def is_list(
    obj: Any, scalars: tuple[type, ...] = (Mapping, str), iters: tuple[type, ...] = (Iterable,)
) -> bool:
    """Whether something is iterable, texts and mappings apart."""
    return isinstance(obj, iters) and not isinstance(obj, scalars or ())


def maybe_list(obj: Any, scalars: tuple[type, ...] = (Mapping, str)) -> Any:
    """What is a list as it is; anything else in a list of its own; None stays None."""
    return obj if obj is None or is_list(obj, scalars) else [obj]


def dictfilter(d: Mapping[str, Any] | None = None, **kw: Any) -> dict[str, Any]:
    """A mapping without the keys whose value is None."""
    merged = kw if d is None else ({**d, **kw} if kw else d)
    return {key: value for key, value in merged.items() if value is not None}


def retry_over_time(
    fun: Callable[..., Any],
    catch: Any,
    args: Any = None,
    kwargs: Any = None,
    errback: Any = None,
    max_retries: int | None = None,
    interval_start: float = 2,
    interval_step: float = 2,
    interval_max: float = 30,
    callback: Any = None,
    timeout: float | None = None,
) -> Any:
    """Call a function until it does not raise one of ``catch``, with growing pauses between the attempts.

    Raises what the last attempt raised, once there were ``max_retries`` retries or ``timeout`` seconds have passed.
    """
    end = time.monotonic() + timeout if timeout else None
    pauses = _pauses(interval_start, interval_step, interval_max)
    for retries in count():
        try:
            return fun(*(args or ()), **(kwargs or {}))
        except catch as error:
            if max_retries is not None and retries >= max_retries:
                raise
            if end is not None and time.monotonic() > end:
                raise
            if callback:
                callback()
            pause = float(errback(error, pauses, retries) if errback else next(pauses))
            _sleep(pause, callback)
    raise AssertionError("unreachable")


def _pauses(start: float, step: float, maximum: float) -> Iterator[float]:
    pause = start
    while True:
        yield min(pause, maximum)
        pause += step


def _sleep(pause: float, callback: Any) -> None:
    if not callback:
        time.sleep(pause)
        return
    for _ in range(int(pause)):
        callback()
        time.sleep(1.0)
    time.sleep(abs(int(pause) - pause))


def accepts_argument(func: Callable[..., Any], argument_name: str) -> bool:
    """Whether a function has a parameter of this name."""
    spec = inspect.getfullargspec(func)
    return argument_name in spec.args or argument_name in spec.kwonlyargs
