"""What is stored in place of a result that the store will never take: that the task failed by it, and why.

Without it whoever waits would wait for ever, and a worker would try again for ever.
"""

from __future__ import annotations

import logging
from typing import Final

from umbel.core.records import ResultRecord
from umbel.core.states import FAILURE
from umbel.errors import BackendStoreError
from umbel.results.documents import DocumentWriter

__all__ = ["in_place_of"]

logger: Final = logging.getLogger("celery.backends")


def in_place_of(record: ResultRecord, serializer: str, why: object) -> ResultRecord:
    """A FAILURE for a record that was refused, with the reason."""
    size = len(record.document)
    text = f"the result backend refuses the {record.state} of this task, {size} bytes: {why}"
    logger.error("Task %s: %s", record.task_id, text)
    error = BackendStoreError(text, state=record.state, task_id=record.task_id)
    document = DocumentWriter(serializer).write(record.task_id, FAILURE, error)
    return ResultRecord(record.task_id, FAILURE, document, record.reply_to)
