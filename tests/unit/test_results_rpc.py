"""Results on their way to their caller: the letterbox, and replies of every form that a worker may write."""

from __future__ import annotations

import json
import pickle
import zlib
from collections.abc import Sequence

import msgspec
import pytest

from umbel.core.records import ResultRecord
from umbel.core.states import FAILURE, STARTED, SUCCESS
from umbel.errors import ImproperlyConfigured, OperationalError
from umbel.results.documents import DocumentWriter, read_document
from umbel.results.letterbox import Letter, Letterbox
from umbel.results.options import ResultOptions, SendingOptions
from umbel.results.posts import post_for
from umbel.results.rpc import RpcResultBackend
from umbel.results.waiting import denied_join_result
from umbel.stores.replies import Reply


class Pigeon:
    """A post that keeps what it is given."""

    display_url = "pigeon://"

    def __init__(self) -> None:
        self.declared: list[str] = []
        self.sent: list[Reply] = []
        self.failures = 0

    def declare(self, queue: str) -> None:
        self.declared.append(queue)

    def send(self, replies: Sequence[Reply]) -> None:
        if self.failures:
            self.failures -= 1
            raise OperationalError("the pigeon is lost")
        self.sent += replies

    async def asend(self, replies: Sequence[Reply]) -> None:
        self.send(replies)

    def delete(self, queues: Sequence[str]) -> None:
        self.declared = [queue for queue in self.declared if queue not in queues]

    def collect(self, queues, receiver):
        raise AssertionError("nothing is read here")

    def close(self) -> None:
        pass


@pytest.fixture
def pigeon() -> Pigeon:
    return Pigeon()


def backend(pigeon: Pigeon, **options) -> RpcResultBackend:
    given = {"sending": SendingOptions(reply_to=lambda: "mine"), **options}
    return RpcResultBackend(lambda: pigeon, ResultOptions(**given))


def reply(body: bytes, content_type: str = "application/json", encoding: str = "utf-8", **more) -> Reply:
    return Reply("mine", "id", body, content_type, encoding, **more)


DOCUMENT = {"status": "SUCCESS", "result": [1, "é"], "traceback": None, "children": [], "task_id": "id"}


def test_the_latest_of_each_task_is_kept() -> None:
    box = Letterbox()
    box.put([Letter("a", STARTED, b"1"), Letter("a", SUCCESS, b"2"), Letter("a", FAILURE, b"3")])
    assert box.get(["a", "b"]) == [b"2", None]
    box.forget(["a"])
    box.put([Letter("a", FAILURE, b"4")])
    assert box.get(["a"]) == [b"4"]


def test_the_oldest_are_dropped_with_a_word(caplog: pytest.LogCaptureFixture) -> None:
    box = Letterbox(capacity=2)
    for name in "abcd":
        box.put([Letter(name, SUCCESS, b"")])
    assert box.get("abcd") == [None, None, b"", b""]
    assert caplog.text.count("the oldest are dropped") == 1


def test_those_who_wait_get_what_was_there_and_what_comes() -> None:
    box, woken = Letterbox(), []
    box.put([Letter("a", SUCCESS, b"1")])
    slot = box.join(["a", "b", "b"], lambda: woken.append(1))
    assert (slot.take(), woken) == ([Letter("a", SUCCESS, b"1")], [1])
    box.put([Letter("b", STARTED, b"2"), Letter("c", SUCCESS, b"3")])
    assert slot.take() == [Letter("b", STARTED, b"2")]
    box.put([Letter("b", SUCCESS, b"4")])
    box.fail(OperationalError("gone"))
    assert slot.take() == [Letter("b", SUCCESS, b"4")]
    with pytest.raises(OperationalError, match="gone"):
        slot.take()
    assert box.is_awaited
    box.leave(slot)
    assert not box.is_awaited


def test_a_reply_carries_what_celery_reads(pigeon: Pigeon) -> None:
    document = DocumentWriter().write("id", SUCCESS, 7)
    backend(pigeon).save([ResultRecord("id", SUCCESS, document, "theirs")])
    assert pigeon.sent == [Reply("theirs", "id", document, "application/json", "utf-8")]


def test_what_names_no_caller_or_stores_nothing_is_not_sent(pigeon: Pigeon) -> None:
    backend(pigeon).save([ResultRecord("id", SUCCESS, b"{}"), ResultRecord("id", SUCCESS, b"", "theirs")])
    assert pigeon.sent == []


def test_a_compressed_document_says_so_in_a_header(pigeon: Pigeon) -> None:
    sender = backend(pigeon, compression="gzip")
    document = DocumentWriter("json", "gzip").write("id", SUCCESS, "x" * 1000)
    sender.save([ResultRecord("id", SUCCESS, document, "mine")])
    (sent,) = pigeon.sent
    assert sent.compression == "application/x-gzip"
    assert json.loads(zlib.decompress(sent.body))["result"] == "x" * 1000
    letter = sender.letter(sent)
    assert (letter.state, read_document(letter.document)["result"]) == (SUCCESS, "x" * 1000)


def test_it_tries_again_what_could_not_be_sent(pigeon: Pigeon, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("umbel.results.rpc._RETRY_DELAY", 0)
    pigeon.failures = 20
    backend(pigeon).save([ResultRecord("id", SUCCESS, b"{}", "theirs")])
    assert len(pigeon.sent) == 1
    pigeon.failures = 21
    with pytest.raises(OperationalError, match="the pigeon is lost"):
        backend(pigeon).save([ResultRecord("id", SUCCESS, b"{}", "theirs")])


@pytest.mark.parametrize("task_id", ["id", ""])
def test_a_document_of_another_serializer_is_read_where_it_is_accepted(pigeon: Pigeon, task_id: str) -> None:
    packed = msgspec.msgpack.encode(DOCUMENT)
    reader = backend(pigeon, accept=("json", "msgpack"))
    letter = reader.letter(reply(packed, "application/x-msgpack", "binary")._replace(task_id=task_id))
    assert (letter.task_id, letter.state) == ("id", SUCCESS)
    assert read_document(letter.document)["result"] == [1, "é"]


def test_what_may_not_be_read_arrives_as_a_failure_that_says_so(pigeon: Pigeon) -> None:
    letter = backend(pigeon).letter(reply(pickle.dumps(DOCUMENT), "application/x-python-serialize", "binary"))
    assert (letter.task_id, letter.state) == ("id", FAILURE)
    assert "pickle" in str(read_document(letter.document)["result"])


@pytest.mark.parametrize("body", [b"", b"[]", b"\xff", b'{"status"'])
def test_what_is_no_document_arrives_as_a_failure(pigeon: Pigeon, body: bytes) -> None:
    letter = backend(pigeon).letter(reply(body))
    assert (letter.task_id, letter.state) == ("id", FAILURE)


def test_the_queue_is_made_before_a_task_is_sent_but_not_in_a_task(pigeon: Pigeon) -> None:
    asking = backend(pigeon)
    with denied_join_result():
        asking.expect(["id"])
        assert asking.load(["id"]) == [None]
    assert pigeon.declared == []
    asking.expect(["id"])
    asking.expect(["id"])
    assert pigeon.declared == ["mine"]
    asking.close()
    assert pigeon.declared == []


def test_chords_and_saved_groups_are_refused_in_celerys_words(pigeon: Pigeon) -> None:
    refusing = backend(pigeon)
    assert not refusing.native_chords
    with pytest.raises(NotImplementedError, match='The "rpc" result backend does not support chords!'):
        refusing.open_chord("group", 2)
    with pytest.raises(NotImplementedError, match='The "rpc" result backend does not support chords!'):
        refusing.ensure_chords_allowed()
    with pytest.raises(NotImplementedError, match="save_group is not supported by this backend"):
        refusing.save_group("group", b"{}")


@pytest.mark.parametrize(
    ("broker", "url", "where"),
    [
        ("amqp://me:secret@one//", "rpc://", "amqp://me:**@one:5672//"),
        ("redis://:secret@one/3", "rpc://", "redis://:**@one:6379/3"),
        ("redis://one/3", "rpc://me:secret@two:1/three", "amqp://me:**@two:1/three"),
        (("amqp://one", "amqp://two"), "rpc://", "amqp://guest:**@one:5672//"),
    ],
)
def test_it_goes_through_the_broker_or_the_rabbitmq_it_names(broker, url, where) -> None:
    options = ResultOptions(sending=SendingOptions(urls=broker))
    assert post_for(url, options)().display_url == where


@pytest.mark.parametrize("broker", ["", "memory://", "sqlite:///x", "redis://one;amqp://two"])
def test_a_broker_that_cannot_carry_results_is_refused(broker: str) -> None:
    with pytest.raises(ImproperlyConfigured, match="must be RabbitMQ or Redis"):
        post_for("rpc://", ResultOptions(sending=SendingOptions(urls=broker)))
