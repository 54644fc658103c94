"""vine's names: promises."""

from __future__ import annotations

from typing import Any

__umbel_alias__ = True
__version__ = "5.1.0"


class Thenable:
    """Something that calls back."""


class promise(Thenable):
    """A call that is made later, once, and calls others with what it gave."""

    def __init__(
        self,
        fun: Any = None,
        args: Any = None,
        kwargs: Any = None,
        callback: Any = None,
        on_error: Any = None,
        **_: Any,
    ) -> None:
        self.fun = fun
        self.args = args or ()
        self.kwargs = kwargs or {}
        self.on_error = on_error
        self.ready = self.failed = self.cancelled = False
        self.value: Any = None
        self.reason: BaseException | None = None
        self._then: list[Any] = [callback] if callback else []

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Make the call, and those that wait for it."""
        if self.cancelled:
            return None
        given = (*self.args, *args)
        fun = self.fun or (lambda first=None, *_, **__: first)
        value = fun(*given, **{**self.kwargs, **kwargs})
        self.value = ((value,), {})
        self.ready = True
        for callback in self._then:
            callback(value)
        return value

    def then(self, callback: Any, on_error: Any = None) -> Any:
        """Call this too."""
        if self.ready:
            callback(*self.value[0])
        else:
            self._then.append(callback)
        return callback

    def throw1(self, exc: BaseException | None = None) -> None:
        """It failed."""
        self.failed, self.reason = True, exc
        if self.on_error is not None:
            self.on_error(exc)

    throw = throw1

    def cancel(self) -> None:
        """Do not call."""
        self.cancelled = True


class barrier(Thenable):
    """Calls back when all of some promises are there."""

    def __init__(
        self, promises: Any = None, args: Any = None, kwargs: Any = None, callback: Any = None, **_: Any
    ) -> None:
        self.p = promise(callback)
        self.size = 0
        self._waiting = 0
        self.finalized = False
        for each in promises or ():
            self.add(each)
        if promises:
            self.finalize()

    def add(self, p: Any) -> None:
        """Wait for one more."""
        self.size += 1
        self._waiting += 1
        p.then(self)

    def __call__(self, *args: Any, **kwargs: Any) -> None:
        """One more is there."""
        self._waiting -= 1
        if self.finalized and self._waiting <= 0 and not self.p.ready:
            self.p()

    def finalize(self) -> None:
        """All are added."""
        self.finalized = True
        if self._waiting <= 0 and not self.p.ready:
            self.p()

    def then(self, callback: Any, errback: Any = None) -> Any:
        """Call this too."""
        return self.p.then(callback, errback)


def starpromise(fun: Any, *args: Any, **kwargs: Any) -> promise:
    """A promise with these arguments."""
    return promise(fun, args, kwargs)


def maybe_promise(p: Any) -> Any:
    """A promise as it is; a function as one."""
    return p if p is None or isinstance(p, Thenable) else promise(p)


ensure_promise = maybe_promise
