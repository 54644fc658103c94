"""``Sender``: sends tasks under one state of an application's settings, and answers with handles of their results."""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING, Any, NamedTuple

from msgspec import structs

from umbel.client.calls import worker_context
from umbel.client.client import CHUNK_MESSAGES, PublishOptions, Work
from umbel.client.stencil import Stencil, cut_stencil
from umbel.core.ids import new_id, new_ids
from umbel.core.message import Call
from umbel.core.records import Publication
from umbel.execution.context import current, current_worker_task

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from umbel.brokers.base import AsyncPublisher
    from umbel.client.calls import CallFactory
    from umbel.client.client import Client
    from umbel.core.destination import Destination
    from umbel.results.handles import AsyncResult

__all__ = ["Identity", "PlainRoute", "Sender"]


class Identity:
    """Who sends: ``reply_to`` of each thread, and ``origin`` of the process; both new after a fork."""

    def __init__(self) -> None:
        self._local = threading.local()
        self._local.pid = 0
        self._origin = (0, "")

    @property
    def origin(self) -> str:
        """``gen<pid>@<hostname>``, as Celery's producers call themselves."""
        pid = os.getpid()
        if self._origin[0] != pid:
            self._origin = (pid, f"gen{pid}@{_hostname()}")
        return self._origin[1]

    @property
    def thread_oid(self) -> str:
        """The identifier of this thread of this process, as uuid3 text; backends that send results send them there."""
        local = self._local
        pid = os.getpid()
        try:
            if local.pid == pid:
                oid: str = local.oid
                return oid
        except AttributeError:
            pass
        local.oid, local.pid = self.oid_of(threading.get_ident()), pid
        return str(local.oid)

    def oid_of(self, number: int) -> str:
        """The identifier of a thread of this process; 0 stands for the process itself."""
        # Needed once per thread; uuid looks for the machine's address when it is imported.
        import uuid

        return str(uuid.uuid3(uuid.NAMESPACE_OID, f"{uuid.getnode():x}-{os.getpid()}-{number}-{id(self)}"))


def _hostname() -> str:
    # Needed once per process; socket takes as long to import as much of this package.
    from socket import gethostname

    return gethostname()


class PlainRoute(NamedTuple):
    """What every plain call of one task has in common: a call with arguments, and no options.

    ``fields`` are those of ``Call`` that differ from its defaults, ``pid`` is the process whose ``origin`` the stencil
    has in it.
    """

    name: str
    fields: dict[str, Any]
    options: PublishOptions
    ignore_result: bool
    stencil: Stencil | None
    pid: int


class Sender:
    """Sends tasks. Safe for use by several threads, and after a fork.

    Args:
        client: sends the messages.
        calls: makes them from options.
        identity: who sends.
        expect: told of the ids whose results may be waited for, before their messages go out; None: nobody needs it.
        handle: makes the handle of a result from its id and its task's name.
    """

    def __init__(
        self,
        client: Client,
        calls: CallFactory,
        identity: Identity,
        expect: Callable[[Sequence[str]], None] | None,
        handle: Callable[[str, str], AsyncResult[Any]],
    ) -> None:
        self.client = client
        self.calls = calls
        self.identity = identity
        self._expect = expect
        self._handle = handle

    def make(
        self,
        name: str,
        args: Sequence[Any] | None,
        kwargs: Mapping[str, Any] | None,
        options: Mapping[str, Any],
        task: Any = None,
    ) -> Work:
        """The call that these options describe, and how to send it; see ``CallFactory.make``."""
        identity = self.identity
        work = self.calls.make(
            name, args, kwargs, options, reply_to=identity.thread_oid, origin=identity.origin, task=task
        )
        self._declare(work.options.destination)
        return work

    def _declare(self, to: Destination) -> None:
        """Tell the broker of the queues that a message may go to; they are put in place with the first message."""
        queues, broker = self.calls.router.queues, self.client.broker
        if to.queue is None:
            broker.declare(queues.bindings_to(to.exchange), queues.definitions_to(to.exchange))
        elif broker.capabilities.definitions:
            definition = queues.definition(to.queue)
            if definition is not None:
                broker.declare((), (definition,))

    def plain_route(self, name: str, options: Mapping[str, Any], task: Any = None) -> PlainRoute | None:
        """What calls without options of their own have in common; None where each call has to be looked at.

        ``options`` are the task's own.
        """
        if not self.calls.router.fixed or options.get("expires") is not None:
            return None
        call, publish = self.make(name, (), {}, options, task)
        varying = {"task", "id", "args", "kwargs", "reply_to", "origin", "root_id", "parent_id"}
        default = structs.asdict(Call(name, ""))
        fields = {
            field: value
            for field, value in structs.asdict(call).items()
            if field not in varying and value != default[field]
        }
        stencil = cut_stencil(self.client.broker, publish, call)
        return PlainRoute(name, fields, publish, call.ignore_result, stencil, os.getpid())

    def send_plain(
        self, route: PlainRoute, args: Sequence[Any], kwargs: Mapping[str, Any], task_id: str | None
    ) -> AsyncResult[Any]:
        """Send a task with no options of the call's own, from outside tasks: the short way of ``send``."""
        task_id, payload = self._plain_payload(route, args, kwargs, task_id)
        if payload is not None:
            self.client.send_packed((Publication(route.options.destination, payload),), route.options)
        else:
            self.client.publish(self._plain_call(route, args, kwargs, task_id), route.options)
        result = self._handle(task_id, route.name)
        result.ignored = route.ignore_result
        return result

    async def asend_plain(
        self,
        route: PlainRoute,
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        task_id: str | None,
        publisher: AsyncPublisher,
    ) -> AsyncResult[Any]:
        """As ``send_plain``, without blocking the event loop."""
        task_id, payload = self._plain_payload(route, args, kwargs, task_id)
        if payload is not None:
            publications = (Publication(route.options.destination, payload),)
            await self.client.asend_packed(publications, route.options, publisher)
        else:
            call = self._plain_call(route, args, kwargs, task_id)
            await self.client.apublish(call, route.options, publisher)
        result = self._handle(task_id, route.name)
        result.ignored = route.ignore_result
        return result

    def _plain_payload(
        self, route: PlainRoute, args: Sequence[Any], kwargs: Mapping[str, Any], task_id: str | None
    ) -> tuple[str, bytes | None]:
        """The id of a plain call, and its payload; None where it has to go the long way."""
        # A fresh id is as good for telling messages apart as another drawn for that.
        fresh = "" if task_id else new_id()
        task_id = task_id or fresh
        stencil, payload = self._stencil(route), None
        if stencil is not None:
            payload = stencil.fill(task_id, args, kwargs, self.identity.thread_oid, fresh)
        if self._expect is not None and not route.ignore_result:
            self._expect((task_id,))
        return task_id, payload

    def _stencil(self, route: PlainRoute) -> Stencil | None:
        """What plain calls are written with here and now; None where they have to go the long way."""
        return None if self.client.is_watched() or route.pid != os.getpid() else route.stencil

    def _plain_call(
        self, route: PlainRoute, args: Sequence[Any], kwargs: Mapping[str, Any], task_id: str | None
    ) -> Call:
        identity = self.identity
        return Call(
            route.name,
            task_id or new_id(),
            args,
            kwargs,
            origin=identity.origin,
            reply_to=identity.thread_oid,
            **route.fields,
        )

    def send(self, work: Work, result_cls: Any = None, add_to_parent: bool = True) -> AsyncResult[Any]:
        """Send one task and give the handle of its result.

        Sent by a running task, the handle joins its children unless ``add_to_parent`` is false.
        """
        call, options = work
        if self._expect is not None and not call.ignore_result:
            self._expect((call.id,))
        self.client.publish(call, options)
        return self._handed_out(call, result_cls, add_to_parent)

    async def asend(
        self, work: Work, publisher: AsyncPublisher, result_cls: Any = None, add_to_parent: bool = True
    ) -> AsyncResult[Any]:
        """As ``send``, without blocking the event loop."""
        call, options = work
        if self._expect is not None and not call.ignore_result:
            self._expect((call.id,))
        await self.client.apublish(call, options, publisher)
        return self._handed_out(call, result_cls, add_to_parent)

    def send_many(self, works: Iterable[Work], add_to_parent: bool = True) -> list[AsyncResult[Any]]:
        """Send many tasks in few round trips; the handles come in the same order.

        When it raises, the tasks before the chunk that failed were sent.
        """
        works = list(works)
        self._expect_many(works)
        self.client.publish_many(works)
        return self._handed_out_many(works, add_to_parent)

    async def asend_many(
        self, works: Iterable[Work], publisher: AsyncPublisher, add_to_parent: bool = True
    ) -> list[AsyncResult[Any]]:
        """As ``send_many``, without blocking the event loop."""
        works = list(works)
        self._expect_many(works)
        await self.client.apublish_many(works, publisher)
        return self._handed_out_many(works, add_to_parent)

    def send_plain_many(
        self, route: PlainRoute, calls: Sequence[tuple[Sequence[Any], Mapping[str, Any]]]
    ) -> list[AsyncResult[Any]]:
        """Send many plain calls of one task in few round trips; see ``send_many``."""
        stencil = self._stencil(route)
        if stencil is None:
            return self.send_many([self.plain_work(route, args, kwargs) for args, kwargs in calls])
        results: list[AsyncResult[Any]] = []
        for first in range(0, len(calls), CHUNK_MESSAGES):
            chunk = calls[first : first + CHUNK_MESSAGES]
            ids = new_ids(len(chunk))
            if self._expect is not None and not route.ignore_result:
                self._expect(ids)
            self.client.send_packed_many(self._filled(route, stencil, ids, chunk), route.options)
            handle, name, ignored = self._handle, route.name, route.ignore_result
            for task_id in ids:
                result = handle(task_id, name)
                result.ignored = ignored
                results.append(result)
        return results

    def _filled(
        self,
        route: PlainRoute,
        stencil: Stencil,
        ids: Sequence[str],
        calls: Sequence[tuple[Sequence[Any], Mapping[str, Any]]],
    ) -> Iterator[Publication]:
        fill, reply_to, destination = stencil.fill, self.identity.thread_oid, route.options.destination
        for task_id, (args, kwargs) in zip(ids, calls, strict=True):
            payload = fill(task_id, args, kwargs, reply_to, task_id)
            if payload is None:
                yield self.client.prepare(self._plain_call(route, args, kwargs, task_id), route.options)
            else:
                yield Publication(destination, payload)

    def plain_work(self, route: PlainRoute, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Work:
        """The work of a call with no options of its own."""
        return Work(self._plain_call(route, args, kwargs, None), route.options)

    def _expect_many(self, works: Sequence[Work]) -> None:
        if self._expect is not None:
            ids = [work.call.id for work in works if not work.call.ignore_result]
            if ids:
                self._expect(ids)

    def _handed_out_many(self, works: Sequence[Work], add_to_parent: bool) -> list[AsyncResult[Any]]:
        if add_to_parent and current() is not None:
            return [self._handed_out(work.call, None, add_to_parent) for work in works]
        results = []
        for work in works:
            result = self._handle(work.call.id, work.call.task)
            result.ignored = work.call.ignore_result
            results.append(result)
        return results

    def _handed_out(self, call: Call, result_cls: Any, add_to_parent: bool) -> AsyncResult[Any]:
        result: AsyncResult[Any] = result_cls(call.id) if result_cls else self._handle(call.id, call.task)
        result.ignored = call.ignore_result
        if add_to_parent and current() is not None:
            parent, context = current_worker_task(), worker_context()
            if parent is not None and context is not None and parent.trail:
                context.children.append(result)
        return result
