"""What ``app.backend`` does with an application: storing states, calling error callbacks, ending chords."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from umbel.core import states
from umbel.core.ids import new_id
from umbel.core.records import ChordEnd, ResultRecord
from umbel.errors import ChordError, TaskRevokedError
from umbel.results.facade import BackendFacade

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from umbel.core.records import DueChord, Publication
    from umbel.execution.context import Context
    from umbel.execution.report import Reporter


class Backend(BackendFacade):
    """The result backend of an application: the contract of ``results.base``, and Celery's methods.

    Workers do not come through Celery's methods: they store, count and acknowledge in one step. What is stored by them
    is stored at once; a chord that becomes complete by them is completed by a worker, within seconds.
    """

    def store_result(
        self,
        task_id: str,
        result: Any,
        state: str,
        traceback: str | None = None,
        request: Any = None,
        **kwargs: Any,
    ) -> Any:
        """Store a task's state; gives the result in the form in which it is stored.

        Raises EncodeError for a result that cannot be written.
        """
        context = _context(request)
        document = self._writer.write(str(task_id), state, result, traceback, context)
        reply_to = context.reply_to if context is not None else None
        self.save([ResultRecord(str(task_id), state, document, reply_to or "")])
        return self.encode_result(result, state)

    def mark_as_started(self, task_id: str, **meta: Any) -> Any:
        """Store STARTED."""
        return self.store_result(task_id, meta, states.STARTED)

    def mark_as_done(
        self,
        task_id: str,
        result: Any,
        request: Any = None,
        store_result: bool = True,
        state: str = states.SUCCESS,
    ) -> None:
        """Store that a task has returned, and count its part of a chord."""
        if store_result and not (request is not None and request.ignore_result):
            self.store_result(task_id, result, state, request=request)
        if request is not None and request.chord:
            self.on_chord_part_return(request, state, result)

    def mark_as_failure(
        self,
        task_id: str,
        exc: BaseException,
        traceback: str | None = None,
        request: Any = None,
        store_result: bool = True,
        call_errbacks: bool = True,
        state: str = states.FAILURE,
    ) -> None:
        """Store that a task has failed, and with it what was to follow; count its part, call its error callbacks."""
        if store_result:
            self.store_result(task_id, exc, state, traceback, request)
        context = _context(request)
        if context is None:
            return
        if context.chord:
            self.on_chord_part_return(context, state, exc)
        self._fail_chain(context.chain, exc, traceback, store_result=store_result, state=state, after=context)
        if call_errbacks and context.errbacks:
            self._call_task_errbacks(context, exc, traceback)

    def mark_as_retry(
        self,
        task_id: str,
        exc: BaseException,
        traceback: str | None = None,
        request: Any = None,
        store_result: bool = True,
        state: str = states.RETRY,
    ) -> Any:
        """Store that a task will be tried again."""
        return self.store_result(task_id, exc, state, traceback, request)

    def mark_as_revoked(
        self,
        task_id: str,
        reason: str = "",
        request: Any = None,
        store_result: bool = True,
        state: str = states.REVOKED,
    ) -> None:
        """Store that a task was revoked, and count its part of a chord."""
        error = TaskRevokedError(reason)
        if store_result:
            self.store_result(task_id, error, state, request=request)
        if request is not None and request.chord:
            self.on_chord_part_return(request, state, error)

    def fail_from_current_stack(self, task_id: str, exc: BaseException | None = None) -> Any:
        """Store the exception that is being handled as a task's failure; gives Celery's ExceptionInfo."""
        # Only programs that look after tasks come here; those that send need nothing of what runs tasks.
        from umbel.core.failures import format_traceback
        from umbel.execution.einfo import ExceptionInfo

        error = exc if exc is not None else sys.exc_info()[1]
        if error is None:
            raise ValueError("fail_from_current_stack: no exception was given, and none is being handled")
        einfo = ExceptionInfo(error, format_traceback(error))
        self.mark_as_failure(task_id, error, einfo.traceback)
        return einfo

    def _fail_chain(
        self,
        chain: Iterable[Mapping[str, Any]] | None,
        exc: BaseException,
        traceback: str | None = None,
        store_result: bool = True,
        state: str = states.FAILURE,
        after: Context | None = None,
    ) -> None:
        if chain:
            reporter = self._reporter()
            context = after if after is not None else _context({})
            assert context is not None
            self.save(reporter.unreached_records(context, chain, state, exc, traceback, stores=store_result))

    def _call_task_errbacks(self, request: Any, exc: BaseException, traceback: str | None) -> None:
        from umbel.execution.links import errbacks_for

        context = _context(request)
        assert context is not None
        self._send(errbacks_for(self.app, context, exc, traceback))

    def _send(self, publications: Sequence[Publication]) -> None:
        for publication in publications:
            self.app.sender.client.send_raw(publication, self.app.conf.broker_publish_timeout)

    def _reporter(self) -> Reporter:
        from umbel.execution.report import Reporter

        return Reporter(self.app, "")

    def current_task_children(self, request: Any = None) -> list[Any] | None:
        """The tuples of the results of the tasks that a request, or the task that runs here, has sent."""
        context = request if request is not None else getattr(self.app.current_task, "request", None)
        return None if context is None else [child.as_tuple() for child in context.children or ()]

    # Chords.

    def ensure_chords_allowed(self) -> None:
        """Raise NotImplementedError where no chord can be completed."""
        check = getattr(self.adapter, "ensure_chords_allowed", None)
        if check is not None:
            check()
        elif not self.stores_results:
            self.adapter.open_chord("", 0)

    def set_chord_size(self, group_id: str, chord_size: int) -> None:
        """Say how many parts a chord has."""
        if self.native_chords:
            self.open_chord(group_id, chord_size)

    def add_to_chord(self, chord_id: str, result: Any) -> None:
        """Have a chord wait for one part more. Raises NotImplementedError where nobody counts."""
        self.extend_chord(chord_id)

    def apply_chord(self, header_result_args: Sequence[Any], body: Any, **kwargs: Any) -> None:
        """Prepare for the parts of a chord to be sent; ``header_result_args`` are those of GroupResult."""
        self.prepare_chord(header_result_args, body, **kwargs)

    def prepare_chord(self, header_result_args: Sequence[Any], body: Any, **kwargs: Any) -> None:
        """As ``apply_chord``, which a class that was written for Celery may replace by a way of counting of its own."""
        self.ensure_chords_allowed()
        group = self.app.GroupResult(*header_result_args)
        if not self.native_chords:
            self.fallback_chord_unlock(group, body, **kwargs)
        elif any(type(member).__name__ == "GroupResult" for member in group.results):
            self.save_group(group.id, group)

    def fallback_chord_unlock(
        self, header_result: Any, body: Any, countdown: float = 1, **kwargs: Any
    ) -> None:
        """Send the task that looks at the results of a chord's parts until all have ended."""
        kwargs["result"] = [result.as_tuple() for result in header_result]
        options = {
            name: body.options[name] for name in ("queue", "priority") if body.options.get(name) is not None
        }
        self.app.tasks["celery.chord_unlock"].apply_async(
            (header_result.id, body), kwargs, countdown=countdown, **options
        )

    def on_chord_part_return(self, request: Any, state: str, result: Any, **kwargs: Any) -> None:
        """Count a part of a chord, once for each task and place."""
        from umbel.execution.chords import PartWriter

        context = _context(request)
        if context is None or not context.id:
            return
        part = PartWriter(self.app, self._writer).counted(context, state, result)
        if part is not None:
            for chord in self.save([ResultRecord(context.id, state, b"", chord=part)]) or ():
                self._complete(chord)

    def _complete(self, chord: DueChord) -> None:
        """Send the body of a chord whose last part was counted here; as after a worker's, who ends it may die before.

        What cannot be read now stays due, and a worker takes it up.
        """
        from umbel.execution.joining import ChordJoiner
        from umbel.pools.base import Work

        queue = chord.realm.partition(":")[2]
        joiner = ChordJoiner(self.app, self._reporter())
        report = joiner.complete(Work(0, chord.body, queue, chord=chord.group_id))
        if report.state == states.RETRY:
            return
        self.save(report.followers)
        self._send(report.publish)
        failed = report.state == states.FAILURE
        self._end_chord(ChordEnd(chord.group_id, chord.token, chord.realm, failed=failed))

    def _end_chord(self, end: ChordEnd) -> None:
        """Forget a due chord, from wherever the program is; the contract has this for workers, in their loop, alone."""
        import asyncio
        from threading import Thread

        async def forget() -> None:
            await self.aend_chords([end])

        ending = Thread(target=asyncio.run, args=(forget(),), name="umbel-chord-end")
        ending.start()
        ending.join()

    def chord_error_from_stack(self, callback: Any, exc: BaseException | None = None) -> None:
        """Have a chord's body fail, with all that waits for it, and call its error callbacks."""
        from umbel.execution.joining import ChordJoiner

        error = exc if exc is not None else sys.exc_info()[1]
        body = dict(callback)
        if not body.get("subtask_type") and not (body.get("options") or {}).get("task_id"):
            callback.options["task_id"] = new_id()
            body = dict(callback)
        context = _context({"id": None})
        assert context is not None
        made = error if isinstance(error, Exception) else ChordError(repr(error))
        report = ChordJoiner(self.app, self._reporter()).fail(0, context, body, made)
        self.save(report.followers)
        self._send(report.publish)

    def cleanup(self) -> None:
        """Delete what has expired, where the store does not do so by itself."""
        clean = getattr(self.adapter, "cleanup", None)
        if clean is not None:
            clean()

    def process_cleanup(self) -> None:
        """Called by Celery's processes after each task; there is nothing to clean."""

    def __reduce__(self) -> tuple[Any, ...]:
        return backend_of, (self.app,)


def backend_of(app: Any) -> Any:
    """The result backend of an application; how one is unpickled."""
    return app.backend


def _context(request: Any) -> Context | None:
    """A request of anybody's making as a context."""
    from umbel.execution.context import Context

    if request is None or isinstance(request, Context):
        return request
    given = request if isinstance(request, dict) else vars(request)
    return Context({"properties": {}, **given})
