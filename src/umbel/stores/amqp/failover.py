"""Which of several RabbitMQ nodes is connected to next."""

from __future__ import annotations

from umbel.stores.amqp.address import Address
from umbel.stores.failover import Failover as AnyFailover

__all__ = ["Failover"]

#: The addresses of one broker's nodes.
Failover = AnyFailover[Address]
