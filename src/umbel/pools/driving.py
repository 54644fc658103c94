"""Limits of async bodies: they are raised where a body awaits, and what it awaits is cancelled.

Problem: raised wherever the thread happens to be, a limit hits the event loop instead of the body, which then stays on
the loop, unfinished. Cancelling the body's task reaches it, but as CancelledError, and bodies catch
SoftTimeLimitExceeded.

Solution: the task is cancelled, and what the body sees in place of that is both: what bodies catch, and what task
groups and timeouts of asyncio are made for.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar

from umbel.errors import SoftTimeLimitExceeded, TimeLimitExceeded
from umbel.pools.limits import Terminated

if TYPE_CHECKING:
    from collections.abc import Coroutine, Generator

T = TypeVar("T")


class SoftCancelled(SoftTimeLimitExceeded, asyncio.CancelledError):
    """A soft limit as an async body sees it."""


class HardCancelled(TimeLimitExceeded, asyncio.CancelledError):
    """A hard limit as an async body sees it, where there is no process that could be ended."""


class EndCancelled(asyncio.CancelledError):
    """The job's end on request as an async body sees it."""


_FORMS: Final[dict[type[BaseException], type[asyncio.CancelledError]]] = {
    SoftTimeLimitExceeded: SoftCancelled,
    TimeLimitExceeded: HardCancelled,
    Terminated: EndCancelled,
}


class Drive(Generic[T]):
    """One async body on its way: a coroutine that is driven step by step, to exchange what is raised in it.

    ``task`` is the task that will drive it, where that is known: asking for it costs more than a step does.
    """

    __slots__ = ("_coroutine", "_driver", "_due", "_interrupted", "done", "inside", "task")

    def __init__(self, coroutine: Coroutine[Any, Any, T], task: asyncio.Task[Any] | None = None) -> None:
        self._coroutine = coroutine
        self._driver = task
        self._due: BaseException | None = None
        self._interrupted = False
        self.task: asyncio.Task[Any] | None = None
        self.inside = False  #: the body itself runs at this moment
        self.done = False

    def interrupt(self, limit: type[BaseException]) -> None:
        """Raise a limit where the body awaits, once; nothing happens before and after it runs. Call it on the loop.

        A Terminated is raised even in a body that was interrupted before.
        """
        if self.task is not None and not self.done and (limit is Terminated or not self._interrupted):
            self._interrupted = True
            self._due = _FORMS[limit]()
            self.task.cancel()

    async def run(self) -> T:
        """Await the body, as a task of the loop; raises what it does."""
        self.task = self._driver or asyncio.current_task()
        try:
            result: T = await self
            return result
        except SoftCancelled as error:
            raise SoftTimeLimitExceeded(*error.args).with_traceback(error.__traceback__) from None
        except HardCancelled as error:
            raise TimeLimitExceeded(*error.args).with_traceback(error.__traceback__) from None
        except EndCancelled as error:
            raise Terminated from error
        finally:
            self.done = True

    def __await__(self) -> Generator[Any, None, T]:
        coroutine = self._coroutine
        error: BaseException | None = None
        while True:
            self.inside = True
            try:
                awaited = coroutine.send(None) if error is None else coroutine.throw(error)
            except StopIteration as stop:
                result: T = stop.value
                return result
            finally:
                self.inside = False
            error = None
            try:
                yield awaited
            except asyncio.CancelledError as cancelled:
                error = self._meaning_of(cancelled)
            except BaseException as raised:
                error = raised

    def _meaning_of(self, cancelled: asyncio.CancelledError) -> BaseException:
        """Only the first is the limit's; what cancels the body later is somebody else's affair."""
        due, self._due = self._due, None
        if due is None:
            return cancelled
        assert self.task is not None
        self.task.uncancel()
        return due
