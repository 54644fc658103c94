"""``rpc://``: results are sent to their caller as messages instead of being stored anywhere.

A worker sends each state of a task to the queue that the task's message names (``reply_to``), with the documents that
other backends store: one queue for each thread that sends tasks, named by its identifier, as Celery does it. The caller
takes what arrives in its queues from the first time that it asks for a result, and keeps it in memory for whoever asks
later. Results can be read by the process that sent the task, and by no other.

The queue is declared before the task is sent. Celery has its queue deleted as soon as its reader's connection is lost,
with the results in it; ours stays for the next connection, until its process ends or ``result_expires`` passes.
"""

from __future__ import annotations

import asyncio
import atexit
import os
import re
import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from umbel.core.serializers import dumps, loads, registry
from umbel.core.states import FAILURE
from umbel.errors import ContentDisallowed, DecodeError, OperationalError
from umbel.errors import TimeoutError as ResultTimeoutError
from umbel.results.documents import COMPRESSED_MAGIC, DocumentWriter, accepted_types, read_document
from umbel.results.letterbox import Letter, Letterbox
from umbel.results.waiting import task_join_will_block
from umbel.results.watch import Watch
from umbel.stores.replies import Reply

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence

    from umbel.core.records import ChordEnd, DueChord, ResultRecord
    from umbel.results.options import ResultOptions
    from umbel.stores.replies import Collection, ReplyPost

__all__ = ["RpcResultBackend"]

#: A wait no longer than this asks the server whether anything lies in the queues before it gives up.
_IMPATIENT: Final = 0.05
#: Celery's policy for results that cannot be sent: how often to try again, and how many seconds apart.
_RETRIES, _RETRY_DELAY = 20, 1.0
#: How Celery and Umbel begin a JSON document; anything else is decoded to learn its state.
_STATUS: Final = re.compile(rb'\s*\{\s*"status"\s*:\s*"([^"\\]*)"')

_NO_CHORDS: Final = """\
The "rpc" result backend does not support chords!

Note that a group chained with a task is also upgraded to be a chord,
as this pattern requires synchronization.

Result backends that support chords: Redis, SQLite, databases, and more."""


class RpcResultBackend:
    """Results as messages to their caller.

    Args:
        post: carries the messages; replaced by a new one in a child process.
        options: the application's; ``sending`` says which queue is the calling thread's.
    """

    stores_results = True
    native_chords = False
    #: Results travel through no store that a broker could write to in the step that ends a delivery.
    store = ""

    def __init__(self, post: Callable[[], ReplyPost], options: ResultOptions) -> None:
        self.serializer = options.serializer
        self.options = options
        self._form = registry.named(options.serializer)
        self._make_post = post
        self._mail = _Mail(post(), self)
        self._accept = accepted_types(options.serializer, options.accept)

    @classmethod
    def from_url(cls, url: str, options: ResultOptions) -> RpcResultBackend:
        """``rpc://``: through the application's own broker; ``rpc://host/vhost``: through another RabbitMQ.

        Nothing is connected yet. Raises ImproperlyConfigured for a broker that cannot carry results.
        """
        from umbel.results.posts import post_for  # the posts' client libraries take long to import

        return cls(post_for(url, options), options)

    @property
    def display_url(self) -> str:
        """Celery's: the broker's address is in the broker's own line."""
        return "rpc://"

    def expect(self, task_ids: Sequence[str]) -> None:
        """Declare the calling thread's queue. Raises OperationalError without a connection.

        Not in a task, which may not wait for other tasks: nobody would ever take what is sent to it.
        """
        if not task_join_will_block():
            self._own_mail().declare(self._queue())

    def save(self, records: Sequence[ResultRecord]) -> None:
        """Send documents to their callers; a record that names none is dropped, as in Celery.

        Raises OperationalError when that failed for twenty seconds.
        """
        replies = self._replies(records)
        for left in reversed(range(_RETRIES + 1) if replies else ()):
            try:
                self._own_mail().post.send(replies)
                break
            except OperationalError:
                if not left:
                    raise
                time.sleep(_RETRY_DELAY)

    async def asave(self, records: Sequence[ResultRecord]) -> None:
        """As ``save``, but raises OperationalError at once: the worker tries again in its own time."""
        replies = self._replies(records)
        if replies:
            await self._own_mail().post.asend(replies)

    def load(self, task_ids: Sequence[str]) -> list[bytes | None]:
        """What has arrived by now. Raises OperationalError without a connection."""
        mail = self._own_mail()
        if task_ids and self._opened(mail):
            mail.flush()
        return mail.box.get(task_ids)

    async def aload(self, task_ids: Sequence[str]) -> list[bytes | None]:
        """As ``load``."""
        return await asyncio.to_thread(self.load, task_ids)

    def wait(self, task_ids: Iterable[str], timeout: float | None) -> Iterator[tuple[str, bytes]]:
        """As ResultBackend.wait. A lost connection is made again; OperationalError after half a minute without one."""
        watch, changed = Watch(task_ids), threading.Event()
        if not watch.pending:
            return
        mail = self._own_mail()
        slot = mail.box.join(watch.pending, changed.set)
        try:
            self._begin(mail, timeout)
            while watch.pending:
                deadline = None if timeout is None else time.monotonic() + timeout
                while not (news := watch.news(slot.take())):
                    left = None if deadline is None else deadline - time.monotonic()
                    if left is not None and left <= 0:
                        raise ResultTimeoutError(watch.overdue(timeout))
                    changed.wait(left)
                    changed.clear()
                yield from news
        finally:
            mail.box.leave(slot)

    async def await_(
        self, task_ids: Iterable[str], timeout: float | None
    ) -> AsyncIterator[tuple[str, bytes]]:
        """As ``wait``."""
        watch, changed, loop = Watch(task_ids), asyncio.Event(), asyncio.get_running_loop()
        if not watch.pending:
            return

        def wake() -> None:
            if not loop.is_closed():
                loop.call_soon_threadsafe(changed.set)

        mail = self._own_mail()
        slot = mail.box.join(watch.pending, wake)
        try:
            await asyncio.to_thread(self._begin, mail, timeout)
            while watch.pending:
                try:
                    async with asyncio.timeout(timeout):
                        while not (news := watch.news(slot.take())):
                            await changed.wait()
                            changed.clear()
                except TimeoutError:
                    raise ResultTimeoutError(watch.overdue(timeout)) from None
                for item in news:
                    yield item
        finally:
            mail.box.leave(slot)

    def _begin(self, mail: _Mail, timeout: float | None) -> None:
        """Have results arrive; those that lie in the queues have arrived before a short wait can end."""
        mail.open(self._queue())
        if timeout is not None and timeout <= _IMPATIENT:
            mail.flush()

    def _opened(self, mail: _Mail) -> bool:
        """Have results arrive, unless nothing can: a task sends nothing that it could read."""
        if task_join_will_block() and not mail.has_queues:
            return False
        mail.open(self._queue())
        return True

    def forget(self, task_ids: Sequence[str]) -> None:
        """Drop what has arrived of some tasks by now. Raises OperationalError without a connection."""
        mail = self._own_mail()
        if task_ids and self._opened(mail):
            mail.flush()
        mail.box.forget(task_ids)

    def save_group(self, group_id: str, document: bytes) -> None:
        """Refused: nothing is stored. Raises NotImplementedError."""
        raise NotImplementedError("save_group is not supported by this backend.")

    def load_group(self, group_id: str) -> bytes | None:
        """Refused: nothing is stored. Raises NotImplementedError."""
        raise NotImplementedError("restore_group is not supported by this backend.")

    def forget_group(self, group_id: str) -> None:
        """Refused: nothing is stored. Raises NotImplementedError."""
        raise NotImplementedError("delete_group is not supported by this backend.")

    def ensure_chords_allowed(self) -> None:
        """Raise NotImplementedError: see ``open_chord``."""
        raise NotImplementedError(_NO_CHORDS)

    def open_chord(self, group_id: str, size: int) -> None:
        """Refused: who counts a chord cannot read results that were sent to somebody else."""
        raise NotImplementedError(_NO_CHORDS)

    def extend_chord(self, group_id: str, more: int = 1) -> None:
        """Refused, see ``open_chord``."""
        raise NotImplementedError(_NO_CHORDS)

    def chord_entries(self, group_id: str) -> list[bytes]:
        """Refused, see ``open_chord``."""
        raise NotImplementedError(_NO_CHORDS)

    def chord_size(self, group_id: str) -> int:
        """Refused, see ``open_chord``."""
        raise NotImplementedError(_NO_CHORDS)

    async def aclaim_chords(self, realms: Sequence[str], patience: float) -> list[DueChord]:
        """Refused, see ``open_chord``."""
        raise NotImplementedError(_NO_CHORDS)

    async def aend_chords(self, ends: Sequence[ChordEnd]) -> None:
        """Refused, see ``open_chord``."""
        raise NotImplementedError(_NO_CHORDS)

    def close(self) -> None:
        """Stop taking results, and delete this process' queues. Safe twice; the backend may be used again."""
        if self._mail.pid == os.getpid():
            self._mail.close()

    def _own_mail(self) -> _Mail:
        """The process's mail: a child has queues of its own, and must not touch its parent's connections."""
        if self._mail.pid != os.getpid():
            self._mail = _Mail(self._make_post(), self)
        return self._mail

    def _queue(self) -> str:
        reply_to = self.options.sending.reply_to
        assert reply_to is not None, "rpc:// results need to know who calls: SendingOptions.reply_to"
        return reply_to()

    def _replies(self, records: Sequence[ResultRecord]) -> list[Reply]:
        return [self._reply(record) for record in records if record.reply_to and record.document]

    def _reply(self, record: ResultRecord) -> Reply:
        body, compression = record.document, ""
        if body.startswith(COMPRESSED_MAGIC):
            # A message has a header for this; its readers, Celery's too, know nothing of the mark.
            kind, _, body = body[len(COMPRESSED_MAGIC) :].partition(b"\x00")
            compression = kind.decode()
        form = self._form
        return Reply(
            record.reply_to, record.task_id, body, form.content_type, form.content_encoding, compression
        )

    def letter(self, reply: Reply) -> Letter:
        """A reply as a document of this application's serializer, whoever wrote it and how."""
        body = reply.body
        if reply.compression:
            body = COMPRESSED_MAGIC + reply.compression.encode() + b"\x00" + body
        if reply.content_type == self._form.content_type:
            match = _STATUS.match(body)
            if match and reply.task_id:
                return Letter(reply.task_id, match[1].decode(), body)
        try:
            return self._read(reply, body)
        except (ContentDisallowed, DecodeError) as error:
            # Who waits for it must learn that it came, and why it cannot be read.
            writer = DocumentWriter(self.serializer)
            return Letter(reply.task_id, FAILURE, writer.write(reply.task_id, FAILURE, error))

    def _read(self, reply: Reply, body: bytes) -> Letter:
        """Read a document in full. Raises ContentDisallowed or DecodeError."""
        if reply.content_type == self._form.content_type:
            found = read_document(body, self.serializer)
            return Letter(reply.task_id or str(found.get("task_id")), str(found["status"]), body)
        # As it stands, without making its exception: that is for whoever asks for it.
        plain = _plain_body(reply)
        value = loads(plain, reply.content_type, reply.content_encoding, self._accept)
        if not isinstance(value, dict):
            raise DecodeError(f"a result document must be a mapping, not {type(value).__qualname__}")
        _, _, data = dumps(value, self.serializer)
        task_id = reply.task_id or str(value.get("task_id"))
        return Letter(task_id, str(value.get("status")), data if isinstance(data, bytes) else data.encode())


def _plain_body(reply: Reply) -> bytes:
    from umbel.core.compression import decompress  # few results are compressed

    return decompress(reply.body, reply.compression) if reply.compression else reply.body


class _Mail:
    """What one process has: its queues, what takes replies from them, and what has arrived."""

    def __init__(self, post: ReplyPost, backend: RpcResultBackend) -> None:
        self.pid = os.getpid()
        self.post = post
        self.box = Letterbox()
        self._backend = backend
        self._lock = threading.Lock()
        self._declared: dict[str, float] = {}  #: the queues, and when each was declared last
        self._collection: Collection | None = None
        expires = backend.options.expires
        #: An unused queue lives from its last declaration on.
        self._renew_after = expires / 4 if expires else float("inf")

    @property
    def has_queues(self) -> bool:
        """Whether anything can arrive."""
        return bool(self._declared)

    def declare(self, queue: str) -> None:
        """Make the queue, unless it was made lately."""
        if time.monotonic() - self._declared.get(queue, float("-inf")) < self._renew_after:
            return
        with self._lock:
            self._declare(queue)

    def _declare(self, queue: str) -> None:
        if not self._declared:
            atexit.register(self._at_exit)
        self.post.declare(queue)
        if self._collection is not None and self._collection.is_open and queue not in self._declared:
            self._collection.add(queue)
        self._declared[queue] = time.monotonic()

    def open(self, queue: str) -> None:
        """Have everything arrive that is sent to this process."""
        collection = self._collection
        if collection is not None and collection.is_open and queue in self._declared:
            return
        with self._lock:
            if queue not in self._declared:
                self._declare(queue)
            if self._collection is None or not self._collection.is_open:
                self._collection = self.post.collect(list(self._declared), self)

    def flush(self) -> None:
        """Return when all that lay in the queues has arrived."""
        collection = self._collection
        if collection is not None:
            collection.flush()

    def arrived(self, replies: Sequence[Reply]) -> None:
        """As ReplyReceiver.arrived."""
        self.box.put([self._backend.letter(reply) for reply in replies])

    def failed(self, error: Exception) -> None:
        """As ReplyReceiver.failed."""
        self.box.fail(error)

    def close(self) -> None:
        """Stop taking replies and delete the queues: nobody can read them any more. What has arrived is kept."""
        atexit.unregister(self._at_exit)
        with self._lock:
            collection, self._collection = self._collection, None
            queues, self._declared = list(self._declared), {}
            if collection is not None:
                collection.close()
            if queues:
                # Without a connection they are left to expire.
                with suppress(OperationalError):
                    self.post.delete(queues)
            self.post.close()

    def _at_exit(self) -> None:
        if self.pid == os.getpid():
            self.close()
