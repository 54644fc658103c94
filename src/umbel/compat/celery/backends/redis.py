"""Results in Redis."""

from umbel.results.redis import RedisResultBackend as RedisBackend

__all__ = ("RedisBackend", "SentinelBackend")

SentinelBackend = RedisBackend
