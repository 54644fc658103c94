"""Trying again what failed for a reason that may pass, as ``result_backend_always_retry`` asks."""

from __future__ import annotations

import logging
import random
import time
from math import inf
from typing import TYPE_CHECKING, Final, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

    from umbel.results.options import RetryRules

_T = TypeVar("_T")
logger: Final = logging.getLogger("celery.backends")


class Retries:
    """Runs a backend's calls by ``RetryRules``.

    Args:
        rules: the application's.
        always: whether to try again where the rules leave it to the backend.
        limit: how often, likewise.
        passing: the exceptions that may pass.
        lasting: those of them that will not.
        renew: called before each next try, to drop what may be broken.
    """

    def __init__(
        self,
        rules: RetryRules,
        *,
        passing: tuple[type[Exception], ...],
        lasting: tuple[type[Exception], ...] = (),
        always: bool = False,
        limit: float = inf,
        renew: Callable[[], None] | None = None,
    ) -> None:
        self._rules = rules
        always = always if rules.always is None else rules.always
        self._limit = (limit if rules.limit is None else rules.limit) if always else 0
        self._passing = passing
        self._lasting = lasting
        self._renew = renew

    def run(self, call: Callable[[], _T]) -> _T:
        """What ``call`` returns. Raises what it raised last, once it was tried as often as is allowed."""
        tries = 0
        while True:
            try:
                return call()
            except self._passing as error:
                if tries >= self._limit or isinstance(error, self._lasting):
                    raise
                tries += 1
                logger.warning("Result backend: %s. Retrying, attempt %d.", error, tries)
            if self._renew is not None:
                self._renew()
            time.sleep(self._delay(tries))

    def _delay(self, tries: int) -> float:
        """Full jitter: many workers that lost one server must not come back in step."""
        longest = min(self._rules.cap, self._rules.base * 2.0 ** min(tries, 64))
        return random.uniform(0, longest)
