"""Async tasks where a slot runs one job at a time: one event loop per slot, kept between jobs.

Clients with connections (HTTP, databases) bind themselves to the loop they first see, so a fresh loop for every job,
as ``asyncio.run`` gives, would break those that a module keeps.
"""

from __future__ import annotations

import asyncio
import os
import sys
import threading
from contextlib import suppress
from contextvars import copy_context
from importlib import import_module
from typing import TYPE_CHECKING, Any

from umbel.errors import SoftTimeLimitExceeded
from umbel.pools.driving import Drive
from umbel.pools.limits import diverted

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from contextlib import AbstractAsyncContextManager


class _Loops(threading.local):
    """The runner of this thread. A forked child must not use its parent's."""

    runner: asyncio.Runner | None = None
    native: bool = False  #: this is a real thread among greenlets
    pid: int = 0
    #: Makes what is entered on a new loop of this thread, and left before it is closed.
    lifespan: Callable[[], AbstractAsyncContextManager[Any]] | None = None
    entered: AbstractAsyncContextManager[Any] | None = None


_loops = _Loops()


def finish(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """Run a coroutine to its end on this thread's loop, in this thread's context; gives or raises what it does.

    Where a loop is running already (an eager call from async code) it runs in a thread of its own meanwhile.
    """
    in_native_thread = _native_threads()
    if in_native_thread is not None:
        return _finish_natively(coroutine, in_native_thread)
    return _finish_here(coroutine, [])


def _finish_here(coroutine: Coroutine[Any, Any, Any], bodies: list[_Body]) -> Any:
    if asyncio._get_running_loop() is not None:
        return _finish_elsewhere(coroutine)
    if _loops.runner is None or _loops.pid != os.getpid():
        _open_loop()
    runner = _loops.runner
    assert runner is not None
    body = _Body(coroutine, runner.get_loop())
    bodies.append(body)
    try:
        with diverted(body):
            return runner.run(body.drive.run(), context=copy_context())
    except BaseException:
        if not body.drive.done:
            # Something was raised in the loop rather than in the body, which must not go on beside the next job.
            close_loop()
        raise


class _Body:
    """An async body on the loop of its slot, as limits see it."""

    def __init__(self, coroutine: Coroutine[Any, Any, Any], loop: asyncio.AbstractEventLoop) -> None:
        self.drive = Drive(coroutine)
        self._loop = loop

    def in_body(self) -> bool:
        return self.drive.inside

    def interrupt(self, limit: type[BaseException]) -> None:
        # The loop may have ended by now: then there is nothing to interrupt.
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self.drive.interrupt, limit)


def _native_threads() -> Callable[..., Any] | None:
    """What runs a function in a thread that is one, where those of this process are greenlets; None elsewhere.

    Greenlets share one real thread, and that can have one loop.
    """
    if _loops.native:
        return None
    monkey = sys.modules.get("gevent.monkey")
    if monkey is not None and monkey.is_module_patched("threading"):
        return _of_gevent
    patcher = sys.modules.get("eventlet.patcher")
    if patcher is not None and patcher.is_monkey_patched("thread"):
        execute: Callable[..., Any] = import_module("eventlet.tpool").execute
        return execute
    return None


def _of_gevent(call: Callable[..., Any], *arguments: Any) -> Any:
    return import_module("gevent").get_hub().threadpool.apply(call, arguments)


def _finish_natively(coroutine: Coroutine[Any, Any, Any], in_native_thread: Callable[..., Any]) -> Any:
    """Run it in a thread that is one, on its loop, while this greenlet waits."""
    bodies: list[_Body] = []

    def run() -> Any:
        _loops.native = True
        return _finish_here(coroutine, bodies)

    try:
        return in_native_thread(copy_context().run, run)
    except BaseException:
        # Raised in this greenlet, by a limit for instance: then the body still runs, and is ended now.
        for body in bodies:
            body.interrupt(SoftTimeLimitExceeded)
        raise


def _open_loop() -> None:
    runner = asyncio.Runner()
    if _loops.lifespan is not None:
        entered = _loops.lifespan()
        try:
            runner.run(entered.__aenter__())
        except BaseException:
            runner.close()
            raise
        _loops.entered = entered
    _loops.runner, _loops.pid = runner, os.getpid()


def set_lifespan(make: Callable[[], AbstractAsyncContextManager[Any]]) -> None:
    """Have this entered on the loop of this thread when it is opened, and left before it is closed."""
    _loops.lifespan = make


def _finish_elsewhere(coroutine: Coroutine[Any, Any, Any]) -> Any:
    context = copy_context()
    ended: list[tuple[Any, BaseException | None]] = []

    def run() -> None:
        try:
            with asyncio.Runner() as runner:
                ended.append((runner.run(coroutine, context=context), None))
        except BaseException as error:
            ended.append((None, error))

    thread = threading.Thread(target=run, name="umbel-eager")
    thread.start()
    thread.join()
    value, error = ended[0]
    if error is not None:
        raise error
    return value


def close_loop() -> None:
    """Close the loop of this thread, if it has one; the next async task gets a new one. Safe twice."""
    runner, _loops.runner = _loops.runner, None
    entered, _loops.entered = _loops.entered, None
    if runner is None or _loops.pid != os.getpid():
        return
    try:
        if entered is not None:
            runner.run(entered.__aexit__(None, None, None))
    finally:
        runner.close()
