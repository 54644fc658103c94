"""How long to wait before trying again: a task's back-off, and a publisher's retry policy."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec

from umbel.errors import ImproperlyConfigured

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from random import Random

#: Doubling more often than this is beyond any maximum, and would only make the arithmetic slow.
_MOST_DOUBLINGS: Final = 1000


def backoff(retries: int, factor: float, maximum: float, jitter: Random | None = None) -> float:
    """Seconds to wait before retry number ``retries`` (0 for the first): ``factor * 2**retries``, at most ``maximum``.

    With ``jitter`` it is a whole number drawn evenly from 0 up to that, as Celery draws it, so that tasks that failed
    together do not come back together.
    """
    delay: float = min(maximum, factor * 2 ** min(max(retries, 0), _MOST_DOUBLINGS))
    if jitter is not None:
        delay = float(jitter.randrange(int(delay) + 1)) if delay > 0 else 0.0
    return max(0.0, delay)


class RetryPolicy(msgspec.Struct, frozen=True):
    """How often, and how long apart, a publish is tried again; Celery's ``retry_policy`` with its defaults.

    ``max_retries`` of None tries for ever. Intervals are seconds; each is ``interval_step`` longer than the last, up to
    ``interval_max``.
    """

    max_retries: int | None = 3
    interval_start: float = 0.0
    interval_step: float = 0.2
    interval_max: float = 0.2

    @classmethod
    def from_mapping(cls, options: Mapping[str, object]) -> RetryPolicy:
        """The policy of ``task_publish_retry_policy`` or an option of ``apply_async``.

        Options that only concern kombu's own loop (``errback``, ``timeout``, ``retry_errors``) are left to the caller.
        Raises ImproperlyConfigured for a value that is not a number.
        """
        policy = cls()
        return cls(
            max_retries=_count(options.get("max_retries", policy.max_retries)),
            interval_start=_seconds(options, "interval_start", policy.interval_start),
            interval_step=_seconds(options, "interval_step", policy.interval_step),
            interval_max=_seconds(options, "interval_max", policy.interval_max),
        )

    def interval(self, retries: int) -> float:
        """Seconds to wait before retry number ``retries`` (0 for the first).

        Only whole steps up to ``interval_max`` are taken, as in kombu.
        """
        step = self.interval_step
        steps = min(retries, int(self.interval_max / step)) if step > 0 else 0
        return min(self.interval_start + steps * step, self.interval_max)

    def intervals(self) -> Iterator[float]:
        """The waits, in order; ends when no further try is allowed."""
        retries = 0
        while self.max_retries is None or retries < self.max_retries:
            yield self.interval(retries)
            retries += 1


def _count(value: object) -> int | None:
    if value is None or (isinstance(value, (int, float)) and value >= 0):
        return None if value is None else int(value)
    raise ImproperlyConfigured(
        f"retry policy: max_retries must be a number of retries or None, not {value!r}"
    )


def _seconds(options: Mapping[str, object], name: str, default: float) -> float:
    value = options.get(name)
    if value is None:
        return default
    if isinstance(value, (int, float)) and value >= 0:
        return float(value)
    raise ImproperlyConfigured(f"retry policy: {name} must be seconds, not {value!r}")
