"""Messages in other shapes than Celery 5's: protocol 1, and the least that a producer can write by hand."""

from __future__ import annotations

import json
import time
from base64 import b64encode
from collections.abc import Iterator

import pytest

from tests.interop.world import Side, World

pytestmark = [pytest.mark.interop, pytest.mark.redis, pytest.mark.processes]


@pytest.fixture(scope="module")
def broker() -> str:
    return "redis"


@pytest.fixture(scope="module")
def old(world: World) -> Iterator[Side]:
    """A Celery producer of protocol 1."""
    side = world.side("celery", task_protocol=1)
    task_id = side.send("echo", 1, queue="unread")
    [payload] = world.redis.lrange("unread", 0, -1)
    assert "task" not in json.loads(payload)["headers"]
    assert task_id.encode() not in json.dumps(json.loads(payload)["headers"]).encode()
    return side


class TestProtocol1:
    def test_values_and_what_is_known_of_a_message(self, old: Side):
        task_id = old.send("describe", 1, kwargs={"a": b"\xff"}, queue="to_umbel", time_limit=30)
        told = old.value(task_id)
        assert (told["library"], told["args"], told["kwargs"]) == ("umbel", [1], {"a": b"\xff"})
        assert told["id"] == told["root_id"] == told["correlation_id"] == task_id
        assert told["timelimit"] == [30, None]

    def test_retries(self, world: World, old: Side, mark: str):
        assert old.value(old.send("persist", mark, 2, queue="to_umbel")) == 2
        assert world.notes(mark) == [["umbel", 0], ["umbel", 1], ["umbel", 2]]

    def test_errors(self, old: Side):
        outcome = old.outcome(old.send("fail", "value", queue="to_umbel"))
        assert (outcome["state"], outcome["error"]["args"]) == ("FAILURE", ("boom", 3))

    def test_countdown_and_expires(self, old: Side):
        begun = time.time()
        assert old.value(old.send("echo", 1, queue="to_umbel", countdown=1.2)) == 1
        assert time.time() - begun >= 1.2
        assert old.outcome(old.send("echo", 1, queue="to_umbel", expires=-5))["state"] == "REVOKED"

    def test_links(self, world: World, old: Side, mark: str):
        """A link goes on in protocol 2, which every worker reads."""
        link = {"task": "add", "args": [10], "kwargs": {}, "options": {"queue": "to_celery", "task_id": mark}}
        old.send("add", 1, 2, queue="to_umbel", link=[link | {"subtask_type": None, "immutable": False}])
        assert old.value(mark) == 13

    @pytest.mark.parametrize("serializer", ["json", "msgpack", "yaml", "pickle"])
    @pytest.mark.parametrize("compression", [None, "gzip"])
    def test_serializers(self, old: Side, serializer: str, compression: str | None):
        value = {"text": "grüße", "none": None, "list": [1, 2.5]}
        task_id = old.send("echo", value, queue="to_umbel", serializer=serializer, compression=compression)
        assert old.value(task_id) == value

    def test_a_retry_of_umbels_runs_at_celerys_worker(self, world: World, old: Side, mark: str):
        """Both take attempts from one queue until the task is done."""
        both = [world.worker(library, "-c1", "-Q", mark) for library in ("umbel", "celery")]
        assert old.value(old.send("persist", mark, 6, 0.1, queue=mark)) == 6
        assert [attempt for _, attempt in world.notes(mark)] == list(range(7))
        assert [worker.terminate() for worker in both] == [0, 0]


BODY = json.dumps([[40, 2], {}, {}])
BASE64 = b64encode(BODY.encode()).decode()
MINIMAL = {
    "no more than the headers and the body": {"body": BODY, "content-type": "application/json"},
    "a body in base64": {
        "body": BASE64,
        "content-type": "application/json",
        "content-encoding": "utf-8",
        "properties": {"body_encoding": "base64"},
    },
    "an empty embed and an empty reply_to": {
        "body": BASE64,
        "content-type": "application/json",
        "properties": {"body_encoding": "base64", "reply_to": "", "correlation_id": ""},
    },
    "null where something could be": {
        "body": BASE64,
        "content-type": "application/json",
        "content-encoding": None,
        "properties": {
            "body_encoding": "base64",
            "delivery_tag": None,
            "delivery_info": None,
            "priority": None,
        },
    },
    "a delivery tag that is a number": {
        "body": BASE64,
        "content-type": "application/json",
        "content-encoding": "utf-8",
        "properties": {"body_encoding": "base64", "delivery_tag": 1, "delivery_info": {}, "priority": "3"},
    },
}


@pytest.mark.parametrize("name", MINIMAL)
def test_hand_written_messages(world: World, name: str, mark: str):
    message = MINIMAL[name] | {"headers": {"task": "add", "id": mark}}
    world.redis.lpush("to_umbel", json.dumps(message))
    assert world.celery.value(mark) == 42
    assert world.umbel.value(mark) == 42


@pytest.mark.parametrize("name", MINIMAL)
def test_hand_written_messages_are_retried_and_fail_like_others(world: World, name: str, mark: str):
    body = json.dumps([[mark, 2], {}, {}])
    encoded = "body_encoding" in MINIMAL[name].get("properties", {})
    message = MINIMAL[name] | {
        "headers": {"task": "persist", "id": mark},
        "body": b64encode(body.encode()).decode() if encoded else body,
    }
    world.redis.lpush("to_umbel", json.dumps(message))
    assert world.celery.value(mark) == 2
    assert world.notes(mark) == [["umbel", 0], ["umbel", 1], ["umbel", 2]]


def test_equal_delivery_tags_do_not_meet(world: World, mark: str):
    """Several messages at once under one tag: each is held and settled by itself."""
    base = MINIMAL["a delivery tag that is a number"]
    messages = [json.dumps(base | {"headers": {"task": "add", "id": f"{mark}-{n}"}}) for n in range(50)]
    world.redis.lpush("to_umbel", *messages)
    assert [world.celery.value(f"{mark}-{n}") for n in range(50)] == [42] * 50


def test_junk_does_not_stop_what_comes_after(world: World, mark: str):
    world.redis.lpush("to_umbel", b"", b"{", b"[]", b"null", b"\xff\x00", b'{"headers": {}, "body": ""}')
    assert world.celery.value(world.celery.send("echo", mark, queue="to_umbel")) == mark
