"""Programs that consume."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import cached_property
from typing import Any

from umbel.client.connection import Consumer
from umbel.errors import OperationalError

__all__ = ("ConsumerMixin", "ConsumerProducerMixin")


class ConsumerMixin:
    """Runs the consumers that ``get_consumers`` gives, until ``should_stop``; connects again after a loss."""

    connection: Any
    connect_max_retries: int | None = None
    should_stop: bool = False

    def get_consumers(self, Consumer: Any, channel: Any) -> Any:
        """The consumers. Subclasses define it."""
        raise NotImplementedError("Subclass responsibility")

    def on_connection_revived(self) -> None:
        """Called when connected again."""

    def on_consume_ready(self, connection: Any, channel: Any, consumers: Any, **kwargs: Any) -> None:
        """Called when messages are taken."""

    def on_consume_end(self, connection: Any, channel: Any) -> None:
        """Called when no more are."""

    def on_iteration(self) -> None:
        """Called between messages, once a second at least."""

    def on_decode_error(self, message: Any, exc: Exception) -> None:
        """Called for what cannot be decoded."""
        message.reject()

    def on_connection_error(self, exc: Exception, interval: float) -> None:
        """Called when the broker cannot be reached."""

    @contextmanager
    def consumer_context(self, **kwargs: Any) -> Iterator[tuple[Any, Any, Any]]:
        """The connection and the consumers, taking messages."""
        with self.connection.clone() as connection, ExitStack() as stack:
            connection.accept = self.connection.accept
            connection.ensure_connection(self.on_connection_error, self.connect_max_retries)
            self.on_connection_revived()

            def make(queues: Any = None, **options: Any) -> Consumer:
                return Consumer(connection, queues, on_decode_error=self.on_decode_error, **options)

            consumers = [stack.enter_context(each) for each in self.get_consumers(make, connection)]
            yield connection, connection, consumers
            self.on_consume_end(connection, connection)

    def run(self, _tokens: int = 1, **kwargs: Any) -> None:
        """Consume until ``should_stop``."""
        while not self.should_stop:
            try:
                for _ in self.consume(limit=None, **kwargs):
                    pass
            except (OperationalError, OSError) as error:
                self.on_connection_error(error, 1.0)
                threading.Event().wait(1.0)

    def consume(
        self, limit: int | None, timeout: float | None = None, safety_interval: float = 1, **kwargs: Any
    ) -> Iterator[None]:
        """Take messages; ``timeout`` seconds without one end it."""
        waited = 0.0
        with self.consumer_context(**kwargs) as (connection, channel, consumers):
            self.on_consume_ready(connection, channel, consumers, **kwargs)
            while not self.should_stop:
                self.on_iteration()
                try:
                    connection.drain_events(timeout=safety_interval)
                except TimeoutError:
                    waited += safety_interval
                    if timeout and waited >= timeout:
                        raise
                else:
                    yield
                    waited = 0.0


class ConsumerProducerMixin(ConsumerMixin):
    """One that also sends, on a connection of its own."""

    @cached_property
    def producer_connection(self) -> Any:
        """That connection."""
        return self.connection.clone()

    @property
    def producer(self) -> Any:
        """A producer on it."""
        return self.producer_connection.Producer()
