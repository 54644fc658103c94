"""``--pool solo``: one slot in the worker's own process."""

from __future__ import annotations

from typing import TYPE_CHECKING

from umbel.pools.dispatch import ProcessPool
from umbel.pools.inline import InlineLauncher
from umbel.pools.options import PoolOptions

if TYPE_CHECKING:
    from collections.abc import Callable

    from umbel.pools.base import JobRunner


class SoloPool(ProcessPool):
    """Runs one job at a time in a thread of the worker's process; its loop stays free.

    A job cannot be terminated. A hard limit raises TimeLimitExceeded in the body, a soft one SoftTimeLimitExceeded;
    neither reaches a body that is blocked in C before it comes back. ``size`` above 1 makes as many threads.
    """

    def __init__(
        self,
        runner_factory: Callable[[], JobRunner],
        size: int = 1,
        *,
        start_timeout: float = 60.0,
        brief_seconds: float = 0.002,
    ) -> None:
        options = PoolOptions(
            processes=1,
            slots=size,
            threads=True,
            name="solo",
            start_timeout=start_timeout,
            brief_seconds=brief_seconds,
        )
        super().__init__(options, InlineLauncher(runner_factory))
