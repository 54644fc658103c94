"""Commands that change how a worker works: limits, the size of its pool, its queues, its end."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, Final

from umbel.worker.commands.panel import builtin, nok, ok
from umbel.worker.rates import parse_rate

if TYPE_CHECKING:
    from umbel.worker.commands.commander import Commander

logger = logging.getLogger("celery.worker.control")

_SCALED: Final = "the pool is scaled with the work: change the bounds with autoscale"


@builtin(
    "control",
    args=(("task_name", str), ("rate_limit", str)),
    signature="<task_name> <rate_limit (e.g., 5/s | 5/m | 5/h)>",
)
async def rate_limit(worker: Commander, task_name: str, rate_limit: Any, **_: Any) -> dict[str, object]:
    """Change how many tasks of a name may begin here in a time."""
    try:
        parse_rate(rate_limit)
    except ValueError as error:
        return nok(f"Invalid rate limit string: {error!r}")
    task = worker.app.tasks.get(task_name)
    if task is None:
        logger.error("Rate limit attempt for unknown task %s", task_name)
        return nok("unknown task")
    task.rate_limit = rate_limit or None
    worker.rates.set(task_name, rate_limit)
    if not rate_limit:
        logger.info("Rate limits disabled for tasks of type %s", task_name)
        return ok("rate limit disabled successfully")
    logger.info("New rate limit for tasks of type %s: %s.", task_name, rate_limit)
    return ok("new rate limit set successfully")


@builtin(
    "control",
    args=(("task_name", str), ("soft", float), ("hard", float)),
    signature="<task_name> <soft_secs> [hard_secs]",
)
async def time_limit(
    worker: Commander,
    task_name: str = "",
    hard: float | None = None,
    soft: float | None = None,
    **_: Any,
) -> dict[str, object]:
    """Change the time limits of the tasks of a name."""
    task = worker.app.tasks.get(task_name)
    if task is None:
        logger.error("Change time limit attempt for unknown task %s", task_name)
        return nok("unknown task")
    task.soft_time_limit, task.time_limit = soft, hard
    # The pool's processes have not heard of it: every job has to come by here from now on.
    worker.intake.runs_on = False
    logger.info("New time limits for tasks of type %s: soft=%s hard=%s", task_name, soft, hard)
    return ok("time limits set successfully")


@builtin("control", args=(("n", int),), signature="[N=1]")
async def pool_grow(worker: Commander, n: int = 1, **_: Any) -> dict[str, object]:
    """Let the pool run n more tasks at a time."""
    if worker.scaling is not None:
        return nok(_SCALED)
    await _resize(worker, n)
    return ok("pool will grow")


@builtin("control", args=(("n", int),), signature="[N=1]")
async def pool_shrink(worker: Commander, n: int = 1, **_: Any) -> dict[str, object]:
    """Let the pool run n fewer tasks at a time; what runs goes on."""
    if worker.scaling is not None:
        return nok(_SCALED)
    await _resize(worker, -n)
    return ok("pool will shrink")


async def _resize(worker: Commander, more: int) -> None:
    size = worker.pool.size + more
    if size < 1:
        raise ValueError(f"the pool has {worker.pool.size} slot(s) and needs one at least")
    await worker.pool.resize(size)
    worker.intake.made_room()


@builtin("control")
async def pool_restart(
    worker: Commander, modules: Any = None, reload: bool = False, reloader: Any = None, **_: Any
) -> dict[str, object]:
    """Replace the pool's processes."""
    if not worker.app.conf.worker_pool_restarts:
        raise ValueError("Pool restarts not enabled")
    if modules or reload:
        raise ValueError(
            "modules are loaded once for all pool processes: restart the worker to load them anew"
        )
    worker.pool.restart()
    return ok("reload started")


@builtin("control", args=(("max", int), ("min", int)), signature="[max [min]]")
async def autoscale(worker: Commander, max: Any = None, min: Any = None, **_: Any) -> dict[str, object]:
    """Change the bounds of the autoscaler."""
    if worker.scaling is None:
        raise ValueError("Autoscale not enabled")
    most, fewest = await worker.scaling.update(
        None if max is None else int(max), None if min is None else int(min)
    )
    return ok(f"autoscale now max={most} min={fewest}")


@builtin("control")
async def enable_events(worker: Commander, **_: Any) -> dict[str, object]:
    """Send events about tasks."""
    if worker.events is None:
        return nok("event dispatcher unavailable")
    if worker.events.tasks:
        return ok("task events already enabled")
    worker.events.tasks = True
    logger.info("Events of group {task} enabled by remote.")
    return ok("task events enabled")


@builtin("control")
async def disable_events(worker: Commander, **_: Any) -> dict[str, object]:
    """Send no events about tasks."""
    if worker.events is None:
        return nok("event dispatcher unavailable")
    if not worker.events.tasks:
        return ok("task events already disabled")
    worker.events.tasks = False
    logger.info("Events of group {task} disabled by remote.")
    return ok("task events disabled")


@builtin("control")
async def heartbeat(worker: Commander, **_: Any) -> None:
    """Send a heartbeat event now; monitors ask for it when they start."""
    if worker.events is not None:
        worker.events.watched()


@builtin("control")
async def election(worker: Commander, id: str, topic: str, action: Any = None, **_: Any) -> None:
    """Hold an election among the workers: who wins it carries out an action."""
    if worker.elections is not None:
        worker.elections.stand(id, topic, action)


@builtin(
    "control",
    args=(("queue", str), ("exchange", str), ("exchange_type", str), ("routing_key", str)),
    signature="<queue> [exchange [type [routing_key]]]",
)
async def add_consumer(
    worker: Commander,
    queue: str,
    exchange: str | None = None,
    exchange_type: str | None = None,
    routing_key: str | None = None,
    **options: Any,
) -> dict[str, object]:
    """Take from a queue too."""
    if queue in worker.intake.plan.queues:
        return ok(f"already consuming from {queue!r}")
    known = worker.app.amqp.queues
    if queue in known and not exchange:
        known.select_add(known[queue])
    else:
        known.select_add(
            queue,
            exchange=exchange or queue,
            exchange_type=exchange_type or "direct",
            routing_key=routing_key or queue,
            **options,
        )
    worker.app.broker.declare(known.bindings(), known.definitions())
    worker.intake.take_from((*worker.intake.plan.queues, queue))
    logger.info("Started consuming from %s", queue)
    return ok(f"add consumer {queue}")


@builtin("control", args=(("queue", str),), signature="<queue>")
async def cancel_consumer(worker: Commander, queue: str, **_: Any) -> dict[str, object]:
    """Take from a queue no more."""
    worker.app.amqp.queues.deselect(queue)
    worker.intake.take_from(tuple(name for name in worker.intake.plan.queues if name != queue))
    logger.info("Canceled queue %s", queue)
    return ok(f"no longer consuming from {queue}")


@builtin("control")
async def shutdown(worker: Commander, msg: str = "Got shutdown from remote", **_: Any) -> None:
    """Stop as on TERM."""
    logger.warning("%s", msg)
    worker.shut_down()


COMMANDS: Final = (
    rate_limit,
    time_limit,
    pool_grow,
    pool_shrink,
    pool_restart,
    autoscale,
    enable_events,
    disable_events,
    heartbeat,
    election,
    add_consumer,
    cancel_consumer,
    shutdown,
)
