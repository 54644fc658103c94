"""What is decided about a cluster without asking one: slots, addresses, and where steps go that were refused."""

from __future__ import annotations

import time
from typing import Any

import pytest
from hiredis import ReplyError

from umbel.brokers.options import BrokerOptions
from umbel.brokers.redis.broker import RedisBroker
from umbel.brokers.redis.cluster.broker import RedisClusterBroker
from umbel.brokers.redis.cluster.layout import cluster_layout
from umbel.brokers.urls import broker_from_url
from umbel.errors import ImproperlyConfigured
from umbel.results.redis_cluster import RedisClusterResultBackend
from umbel.results.urls import backend_from_url
from umbel.stores.redis.cluster import Node, parse_cluster, slot_of, tagged
from umbel.stores.redis.errands import Errands, Step

A, B = Node("a", 1), Node("b", 2)


@pytest.mark.parametrize(
    ("key", "same"),
    [
        (b"{user1000}.following", b"user1000"),
        (b"foo{{bar}}zap", b"{bar"),
        (b"foo{bar}{zap}", b"bar"),
    ],
)
def test_a_hash_tag_decides_the_slot(key: bytes, same: bytes) -> None:
    assert slot_of(key) == slot_of(same)


def test_slots_are_those_of_the_specification() -> None:
    assert slot_of(b"123456789") == 0x31C3 % 16384
    assert slot_of(b"foo{}{bar}") != slot_of(b"bar")  # an empty tag is none


@pytest.mark.parametrize("queue", ["celery", "a{b}c", "}x", "{", "%7Dx", "%", "", "é:1"])
def test_all_keys_of_a_queue_are_in_one_slot(queue: str) -> None:
    layout = cluster_layout({"global_keyprefix": "pre:"})
    own = layout.of_queue(queue)
    keys = [*layout.list_keys(queue), layout.delayed_key(queue), layout.dead_key(queue)]
    keys += [own.key("unacked"), own.held_key("w{1}@host"), own.key("umbel:consumers")]
    assert {slot_of(key) for key in keys} == {layout.slot(queue)}
    assert all(key.startswith(b"pre:{") for key in keys)
    home = [layout.binding_key(queue), layout.revoked_key, layout.key("umbel:consumers")]
    assert {slot_of(key) for key in home} == {layout.home}


def test_no_two_queues_share_a_tag() -> None:
    names = ["}x", "%7Dx", "x", "%257Dx", "", "%", "%umbel", "umbel"]
    assert len({tagged(name) for name in names} | {"{%umbel}"}) == len(names) + 1


def test_a_url_names_several_nodes_and_one_login() -> None:
    url = "rediss+cluster://ann:s%40cret@h1:7001,h2,[::1]:7003/0?socket_timeout=3"
    options = {"startup_nodes": [{"host": "h4", "port": "7004"}]}
    cluster, rest = parse_cluster(url, options, None, 5)
    assert rest == {}
    assert cluster.candidates(0) == [("h1", 7001), ("h2", 6379), ("::1", 7003), ("h4", 7004)]
    login = cluster.node_address(Node("h9", 9))
    assert (login.host, login.port, login.username, login.password) == ("h9", 9, "ann", "s@cret")
    assert (login.tls, login.socket_timeout) == ({}, 3)
    assert "s@cret" not in cluster.display_url
    same, _ = parse_cluster("rediscluster://h2;rediscluster://[::1]:7003,h4:7004,h1:7001", {}, None, 5)
    assert same.identity == cluster.identity


def test_a_cluster_has_one_database() -> None:
    with pytest.raises(ImproperlyConfigured, match="no databases but 0, not 3"):
        parse_cluster("redis+cluster://h1:7001/3", {}, None, 5)


def test_a_prefix_that_is_a_hash_tag_makes_an_ordinary_broker() -> None:
    """As Celery's users do it: everything is in one slot."""
    options = BrokerOptions(transport={"global_keyprefix": "{shop}:"})
    assert type(broker_from_url("redis+cluster://h1:7001", options)) is RedisBroker
    assert isinstance(broker_from_url("redis+cluster://h1:7001"), RedisClusterBroker)
    assert isinstance(backend_from_url("rediscluster://h1:7001"), RedisClusterResultBackend)
    with pytest.raises(ImproperlyConfigured, match="set global_keyprefix to a hash tag"):
        RedisBroker("redis+cluster://h1:7001", BrokerOptions())


def test_no_backend_shares_the_store_of_a_clusters_broker() -> None:
    url = "redis+cluster://h1:7001"
    whole = BrokerOptions(transport={"global_keyprefix": "{shop}:"})
    spread, kept = broker_from_url(url), broker_from_url(url, whole)
    assert not {spread.store, kept.store} & {backend_from_url(url).store}


def _errands(*slots: int, seconds: float = 60) -> Errands:
    cluster, _ = parse_cluster("redis+cluster://seed:1", {}, None, 5)
    member: Any = [b"a", 1, b"id-a"]
    cluster.learn(A, [[0, 99, member], [100, 16383, [b"b", 2, b"id-b"]]])
    steps = [Step(slot, b"<%d>" % slot) for slot in slots]
    return Errands(cluster, steps, time.monotonic() + seconds)


def test_steps_go_to_the_nodes_of_their_slots_and_answers_come_in_order() -> None:
    errands = _errands(1, 100, 2)
    first, second = errands.trips()
    assert (first.node, first.packed, first.replies) == (A, b"<1><2>", 2)
    assert (second.node, second.packed) == (B, b"<100>")
    errands.note(second, ["100"])
    errands.note(first, ["1", "2"])
    assert errands.done
    assert errands.answers == [["1"], ["100"], ["2"]]


def test_what_moved_is_sent_where_it_is_now_and_nothing_else_again() -> None:
    errands = _errands(1, 2)
    [trip] = errands.trips()
    errands.note(trip, [ReplyError("MOVED 1 b:2"), "2"])
    assert errands.pause() == 0
    [trip] = errands.trips()
    assert (trip.node, trip.packed) == (B, b"<1>")
    errands.note(trip, ["1"])
    assert errands.answers == [["1"], ["2"]]


def test_what_is_on_its_way_is_asked_for_at_its_destination_once() -> None:
    errands = _errands(1)
    errands.note(errands.trips()[0], [ReplyError("ASK 1 b:2")])
    [trip] = errands.trips()
    assert trip.node == B
    assert trip.packed.endswith(b"ASKING\r\n<1>")
    errands.note(trip, ["OK", ReplyError("TRYAGAIN Multiple keys request during rehashing of slot")])
    assert errands.pause() > 0
    [trip] = errands.trips()
    assert (trip.node, trip.packed) == (A, b"<1>")


def test_other_refusals_are_answers() -> None:
    errands = _errands(1)
    error = ReplyError("OOM command not allowed")
    errands.note(errands.trips()[0], [error])
    assert errands.done
    assert errands.answers == [[error]]


def test_refusals_without_end_are_told_of() -> None:
    errands = _errands(1, seconds=0)
    errands.note(errands.trips()[0], [ReplyError("CLUSTERDOWN The cluster is down")])
    with pytest.raises(TimeoutError, match="CLUSTERDOWN"):
        errands.pause()
