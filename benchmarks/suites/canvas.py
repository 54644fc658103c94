"""How long whole workflows take, from sending them to their results."""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchmarks.catalogue import CannotMeasureError
from benchmarks.report import Figure

if TYPE_CHECKING:
    from benchmarks.options import Options
    from benchmarks.rig import Rig

#: Workflow → its tasks.
_SIZES = {"group": 10_000, "chord": 1_000, "chain": 200}
_WARM_UP = 20


class Canvas:
    """A group is sent and its results are read, then a chord with a body and a chain, with a worker of two processes.

    Seconds begin before the workflow is made and end when its last value is in the sender's hands; some tasks and a
    small workflow of the same kind go before, which pay for what is imported when it is used first. Tasks of the group
    and of the chord's header are counted by their stamps too: each ran once.
    """

    def __init__(self, options: Options) -> None:
        self._sizes = {name: options.tasks or size for name, size in _SIZES.items()}

    def calibrate(self, rig: Rig) -> None:
        """Refuse a system without workflows."""
        if not rig.abilities["workflow"]:
            raise CannotMeasureError("it has no workflows like Celery's")

    def measure(self, rig: Rig) -> list[Figure]:
        """One worker, one sender, each workflow once."""
        figures = []
        for name, size in self._sizes.items():
            tasks = _WARM_UP + size
            stamps = rig.prepare(tasks)
            with rig.worker() as worker:
                seconds = rig.drive("workflow", name=name, warm_up=_WARM_UP, tasks=size)["seconds"]
                worker.wait_count(tasks)
                rig.verify(stamps, tasks, unstamped=2 * int(name == "chord"))
            figures.append(Figure(f"{name} of {size:,}", "tasks/s", size / seconds))
        return figures
