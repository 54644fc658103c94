"""What a settlement publishes and no queue is bound for: said in the worker's log, and kept where somebody looks."""

from __future__ import annotations

import logging

logger = logging.getLogger("umbel.brokers")


def tell_lost(reason: str, queue: str) -> bool:
    """Log it; whether it is to be kept, among the dead letters of ``queue``."""
    if queue:
        logger.error("A message is kept among the dead letters of queue %r: %s", queue, reason)
        return True
    logger.debug("An answer is dropped: %s", reason)
    return False
