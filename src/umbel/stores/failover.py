"""Which of several addresses is tried next."""

from __future__ import annotations

import random
import threading
from itertools import cycle
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from umbel.errors import ImproperlyConfigured
from umbel.stores.forks import renew_in_children

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

__all__ = ["Failover"]

T = TypeVar("T")


def _shuffled(addresses: Sequence[T]) -> Iterator[T]:
    order = list(addresses)
    while True:
        random.shuffle(order)
        yield from order


_STRATEGIES: dict[str, Callable[[Sequence[Any]], Iterator[Any]]] = {
    "round-robin": cycle,
    "shuffle": _shuffled,
}


class Failover(Generic[T]):
    """The addresses of one broker. All of its connections go to one of them until one of them fails there.

    Safe for use by several threads.

    Args:
        addresses: at least one.
        strategy: ``round-robin`` (None too), ``shuffle``, or a function that makes an endless iterator of them.
    """

    def __init__(self, addresses: Sequence[T], strategy: Any = None) -> None:
        choose = _STRATEGIES.get(strategy or "round-robin") if isinstance(strategy, str | None) else strategy
        if not callable(choose):
            raise ImproperlyConfigured(
                f"broker_failover_strategy: expected one of {', '.join(_STRATEGIES)} or a function, got {strategy!r}"
            )
        make: Callable[[Sequence[T]], Iterator[T]] = choose
        self.addresses = tuple(addresses)
        self._order = make(self.addresses)
        self._lock = threading.Lock()
        renew_in_children(self, _lock=threading.Lock)
        self.current = next(self._order)  #: where the next connection goes

    def failed(self, address: T) -> None:
        """A connection could not be made there, or was lost: the next goes elsewhere."""
        with self._lock:
            if self.current is address:
                self.current = next(self._order, address)
