"""What one library sends arrives at the other's worker, and what that stores is read: values, options, formats."""

from __future__ import annotations

import datetime as dt
import math
import uuid
from decimal import Decimal

import pytest

from tests.interop.conftest import OTHER
from tests.interop.world import Side, World

pytestmark = [pytest.mark.interop, pytest.mark.redis, pytest.mark.processes]

PLAIN = {
    "none": None,
    "true": True,
    "zero": 0,
    "big integer": 2**70,
    "fraction": 0.1,
    "empty": "",
    "text": "grüße, 世界 🐝 \x00 \u2028",
    "lone surrogate": "\ud800",
    "nested": {"a": [1, [2, {"b": None}]], "": []},
    "long": "x" * 1_000_000,
}

TAGGED = {
    "datetime": dt.datetime(2026, 2, 3, 4, 5, 6, 789000, tzinfo=dt.UTC),
    "naive datetime": dt.datetime(2026, 2, 3, 4, 5, 6),  # noqa: DTZ001 -- that it stays naive is the point
    "date": dt.date(2026, 2, 3),
    "time": dt.time(4, 5, 6),
    "decimal": Decimal("12.3400"),
    "uuid": uuid.UUID(int=7),
    "text bytes": b"plain",
    "binary bytes": bytes(range(256)),
    "in containers": {"a": [Decimal(1), {"b": b"\xff"}]},
}

JSON_AND_BINARY = {name: PLAIN[name] for name in ("none", "zero", "fraction", "text", "nested")}


@pytest.mark.parametrize("name", PLAIN | TAGGED)
def test_values_go_there_and_back(sender: Side, queue: str, name: str):
    value = (PLAIN | TAGGED)[name]
    back = sender.value(sender.send("echo", value, queue=queue))
    assert back == value
    assert type(back) is type(value)


def test_infinite_numbers_are_what_celery_makes_of_them(sender: Side, queue: str):
    [infinite, nan] = sender.value(sender.send("echo", [float("inf"), float("nan")], queue=queue))
    assert infinite == float("inf")
    assert math.isnan(nan)


def test_results_beyond_what_redis_sends_a_subscriber_are_read(sender: Side, queue: str):
    """38 MB of JSON: Redis closes the connection that waits for it, and the reader reads it another way."""
    value = {"bytes": bytes(6 * 1024 * 1024)}
    assert sender.value(sender.send("echo", value, queue=queue)) == value


def test_types_arrive_as_types(sender: Side, queue: str):
    told = sender.value(sender.send("describe", *TAGGED.values(), kwargs={"tuple": (1, 2)}, queue=queue))
    assert told["library"] == OTHER[sender.library]
    wanted = "datetime datetime date time Decimal UUID bytes bytes dict list"
    assert told["types"] == wanted.split()


def test_arguments_and_what_travels_with_them(sender: Side, queue: str, mark: str):
    told = sender.value(
        sender.send(
            "describe",
            1,
            "zwei",
            kwargs={"drei": 3},
            queue=queue,
            task_id=f"id with spaces {mark}",
            headers={"x-custom": {"a": [1]}, "trace": "abc"},
            time_limit=30,
            soft_time_limit=20,
            root_id="the-root",
            parent_id="the-parent",
            argsrepr="<hidden>",
            ignore_result=False,
        )
    )
    assert (told["args"], told["kwargs"]) == ([1, "zwei"], {"drei": 3})
    assert told["id"] == told["correlation_id"] == f"id with spaces {mark}"
    assert told["headers"]["x-custom"] == {"a": [1]}
    assert told["headers"]["trace"] == "abc"
    assert told["timelimit"] == [30, 20]
    assert (told["root_id"], told["parent_id"]) == ("the-root", "the-parent")
    assert (told["argsrepr"], told["kwargsrepr"]) == ("<hidden>", "{'drei': 3}")
    assert told["ignore_result"] is False
    assert told["origin"].startswith("gen")
    assert told["delivery_info"]["routing_key"] == queue
    assert told["delivery_info"]["exchange"] == ""


def test_both_workers_tell_a_task_the_same(world: World, sender: Side):
    """The same message, run by each library: only who ran it differs."""
    told = []
    for library in ("celery", "umbel"):
        task_id = sender.send("describe", 1, kwargs={"a": b"x"}, headers={"h": 1}, queue=f"to_{library}")
        found = sender.value(task_id)
        told.append(
            {k: v for k, v in found.items() if k not in {"library", "id", "root_id", "correlation_id"}}
        )
        told[-1]["delivery_info"].pop("routing_key")
    assert told[0] == told[1]


def test_a_task_known_to_the_sender_carries_its_own_options(sender: Side, queue: str, mark: str):
    task_id = sender.delay("count", mark, queue=queue)
    done = sender.send("echo", 1, queue=queue)
    sender.value(done)
    assert sender.state(task_id) == ("PENDING", None)  # its ignore_result came along


def test_ignored_results_are_not_stored(world: World, sender: Side, queue: str, mark: str):
    task_id = sender.send("record", mark, queue=queue, ignore_result=True)
    world.wait_for_notes(mark, 1)
    world.wait_settled(task_id)
    assert not world.redis.exists(f"celery-task-meta-{task_id}")


def test_children_of_a_task_are_known(world: World, sender: Side, queue: str):
    outcome = sender.outcome(sender.send("spawn", f"to_{sender.library}", queue=queue))
    assert outcome["children"] == [outcome["value"]]
    child = sender.value(outcome["value"])
    assert child["library"] == sender.library
    assert child["parent_id"] == child["root_id"] != child["id"]


@pytest.mark.parametrize("compression", ["gzip", "zlib", "bzip2", "lzma", "zstd", "brotli"])
def test_compression(sender: Side, queue: str, compression: str):
    value = "compressible " * 1000
    assert sender.value(sender.send("echo", value, queue=queue, compression=compression)) == value


@pytest.mark.parametrize("serializer", ["json", "msgpack", "yaml", "pickle"])
@pytest.mark.parametrize("compression", [None, "zlib"])
def test_serializers(sender: Side, queue: str, serializer: str, compression: str | None):
    for value in JSON_AND_BINARY.values():
        task_id = sender.send("echo", value, queue=queue, serializer=serializer, compression=compression)
        assert sender.value(task_id) == value


@pytest.mark.parametrize("serializer", ["msgpack", "pickle"])
def test_binary_serializers_carry_bytes_as_they_are(sender: Side, queue: str, serializer: str):
    value = bytes(range(256))
    assert sender.value(sender.send("echo", value, queue=queue, serializer=serializer)) == value


def test_pickle_carries_what_json_cannot(sender: Side, queue: str):
    told = sender.value(sender.send("types", {1, 2}, 1j, queue=queue, serializer="pickle"))
    assert told == ["set", "complex"]
