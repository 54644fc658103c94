"""One attempt at an async task on a loop that many jobs share: ``run.run_task``, awaited."""

from __future__ import annotations

import asyncio
from time import perf_counter
from typing import TYPE_CHECKING, Any

from umbel.core.outcome import Succeeded
from umbel.execution.context import pop, push
from umbel.execution.run import classify, conclude, drop_own_frame, send_postrun
from umbel.signals import task_postrun, task_prerun

if TYPE_CHECKING:
    from umbel.core.outcome import Outcome
    from umbel.execution.context import Context
    from umbel.execution.job import RunnableTask
    from umbel.execution.run import Recorder
    from umbel.pools.base import AsyncSlot


async def arun_task(
    task: RunnableTask,
    context: Context,
    args: Any,
    kwargs: Any,
    recorder: Recorder,
    slot: AsyncSlot,
    soft_limit: float | None,
) -> Outcome:
    """Run one attempt and say how it ended, as ``run_task``. CancelledError comes through when the job is terminated.

    Handlers and signal receivers are called on the loop; those that block belong to plain tasks.
    """
    push(task, context)
    outcome: Outcome | None = None
    try:
        if task_prerun.receivers:
            task_prerun.send(sender=task, task_id=context.id, task=task, args=args, kwargs=kwargs)
        if task.track_started:
            await slot.in_thread(lambda: recorder.started(task, context))
        begun = perf_counter()
        outcome = await aperform(task, context, args, kwargs, slot, soft_limit)
        outcome = conclude(task, context, outcome, recorder, perf_counter() - begun)
        return outcome
    finally:
        try:
            if task_postrun.receivers:
                send_postrun(task, context, outcome)
        finally:
            pop()
            # A traceback keeps this frame: what it holds would keep the error, and the error its traceback.
            del outcome


async def aperform(
    task: RunnableTask, context: Context, args: Any, kwargs: Any, slot: AsyncSlot, soft_limit: float | None
) -> Outcome:
    """Await the body and turn its ending into a value."""
    try:
        if "before_start" in task._hooks:
            task.before_start(context.id, args, kwargs)
        coroutine = task(*args, **kwargs) if task.custom_call else task.run(*args, **kwargs)
        return Succeeded(await slot.run(coroutine, soft_limit))
    except (SystemExit, KeyboardInterrupt):
        raise
    except BaseException as error:
        if slot.terminated and isinstance(error, asyncio.CancelledError):
            raise
        drop_own_frame(error)
        return classify(error, task, context)
