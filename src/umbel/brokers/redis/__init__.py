"""The Redis and Valkey broker."""

from umbel.brokers.redis.broker import RedisBroker

__all__ = ["RedisBroker"]
