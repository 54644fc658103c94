"""Completing a chord: its parts have all ended, and its body is sent, or fails with their reasons."""

from __future__ import annotations

import logging
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Final, cast

from umbel.core import states
from umbel.core.failures import format_traceback
from umbel.core.protocol import peek
from umbel.errors import BackendError, ChordError, OperationalError
from umbel.execution.chords import HeaderResults, read_plan, unreached
from umbel.execution.context import Context
from umbel.execution.ids import derived_id
from umbel.execution.links import errbacks_for, links_for
from umbel.pools.base import Report
from umbel.results.handles import AsyncResult, GroupResult

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from umbel.execution.job import ExecutionApp, RunnableTask
    from umbel.execution.report import Reporter
    from umbel.pools.base import Work

logger = logging.getLogger("celery.app.trace")

#: What ``links_for`` is told that the body follows: no task of this process has it in its trail.
_HEADER: Final = cast("RunnableTask", SimpleNamespace(name="celery.chord", trail=False))


class ChordJoiner:
    """Completes chords for one application: makes the publications of a body, or the records of its failure.

    Nothing is sent or stored here; the supervisor settles the report in the step that ends the chord.
    """

    def __init__(self, app: ExecutionApp, reporter: Reporter) -> None:
        self._app = app
        self._reporter = reporter
        self._results = HeaderResults(app)
        self._inherit_priority = app.conf.task_inherit_parent_priority

    def complete(self, work: Work) -> Report:
        """The report of a due chord: SUCCESS with its body's publications, or FAILURE with its records.

        RETRY says that the results could not be read now: the chord stays due, if it is.
        """
        group_id = work.chord
        body: Mapping[str, Any] = {}
        context = Context(properties={})
        try:
            plan = read_plan(work.payload, self._app.accept)
            body, context = plan["body"], _context(plan, work.queue)
            return self._sent(work.seq, context, body, self._results.read(group_id, str(plan["parent_id"])))
        except (OperationalError, BackendError) as error:
            return Report(work.seq, states.RETRY, "ack", 0.0, error=repr(error))
        except ChordError as error:
            logger.exception("Chord %r raised: %r", group_id, error)  # noqa: TRY401 - Celery's words
            return self.fail(work.seq, context, body, error)
        except Exception as error:
            logger.exception("Chord %r raised: %r", group_id, error)  # noqa: TRY401 - Celery's words
            return self.fail(work.seq, context, body, _caused(f"Join error: {error!r}", error))

    def _sent(self, seq: int, context: Context, body: Mapping[str, Any], values: list[Any]) -> Report:
        context.callbacks = [body]
        try:
            publish = links_for(self._app, _HEADER, context, values, self._inherit_priority)
        except (OperationalError, BackendError):
            raise
        except Exception as error:
            raise _caused(f"Callback error: {error!r}", error) from error
        return Report(seq, states.SUCCESS, "ack", 0.0, publish=publish)

    def fail(self, seq: int, context: Context, body: Mapping[str, Any], error: Exception) -> Report:
        """FAILURE for all that waits for the body, and its error callbacks. ``context`` is of what the body follows."""
        report = Report(seq, states.FAILURE, "ack", 0.0, error=repr(error))
        # As in Celery, the members of a group get the part's own error: they never knew of a chord.
        is_group = body.get("subtask_type") == "group"
        told: BaseException = (error.__cause__ or error) if is_group else error
        traceback = format_traceback(told)
        children: dict[str, list[Any]] = {}
        try:
            for task_id, step, errbacks in _waiting(body):
                request = _failed_request(context, task_id, step, errbacks, self._reporter.hostname)
                publish = errbacks_for(self._app, request, told, traceback)
                report.publish += publish
                if publish:
                    # As in Celery, who waits for the body finds its error callbacks as its children.
                    results: list[Any] = [
                        AsyncResult(peek(publication.payload).id) for publication in publish
                    ]
                    children[task_id] = [GroupResult(derived_id(task_id, "errbacks"), results)]
        except Exception as second:
            logger.critical("Cannot call the error callbacks of a chord: %r", second, exc_info=second)
        try:
            report.followers = self._reporter.unreached_records(
                context,
                [body],
                states.FAILURE,
                told,
                traceback,
                stores=self._app.backend.stores_results,
                children=children,
            )
        except Exception as second:
            # A body that cannot be read names nobody who could be told.
            logger.critical("Cannot tell of a chord that failed: %r", second, exc_info=second)
        return report


def _failed_request(
    context: Context, task_id: str, step: Mapping[str, Any], errbacks: list[Any], hostname: str
) -> Context:
    """What error callbacks are told of a task that never ran."""
    return Context(
        id=task_id,
        task=step.get("task"),
        args=step.get("args"),
        kwargs=step.get("kwargs"),
        errbacks=errbacks,
        parent_id=context.id,
        root_id=context.root_id,
        properties={},
        delivery_info={},
        hostname=hostname,
    )


def _context(plan: Mapping[str, Any], queue: str) -> Context:
    """What the body follows: the last of the parts."""
    return Context(
        id=plan["parent_id"],
        root_id=plan.get("root_id"),
        properties={},
        delivery_info={"priority": plan.get("priority")},
        _queue=queue,
    )


def _caused(message: str, error: Exception) -> ChordError:
    made = ChordError(message)
    made.__cause__ = error
    return made


def _waiting(
    body: Mapping[str, Any], inherited: Sequence[Any] = ()
) -> list[tuple[str, Mapping[str, Any], list[Any]]]:
    """Of a body that will not run, whose error callbacks are called: (task id, signature, error callbacks).

    Those of a group are called for each of its members, those of a chain, or a chord, once. What the body of an outer
    chord has too is left to that: it fails of this failure, and ``chord.link_error`` links to both.
    """
    kwargs = body.get("kwargs") or {}
    errbacks = _merged(_errbacks_of(body), inherited)
    match body.get("subtask_type"):
        case "group":
            return [found for member in kwargs.get("tasks") or () for found in _waiting(member, errbacks)]
        case "chord" if kwargs.get("body"):
            return _waiting(kwargs["body"], errbacks)
        case "chain" if kwargs.get("tasks"):
            errbacks = _merged(_errbacks_of(kwargs["tasks"][0]), errbacks)
    return _called_for(body, errbacks)


def _called_for(
    body: Mapping[str, Any], errbacks: list[Any]
) -> list[tuple[str, Mapping[str, Any], list[Any]]]:
    reached = list(unreached([body]))
    outer = [told for _, options in reached for told in _errbacks_of(options.get("chord") or {})]
    errbacks = [each for each in errbacks if _essence(each) not in map(_essence, outer)]
    return [(reached[0][0], body, errbacks)] if reached and errbacks else []


def _essence(signature: Mapping[str, Any]) -> tuple[Any, ...]:
    """What an error callback does; where it goes and what it is called may differ."""
    return signature.get("task"), list(signature.get("args") or ()), dict(signature.get("kwargs") or {})


def _errbacks_of(signature: Mapping[str, Any]) -> list[Any]:
    given = (signature.get("options") or {}).get("link_error")
    if given is None:
        return []
    return list(given) if isinstance(given, (list, tuple)) else [given]


def _merged(first: Sequence[Any], second: Sequence[Any]) -> list[Any]:
    return [*first, *(each for each in second if each not in first)]
