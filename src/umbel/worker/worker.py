"""The worker: how it starts, works and ends. ``parts`` says what it is made of: the two pages to read first."""

from __future__ import annotations

import asyncio
import logging
import os
from typing import TYPE_CHECKING, Any

from umbel import signals
from umbel.errors import ImproperlyConfigured, WorkerLostError
from umbel.pools.registry import make_pool
from umbel.worker.link import GaveUp
from umbel.worker.options import expand, node_name, resolve
from umbel.worker.os_signals import OsSignals
from umbel.worker.parts import Parts
from umbel.worker.revoked import RevokedIds, RevokedStamps
from umbel.worker.spawned import FACTORY as SPAWNED
from umbel.worker.spawned import describe
from umbel.worker.statedb import StateFile
from umbel.worker.stopping import EX_FAILURE, ShutdownRequests, Stopping, first_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from umbel.app import Umbel
    from umbel.pools.base import JobRunner
    from umbel.worker.os_signals import Shutdown

logger = logging.getLogger("celery.worker")


class Worker:
    """Takes jobs from queues and runs them until told to stop.

    Args:
        app: the application whose tasks it runs; finalized and its modules imported by now.
        options: what ``umbel worker`` takes, by Celery's names (``pool``, ``concurrency``, ``queues``, ``hostname``,
            ``prefetch_multiplier``, ``time_limit``, …); None means the setting of that name.
        user_options: options that the application added to the command, for receivers of ``celeryd_init``.
        on_ready: called in its loop as soon as it takes tasks.
        os_signals: whether the process's signals are meant for it.
    """

    def __init__(
        self,
        app: Umbel,
        *,
        user_options: Mapping[str, Any] | None = None,
        on_ready: Callable[[], None] | None = None,
        os_signals: bool = True,
        **options: Any,
    ) -> None:
        self.app = app
        self.hostname = node_name(options.get("hostname"))
        # Receivers may change settings for a worker of this name, so these are read only afterwards.
        told = {**options, **(user_options or {})}
        signals.celeryd_init.send(sender=self.hostname, instance=self, conf=app.conf, options=told)
        self.options = resolve(app.conf, options | {"hostname": self.hostname})
        self.queues = _select_queues(app, self.options.queues, self.options.exclude_queues)
        #: Ids of tasks that must not run.
        self.revoked = RevokedIds.of_process(app.conf.revoked_expires or 0.0)
        self.revoked_stamps = RevokedStamps()
        path = self.options.state_db
        self._state_file = StateFile(expand(path, self.hostname)) if path else None
        #: Called in pool processes that start from nothing, once they have the application; it must be picklable.
        self.set_up_spawned: Callable[[], None] | None = None
        self._pid = os.getpid()
        inline = not app.broker.capabilities.durable
        spawned = self.options.start_method == "spawn" and self.options.pool != "solo" and not inline
        self._pool = make_pool(
            self.options.pool,
            SPAWNED if spawned else self._make_runner,
            self.options.concurrency,
            max_tasks_per_child=self.options.max_tasks_per_child,
            max_memory_per_child=self.options.max_memory_per_child,
            max_age_per_child=self.options.max_age_per_child,
            age_jitter=self.options.age_jitter,
            log_level=self.options.log_level,
            start_method=self.options.start_method,
            start_timeout=self.options.start_timeout,
            factory_argument=self._describe_app,
            inline=inline,
            slots=self.options.slots,
            block_timeout=self.options.loop_block_timeout,
        )
        self._loop: asyncio.AbstractEventLoop | None = None
        self._requests = ShutdownRequests(self.hostname)
        self._on_ready = on_ready
        self._os_signals = os_signals
        self._prepared = False
        self.restart_wanted = False
        #: What made it give up; None as long as nothing did.
        self.failure: BaseException | None = None
        #: Its parts, once it has begun to start.
        self.parts: Parts | None = None

    def _make_runner(self) -> JobRunner:
        if os.getpid() != self._pid:
            self.app.forget_parent()
        return self.app.make_runner(self.hostname)

    def _describe_app(self) -> bytes:
        return describe(self.app, self.hostname, self.set_up_spawned)

    def prepare(self) -> None:
        """Tell the application that a worker is about to start; it may still change its queues. Safe twice."""
        if not self._prepared:
            self._prepared = True
            signals.worker_init.send(sender=self)
            signals.celeryd_after_setup.send(sender=self.hostname, instance=self, conf=self.app.conf)
            self.queues = tuple(queue.name for queue in self.app.amqp.queues.consume_from.values())

    def start(self) -> int:
        """Run until told to stop; the exit status. Uses uvloop where it is installed."""
        self.prepare()
        # Pool processes are forked from a program that has no event loop, no connection and no thread yet.
        self._pool.prepare()
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            return runner.run(self.run())

    def request_shutdown(self, why: str, how: Shutdown) -> None:
        """Ask for a shutdown from the loop's own thread; a second, colder one overtakes the first."""
        self._requests.add(why, how)

    def stop(self, how: Shutdown = "warm") -> None:
        """Ask for a shutdown from any thread."""
        if self._loop is None:
            self._requests.add("stop", how)
        else:
            self._loop.call_soon_threadsafe(self._requests.add, "stop", how)

    async def run(self) -> int:
        """Start the parts, work, stop the parts; the exit status."""
        self._loop = asyncio.get_running_loop()
        self._loop.set_exception_handler(self._on_loop_error)
        os_signals = OsSignals(self._loop, self.request_shutdown)
        if self._os_signals:
            os_signals.install()
        self.prepare()
        self._load_state()
        try:
            await self._serve()
            return self._requests.exitcode
        finally:
            self._save_state()
            os_signals.remove()
            self.restart_wanted = os_signals.restart_wanted
            signals.worker_shutdown.send(sender=self)

    def _load_state(self) -> None:
        if self._state_file is not None:
            saved = self._state_file.load()
            self.revoked.update(saved.revoked)
            self.app.clock.adjust(saved.clock)

    def _save_state(self) -> None:
        if self._state_file is not None:
            self._state_file.save(self.revoked.table, self.app.clock.forward())

    async def _serve(self) -> None:
        try:
            parts = self.parts = self._make_parts()
        except BaseException:
            await self._pool.stop(timeout=0.0)  # its template may have been forked
            raise
        loops: list[asyncio.Task[None]] = []
        try:
            if await self._open(parts):
                loops = [asyncio.create_task(loop) for loop in parts.loops()]
                signals.worker_ready.send(sender=self)
                logger.info("%s ready.", self.hostname)
                if self._on_ready is not None:
                    self._on_ready()
                await self._work(loops)
                settling, _, fetching = loops[:3]
                await Stopping(parts, self._requests, self.options).run(fetching, settling)
        finally:
            parts.early_acks.stop()
            await _cancel(loops)
            for listener in parts.broadcasts:
                await listener.close()
            if parts.control is not None:
                await parts.control.close()
            if parts.events is not None:
                await parts.events.close()
            await parts.pool.stop(timeout=5.0)
            await parts.link.close(timeout=self.options.lease / 2)

    async def _open(self, parts: Parts) -> bool:
        """Start what has to be up first; false when told to stop meanwhile, or when that failed for good."""
        opening = asyncio.create_task(self._start_up(parts))
        try:
            await first_of(opening, self._requests.asked)
        finally:
            if not opening.done():
                opening.cancel()
            await asyncio.wait([opening])
        if opening.cancelled():
            return False
        if error := opening.exception():
            self._fail(error)
            return False
        return True

    async def _start_up(self, parts: Parts) -> None:
        await parts.pool.start(parts.completion)
        queues = self.app.amqp.queues
        self.app.broker.declare(queues.bindings(), queues.definitions())
        await parts.link.open()
        self._warn_of_sharing()
        for listener in parts.broadcasts:
            await listener.open()
        if parts.control is not None:
            await parts.control.open()
        # After it has begun to listen and before it fetches: what is revoked from now on it hears.
        await parts.revocations.recall()
        if self.options.purge:
            await self._purge()

    def _warn_of_sharing(self) -> None:
        """Results that fill or empty a server's database do so to the messages in it."""
        broker, backend = self.app.broker, self.app.backend
        if broker.capabilities.shared and broker.store == backend.store != "":
            logger.warning(
                "Messages and results share %s: each task's result and acknowledgement are one step there, but what "
                "fills or empties it for the one does so for the other. Never flush it, let results expire "
                "(result_expires), and have its server refuse rather than evict when memory is full.",
                broker.display_url,
            )

    async def _work(self, loops: list[asyncio.Task[None]]) -> None:
        """Return when a shutdown is asked for, or something that should go on has ended."""
        await first_of(*loops, self._requests.asked)
        for loop in loops:
            if loop.done() and not loop.cancelled() and (error := loop.exception()):
                self._fail(error)

    def _fail(self, error: BaseException) -> None:
        """Something is wrong with the worker itself: it leaves as fast as it can without losing anything."""
        if isinstance(error, (GaveUp, WorkerLostError)):
            logger.critical("%s", error)  # says all there is to say
        else:
            logger.critical("Unrecoverable error: %r", error, exc_info=error)
        self.failure = self.failure or error
        self._requests.exitcode = EX_FAILURE
        if not self._requests.cold.is_set():
            self._requests.add("error", "cold")

    def _on_loop_error(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """What was raised in a callback ends the worker, for something has not been done; the rest is logged."""
        error = context.get("exception")
        if isinstance(error, Exception) and "future" not in context and "task" not in context:
            self._fail(error)
        else:
            loop.default_exception_handler(context)

    async def _purge(self) -> None:
        """Delete what waits in its queues."""
        broker = self.app.broker
        # Brokers purge by a blocking call; leases and signals go on meanwhile.
        erased = sum([await asyncio.to_thread(broker.purge, queue) for queue in self.queues])
        if erased:
            logger.warning("purge: Erased %d message%s from the queue.", erased, "" if erased == 1 else "s")

    def _make_parts(self) -> Parts:
        return Parts(
            self.app,
            self.options,
            pool=self._pool,
            queues=self.queues,
            revoked=self.revoked,
            revoked_stamps=self.revoked_stamps,
            shut_down=lambda: self.request_shutdown("remote control", "warm"),
        )


async def _cancel(loops: list[asyncio.Task[None]]) -> None:
    for loop in loops:
        loop.cancel()
    await asyncio.gather(*loops, return_exceptions=True)


def _select_queues(app: Umbel, include: tuple[str, ...], exclude: tuple[str, ...]) -> tuple[str, ...]:
    queues = app.amqp.queues
    try:
        queues.select(include)
    except KeyError as error:
        raise ImproperlyConfigured(
            f"cannot take tasks from queue {error.args[0]!r}: it is not in task_queues, and"
            " task_create_missing_queues is off"
        ) from None
    if exclude:
        queues.deselect(exclude)
    return tuple(queue.name for queue in queues.consume_from.values())


def _loop_factory() -> Any:
    try:
        import uvloop  # only the worker pays for its import
    except ImportError:
        return None
    return uvloop.new_event_loop
