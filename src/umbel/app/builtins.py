"""The tasks that every application has, under Celery's names: what workflows are made of on the other side.

They are defined anew in each application, when it is finalized.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from umbel.canvas.signature import maybe_signature, new_signature, signature
from umbel.errors import ChordError, Retry
from umbel.results.handles import result_from_tuple
from umbel.results.waiting import allow_join_result

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from umbel.app.application import Umbel

__all__ = ["define_builtin_tasks"]

logger = logging.getLogger("celery.app.builtins")


def define_builtin_tasks(app: Umbel) -> None:
    """Register them, where the application has none of their names."""
    for name, function, options in _TASKS:
        if name not in app._tasks:
            app._define_task(function, name=name, bind=True, **options)
    app._tasks["celery.chord_unlock"].default_retry_delay = app.conf.result_chord_retry_interval


def backend_cleanup(self: Any) -> None:
    """Delete results that have expired, in result backends that do not do so themselves."""
    cleanup = getattr(self.backend, "cleanup", None)
    if cleanup is not None:
        cleanup()


def accumulate(self: Any, *args: Any, **kwargs: Any) -> Any:
    """The argument at ``index``, or all: ends a group that has to have one result."""
    index = kwargs.get("index")
    return args if index is None else args[index]


def xmap(self: Any, task: Any, it: Iterable[Any]) -> list[Any]:
    """Call a task with each item."""
    run = signature(task, app=self.app).type
    return [run(item) for item in it]


def xstarmap(self: Any, task: Any, it: Iterable[Sequence[Any]]) -> list[Any]:
    """Call a task with the arguments in each item."""
    run = signature(task, app=self.app).type
    return [run(*item) for item in it]


def chunks(self: Any, task: Any, it: Iterable[Any], n: int) -> Any:
    """Send starmaps of up to ``n`` items each."""
    return new_signature("chunks", signature(task, app=self.app), it, n, app=self.app).apply_async()


def group(
    self: Any,
    tasks: Iterable[Any],
    result: Any,
    group_id: str,
    partial_args: Sequence[Any],
    add_to_parent: bool = True,
) -> Any:
    """Send the tasks of a group whose result was promised, as Celery 3 did."""
    app = self.app
    promised = result_from_tuple(result, app)
    with app.outbox() as outbox:
        for task in tasks:
            outbox.send(
                *_call(maybe_signature(task, app=app).clone(partial_args)),
                {"group_id": group_id, "add_to_parent": False},
            )
        if add_to_parent:
            outbox.remember(promised)
    return promised


def _call(task: Any) -> tuple[Any, Any, Any]:
    return task, task.args, task.kwargs


def chain(self: Any, *args: Any, **kwargs: Any) -> Any:
    """Nothing: a chain is sent as its first task."""
    raise NotImplementedError("chain is not a real task")


def chord(
    self: Any,
    header: Any,
    body: Mapping[str, Any],
    partial_args: Sequence[Any] = (),
    interval: float | None = None,
    countdown: float = 1,
    max_retries: int | None = None,
    eager: bool = False,
    **kwargs: Any,
) -> Any:
    """Send a chord, as Celery 3 did."""
    app = self.app
    tasks = new_signature("group", [maybe_signature(task, app=app) for task in _members(header)], app=app)
    following = maybe_signature(body, app=app)
    made = new_signature("chord", tasks, following, app=app)
    return made.run(tasks, following, partial_args, app, interval, countdown, max_retries, **kwargs)


def _members(header: Any) -> Any:
    return maybe_signature(header).tasks if isinstance(header, dict) else header


def chord_unlock(
    self: Any,
    group_id: str,
    callback: Mapping[str, Any],
    interval: float | None = None,
    max_retries: int | None = None,
    result: Iterable[Any] = (),
    **kwargs: Any,
) -> None:
    """Look whether the parts of a chord have ended; then send its body, or have it fail with their reason.

    Otherwise it is tried again. This is how chords go on where the result backend does not count their parts.

    Args:
        group_id: the id of the chord's header.
        callback: the chord's body.
        interval: seconds until the next look; None: ``result_chord_retry_interval``.
        max_retries: how many looks there are; None: as many as it takes.
        result: the parts' results, as tuples.
        kwargs: as Celery's, not used.
    """
    app = self.app
    parts = app.GroupResult(group_id, [result_from_tuple(each, app) for each in result])
    again = {
        "countdown": self.default_retry_delay if interval is None else interval,
        "max_retries": max_retries,
    }
    try:
        _wait(self, parts, again)
    except Retry:
        raise
    except Exception as error:
        _fail(self, callback, ChordError(f"chord_unlock could not be retried: {error!r}"), error)
        raise
    try:
        with allow_join_result():
            values = parts.join(timeout=app.conf.result_chord_join_timeout, propagate=True)
    except Exception as error:
        culprit = next((part for part in parts._leaves() if part.failed() or part.state == "REVOKED"), None)
        reason = repr(error) if culprit is None else f"Dependency {culprit.id} raised {error!r}"
        logger.exception("Chord %r raised: %r", group_id, error)  # noqa: TRY401 -- Celery's words
        _fail(self, callback, ChordError(reason), error)
        return
    try:
        maybe_signature(callback, app=app).delay(values)
    except Exception as error:
        logger.exception("Chord %r raised: %r", group_id, error)  # noqa: TRY401 -- Celery's words
        _fail(self, callback, ChordError(f"Callback error: {error!r}"), error)


def _wait(task: Any, parts: Any, again: dict[str, Any]) -> None:
    try:
        ready = parts.ready()
    except Exception as error:
        raise task.retry(exc=error, **again) from error
    if not ready:
        raise task.retry(**again)


def _fail(task: Any, body: Mapping[str, Any], error: ChordError, cause: Exception) -> None:
    """Store that the chord's body has failed, and what waits for it, and call its error callbacks."""
    # Only a worker comes here: programs that send need nothing of what runs tasks.
    from umbel.execution.joining import ChordJoiner
    from umbel.execution.report import Reporter

    app = task.app
    error.__cause__ = cause
    joiner = ChordJoiner(app, Reporter(app, task.request.hostname or ""))
    report = joiner.fail(0, task.request, body, error)
    if report.followers:
        app.backend.save(report.followers)
    for publication in report.publish:
        app.sender.client.send_raw(publication, app.conf.broker_publish_timeout)


#: The only one that looks for a chord's parts must not be lost with its worker, whatever the application's tasks are.
_OF_UNLOCKING: dict[str, Any] = {
    "max_retries": None,
    "ignore_result": True,
    "acks_late": True,
    "reject_on_worker_lost": True,
}

_TASKS: tuple[tuple[str, Any, dict[str, Any]], ...] = (
    ("celery.backend_cleanup", backend_cleanup, {}),
    ("celery.accumulate", accumulate, {}),
    ("celery.map", xmap, {}),
    ("celery.starmap", xstarmap, {}),
    ("celery.chunks", chunks, {}),
    ("celery.group", group, {}),
    ("celery.chain", chain, {}),
    ("celery.chord", chord, {"ignore_result": False}),
    ("celery.chord_unlock", chord_unlock, _OF_UNLOCKING),
)
