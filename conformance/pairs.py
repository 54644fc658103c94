"""The servers of a pair of broker and result backend, private and emptied between files."""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Final

from tests.support.rabbitmq import RabbitMqServer
from tests.support.servers import RedisServer

if TYPE_CHECKING:
    from collections.abc import Iterator

PAIRS: Final = ("redis+redis", "rabbitmq+redis", "rabbitmq+rpc")


class Servers:
    """What runs for one pair."""

    def __init__(self, pair: str, stack: ExitStack) -> None:
        self.pair = pair
        # Tests and tasks talk to a Redis of their own, whatever the pair.
        self.redis = stack.enter_context(RedisServer())
        self.rabbitmq = stack.enter_context(RabbitMqServer()) if pair.startswith("rabbitmq") else None

    def environment(self) -> dict[str, str]:
        """The variables by which the suite finds the servers."""
        redis = self.redis.url()
        return {
            "TEST_BROKER": redis if self.rabbitmq is None else self.rabbitmq.url(),
            "TEST_BACKEND": "rpc" if self.pair.endswith("rpc") else redis,
            "REDIS_HOST": "127.0.0.1",
            "REDIS_PORT": str(self.redis.port),
            "WORKER_LOGLEVEL": "INFO",
        }

    def empty(self) -> None:
        """Leave nothing of one file to the next."""
        self.redis.flush()
        if self.rabbitmq is not None:
            self.rabbitmq.kill9()
            self.rabbitmq.restart()


@contextmanager
def servers(pair: str) -> Iterator[Servers]:
    """The servers of a pair, for the time of the block."""
    with ExitStack() as stack:
        yield Servers(pair, stack)
