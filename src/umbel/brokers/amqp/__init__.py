"""RabbitMQ as a broker."""

from umbel.brokers.amqp.broker import AmqpBroker

__all__ = ["AmqpBroker"]
