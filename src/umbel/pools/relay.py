"""Log records of pool processes, handled in the supervisor's process: for programs that have a worker inside them.

A record travels on the link, before the report of the job that logged it: who waits for a result finds its records in
the log already. It comes as text and numbers. The message is formatted, and so is the traceback; of what else the
record carries, the extra attributes, that which has no msgpack form is sent as its ``repr``.
"""

from __future__ import annotations

import logging
import signal
import sys
import threading
import traceback
from typing import TYPE_CHECKING, Any, Final

import msgspec

from umbel.pools import frames
from umbel.pools.inbox import LinkClosed

if TYPE_CHECKING:
    from umbel.pools.inbox import Outbox

#: Signals whose handlers raise in a pool process.
_RAISING: Final = (signal.SIGALRM, signal.SIGUSR1, signal.SIGTERM)


_PLAIN: Final = (str, int, float, bool, type(None))


class LogRelay(logging.Handler):
    """Sends records to the supervisor."""

    def __init__(self, outbox: Outbox) -> None:
        super().__init__()
        self._outbox = outbox
        self._formatter = logging.Formatter()

    def emit(self, record: logging.LogRecord) -> None:
        """Send one record; nobody is there to be told when it cannot be.

        Signals wait meanwhile: what their handlers raise is for the body, and half a frame must not be left behind.
        """
        in_main_thread = threading.current_thread() is threading.main_thread()
        before = signal.pthread_sigmask(signal.SIG_BLOCK, _RAISING if in_main_thread else ())
        try:
            self._send(record)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def _send(self, record: logging.LogRecord) -> None:
        try:
            body = msgspec.msgpack.encode(self._fields(record), enc_hook=repr)
            self._outbox.send(frames.LOG, msgspec.Raw(body))
        except LinkClosed:
            return
        except Exception:
            self.handleError(record)

    def _fields(self, record: logging.LogRecord) -> dict[str, Any]:
        fields = vars(record).copy()
        if not _is_plain(record.args):
            fields["msg"], fields["args"] = record.getMessage(), None
        if record.exc_info and not record.exc_text:
            fields["exc_text"] = self._formatter.formatException(record.exc_info)
        fields["exc_info"] = None
        return fields


def _is_plain(args: object) -> bool:
    """Whether a line's values go over as they are, so that handlers there still have its text and values apart."""
    return isinstance(args, dict) and all(type(value) in _PLAIN for value in args.values())


def relay_logs(outbox: Outbox, level: int) -> None:
    """Have every record of this process from ``level`` on handled by the supervisor instead.

    Its loggers decide once more there: levels may be changed in the program while the pool runs.
    """
    for logger in list(logging.root.manager.loggerDict.values()):
        if isinstance(logger, logging.Logger):
            logger.handlers[:] = []
            logger.propagate = True
            logger.setLevel(logging.NOTSET)
    logging.root.handlers[:] = [LogRelay(outbox)]
    logging.root.setLevel(level)


def handle_record(body: memoryview) -> None:
    """Hand a record that has come in to the logger of its name."""
    record = logging.makeLogRecord(msgspec.msgpack.decode(body, type=dict[str, Any]))
    logger = logging.getLogger(record.name)
    if not logger.isEnabledFor(record.levelno):
        return
    try:
        logger.handle(record)
    except Exception:
        # As handlers do with what goes wrong in them: it must not end the worker.
        if sys.stderr is not None:
            traceback.print_exc()
