"""Commands that keep tasks from running, and end those that run."""

from __future__ import annotations

import logging
import signal as signals
from typing import TYPE_CHECKING, Any, Final

from umbel.core.stamps import as_stamps
from umbel.worker.commands.panel import builtin, nok, ok

if TYPE_CHECKING:
    from collections.abc import Collection

    from umbel.worker.commands.commander import Commander

logger = logging.getLogger("celery.worker.control")


async def _revoke(
    worker: Commander, task_id: Any, terminate: bool = False, signal: Any = None
) -> dict[str, object]:
    task_ids = _ids(task_id)
    number = signal_number(signal) if terminate else 0
    kept = await worker.revocations.keep(task_ids) if worker.unkept else worker.kept_for
    worker.revoked.update(task_ids, kept)
    if kept:
        worker.revocations.search()
    begun = {job.header.id for job in worker.running()}
    if terminate:
        answer = _terminate(worker, task_ids, number)
    else:
        logger.info("Tasks flagged as revoked: %s", ", ".join(task_ids))
        answer = ok(f"tasks {task_ids} flagged as revoked")
    await worker.mark_revoked([task_id for task_id in task_ids if task_id not in begun])
    return answer


def _terminate(worker: Commander, task_ids: Collection[str], number: int) -> dict[str, object]:
    jobs = worker.ledger.find(task_ids)
    undying = worker.terminate(jobs, number, _describe(number))
    if undying:
        return nok(f"terminate: the pool cannot end {', '.join(job.header.id for job in undying)}")
    if not jobs:
        return ok("terminate: tasks unknown")
    return ok(f"terminate: {', '.join(dict.fromkeys(job.header.id for job in jobs))}")


@builtin("control", variadic="task_id", signature="[id1 [id2 [... [idN]]]]")
async def revoke(
    worker: Commander, task_id: Any, terminate: bool = False, signal: Any = None, **_: Any
) -> dict[str, object]:
    """Do not run these tasks, and with ``terminate`` end them where they run."""
    return await _revoke(worker, task_id, terminate, signal)


@builtin("control", variadic="task_id", args=(("signal", str),), signature="<signal> [id1 [id2 [... [idN]]]]")
async def terminate(worker: Commander, signal: Any, task_id: Any, **_: Any) -> dict[str, object]:
    """As revoke, and end the tasks where they run."""
    return await _revoke(worker, task_id, terminate=True, signal=signal)


@builtin("control", variadic="headers", signature="[key1=value1 [key2=value2 [... [keyN=valueN]]]]")
async def revoke_by_stamped_headers(
    worker: Commander, headers: Any, terminate: bool = False, signal: Any = None, **_: Any
) -> dict[str, object]:
    """Do not run tasks that carry one of these stamps."""
    number = signal_number(signal)
    wanted = as_stamps(headers)
    kept = await worker.revocations.keep(stamps=wanted) if worker.unkept else worker.kept_for
    worker.revoked_stamps.add(wanted, kept)
    if not terminate:
        return ok(f"headers {headers} flagged as revoked, but not terminated")
    found = {
        job.seq: matching
        for job in worker.running()
        if (matching := worker.revoked_stamps.matching(job.header.stamps, wanted))
    }
    if not found:
        return ok(f"headers {headers} were not terminated")
    jobs = [job for job in worker.running() if job.seq in found]
    undying = worker.terminate(jobs, number, _describe(number))
    if undying:
        return nok(f"terminate: the pool cannot end {', '.join(job.header.id for job in undying)}")
    ended: dict[str, set[Any]] = {}
    for stamps in found.values():
        for name, values in stamps.items():
            ended.setdefault(name, set()).update(values)
    return ok(f"headers {ended} revoked")


COMMANDS: Final = (revoke, terminate, revoke_by_stamped_headers)


def _ids(task_id: Any) -> list[str]:
    """The ids that an order names, each once. Raises TypeError when they are not text."""
    named = [task_id] if isinstance(task_id, str) else list(task_id or ())
    for each in named:
        if not isinstance(each, str):
            raise TypeError(f"a task id must be text, not {each!r}")
    return list(dict.fromkeys(named))


def signal_number(given: Any) -> int:
    """The number of a signal given by name, with or without SIG, or number; None is TERM.

    Raises ValueError for what is no signal.
    """
    if given is None or given == "":
        return signals.SIGTERM
    try:
        if isinstance(given, int) or str(given).isdecimal():
            return signals.Signals(int(given))
        name = str(given).upper()
        return signals.Signals[name if name.startswith("SIG") else f"SIG{name}"]
    except (KeyError, ValueError):
        raise ValueError(
            f"expected the name or number of a signal, such as TERM or 15, not {given!r}"
        ) from None


def _describe(number: int) -> str:
    return f"Signals.{signals.Signals(number).name}"
