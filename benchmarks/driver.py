"""Send tasks and read results in a system's own environment: ``python -m benchmarks.driver SYSTEM COMMAND [JSON]``.

Prints one JSON document on its last line. Standard library only, besides what the system's file imports.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.metadata
import json
import sys
import time
from collections.abc import Callable
from typing import Any

#: What a system's file may have or not.
ABILITIES = (
    "send_bulk",
    "send_by_threads",
    "send_by_coroutines",
    "send_delayed",
    "round_trips",
    "stored_results",
    "workflow",
)

#: Sent before the clock starts: connections are open and caches warm in every system.
WARM_UP = 20


def main(arguments: list[str]) -> None:
    """Run one command."""
    system, command, *rest = arguments
    options: dict[str, Any] = json.loads(rest[0]) if rest else {}
    print(json.dumps(COMMANDS[command](system, **options)), flush=True)


def load(system: str) -> Any:
    """The system's file."""
    return importlib.import_module(f"benchmarks.systems.{system}")


def measure_send(system: str, *, tasks: int, way: str) -> dict[str, float]:
    """Send ``tasks`` tasks by one of the system's functions; seconds and CPU seconds of those after the warm-up."""
    send = getattr(load(system), way)
    send(0, WARM_UP)
    started, cpu = time.perf_counter(), time.process_time()
    send(WARM_UP, tasks - WARM_UP)
    return {
        "sent": tasks - WARM_UP,
        "seconds": time.perf_counter() - started,
        "cpu": time.process_time() - cpu,
    }


def preload(system: str, *, first: int, tasks: int, delay: float = 0.0) -> dict[str, float]:
    """Fill the queue, or the delayed store, in the fastest way that the system has."""
    module = load(system)
    started = time.perf_counter()
    if delay:
        module.send_delayed(first, tasks, delay)
    else:
        getattr(module, "send_bulk", module.send)(first, tasks)
    return {"seconds": time.perf_counter() - started}


def send_waits(system: str, *, tasks: int) -> dict[str, float]:
    """Fill the queue with tasks that wait for a tenth of a second on an event loop."""
    load(system).send_waits(0, tasks)
    return {"sent": tasks}


def send_fetches(system: str, *, tasks: int) -> dict[str, float]:
    """Fill the queue with tasks that make a request each."""
    load(system).send_fetches(0, tasks)
    return {"sent": tasks}


def measure_round_trips(system: str, *, warm_up: int, tasks: int) -> dict[str, Any]:
    """Seconds from sending a task to holding its result, one after the other, on an idle worker."""
    module = load(system)
    module.round_trips(0, warm_up)
    return {"seconds": module.round_trips(warm_up, tasks)}


def measure_workflow(system: str, *, name: str, warm_up: int, tasks: int) -> dict[str, float]:
    """Seconds from making a workflow to holding its value, after some single tasks and a small workflow of its kind."""
    module = load(system)
    single = warm_up // 2
    module.round_trips(0, single)
    module.workflow(name, single, warm_up - single)
    started = time.perf_counter()
    module.workflow(name, warm_up, tasks)
    return {"seconds": time.perf_counter() - started}


def can(system: str) -> dict[str, bool]:
    """What the system's file offers."""
    module = load(system)
    return {name: hasattr(module, name) for name in ABILITIES}


def stored(system: str) -> dict[str, int]:
    """How many results of success are stored."""
    return {"results": load(system).stored_results()}


def measure_import(system: str, *, library: str) -> dict[str, float]:
    """Milliseconds of importing the library in a fresh process, with what programs import from it.

    Celery's package loads its application class on first access; ``from celery import Celery`` pays for it.
    """
    del system
    started = time.perf_counter()
    getattr(importlib.import_module(library), "Celery", None)
    return {"ms": (time.perf_counter() - started) * 1000}


def versions(system: str, *, library: str) -> dict[str, str]:
    """The version of the library and of the Python that runs it."""
    del system
    found = {library: importlib.metadata.version(library)}
    for extra in ("redis", "kombu", "hiredis", "amqp", "pika", "uvloop"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[f"{library}/{extra}"] = importlib.metadata.version(extra)
    return found | {f"{library}/python": sys.version.split()[0]}


COMMANDS: dict[str, Callable[..., dict[str, Any]]] = {
    "send": measure_send,
    "preload": preload,
    "waits": send_waits,
    "fetches": send_fetches,
    "round-trips": measure_round_trips,
    "workflow": measure_workflow,
    "can": can,
    "stored": stored,
    "import": measure_import,
    "versions": versions,
}

if __name__ == "__main__":
    main(sys.argv[1:])
