"""What is written to Redis for a batch of messages."""

from __future__ import annotations

import hiredis
import pytest
from hypothesis import given
from hypothesis import strategies as st

from umbel.brokers.redis.layout import make_layout
from umbel.brokers.redis.publisher import Composer
from umbel.brokers.redis.routing import Routes
from umbel.core.destination import Destination
from umbel.core.records import Publication
from umbel.stores.redis.commands import pack_command, pack_with_values

MiB = 1024 * 1024


def make_composer():
    layout = make_layout({}, 0)
    return Composer(layout, Routes(layout))


def to_queue(name, payload, priority=0):
    return Publication(Destination("", name, name, priority=priority), payload)


def unpacked(piece):
    """The commands of a piece, as the server reads them."""
    packed, replies, _ = piece
    reader = hiredis.Reader()
    reader.feed(packed)
    commands = []
    while (command := reader.gets()) is not False:
        commands.append(command)
    assert len(commands) == replies
    return commands


def pushes(pieces):
    return [command for piece in pieces for command in unpacked(piece) if command[0] == b"LPUSH"]


@given(values=st.lists(st.binary(max_size=50), max_size=20), key=st.binary(min_size=1))
def test_values_are_packed_as_hiredis_packs_them(values, key):
    assert pack_with_values((b"LPUSH", key), values) == pack_command((b"LPUSH", key, *values))


@given(st.lists(st.tuples(st.sampled_from(["a", "b"]), st.sampled_from([0, 3]))))
def test_every_message_is_pushed_once_and_in_order(targets):
    batch = [to_queue(name, b"%d" % number, priority) for number, (name, priority) in enumerate(targets)]
    sent = [(key, value) for _, key, *values in pushes(make_composer().pieces(batch, {})) for value in values]
    routes = Routes(make_layout({}, 0))
    assert sent == [
        (routes.queue_key(name, priority), b"%d" % number) for number, (name, priority) in enumerate(targets)
    ]


def test_neighbours_with_one_destination_share_a_command():
    batch = [to_queue("a", b"1"), to_queue("a", b"2"), to_queue("b", b"3")]
    assert pushes(make_composer().pieces(batch, {})) == [[b"LPUSH", b"a", b"1", b"2"], [b"LPUSH", b"b", b"3"]]


def test_commands_stay_moderate():
    many = [to_queue("a", b"") for _ in range(2500)]
    assert [len(values) for _, _, *values in pushes(make_composer().pieces(many, {}))] == [1000, 1000, 500]
    big = [to_queue("a", bytes(3 * MiB)) for _ in range(5)]
    assert [len(values) for _, _, *values in pushes(make_composer().pieces(big, {}))] == [2, 2, 1]
    assert all(len(packed) < 8 * MiB for packed, *_ in make_composer().pieces(big, {}))


def test_a_message_for_several_queues_is_one_transaction():
    tables = {"x": {b"k\x06\x16\x06\x16a", b"k\x06\x16\x06\x16b", b"other\x06\x16\x06\x16c"}}
    batch = [Publication(Destination("x", key), key.encode()) for key in ("k", "other")]
    commands = [command for piece in make_composer().pieces(batch, tables) for command in unpacked(piece)]
    assert commands == [
        [b"MULTI"],
        [b"LPUSH", b"a", b"k"],
        [b"LPUSH", b"b", b"k"],
        [b"EXEC"],
        [b"LPUSH", b"c", b"other"],
    ]


@pytest.mark.parametrize("count", [1, 2])
def test_a_queue_is_declared_before_its_first_message_only(count):
    composer = make_composer()
    batch = [to_queue("a", b"1")] * count
    names = [command[0] for piece in composer.pieces(batch, {}) for command in unpacked(piece)]
    assert names == [b"SADD", b"SADD", b"LPUSH"]
    assert [command[0] for piece in composer.pieces(batch, {}) for command in unpacked(piece)] == [b"LPUSH"]
    composer.forget_declared()
    assert len([command for piece in composer.pieces(batch, {}) for command in unpacked(piece)]) == 3
