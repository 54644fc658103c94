"""Keys, priority steps and routes of the Redis broker."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from umbel.brokers.redis.layout import Layout, make_layout
from umbel.brokers.redis.routing import Routes
from umbel.core.bindings import Binding
from umbel.core.destination import Destination
from umbel.core.records import Publication
from umbel.errors import BrokerError, ImproperlyConfigured


def test_keys_are_kombus() -> None:
    layout = Layout(global_keyprefix="p:")
    assert layout.list_keys("q") == [b"p:q", b"p:q\x06\x163", b"p:q\x06\x166", b"p:q\x06\x169"]
    assert layout.binding_key("celery") == b"p:_kombu.binding.celery"
    assert layout.member(Binding("q", "ex", "direct", "key")) == b"key\x06\x16\x06\x16q"
    assert (
        layout.member(Binding("q", "ex", "topic", "a_b.*.#"))
        == b"a_b.*.#\x06\x16^a\\_b\\.[^\\.]+\\..*?$\x06\x16q"
    )


@pytest.mark.parametrize(
    ("priority", "step"), [(-5, 0), (0, 0), (2, 0), (3, 3), (4, 3), (7, 6), (9, 9), (255, 9)]
)
def test_a_priority_goes_to_the_step_at_or_below_it(priority: int, step: int) -> None:
    assert Layout().step_of(priority) == step


@pytest.mark.parametrize(
    ("options", "routing_key", "channel"),
    [
        ({}, "", b"/4.ex"),
        ({}, "key", b"/4.ex/key"),
        ({"fanout_patterns": False}, "key", b"/4.ex"),
        ({"fanout_prefix": False}, "key", b"ex/key"),
        ({"fanout_prefix": "/{db}.mine."}, "", b"/4.mine.ex"),
        ({"global_keyprefix": "p:"}, "", b"p:/4.ex"),
    ],
)
def test_fanout_channels_are_kombus(options: dict[str, Any], routing_key: str, channel: bytes) -> None:
    assert make_layout(options, 4).fanout_channel("ex", routing_key) == channel


def test_options_come_as_text_from_a_url() -> None:
    layout = make_layout({"visibility_timeout": "60", "priority_steps": ["3", "0"]}, 0)
    assert (layout.visibility_timeout, layout.priority_steps) == (60.0, (0, 3))


@pytest.mark.parametrize("options", [{"visibility_timeout": "long"}, {"priority_steps": []}, {"sep": 3}])
def test_bad_options_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ImproperlyConfigured):
        make_layout(options, 0)


def test_unknown_options_are_said_and_known_ones_are_not(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        make_layout({"polling_interval": 1, "colour": "red"}, 0)
    assert [r.message for r in caplog.records] == [
        "Redis transport options without a meaning here are ignored: colour"
    ]


TABLE = {
    "ex": [
        b"a.b\x06\x16^a\\.b$\x06\x16exact",
        b"a.*\x06\x16^a\\.[^\\.]+$\x06\x16star",
        b"#\x06\x16^.*?$\x06\x16all",
        b"key\x06\x16\x06\x16plain",
        b"broken",
        b"x\x06\x16(\x06\x16bad",
    ]
}


@pytest.mark.parametrize(
    ("exchange_type", "routing_key", "queues"),
    [
        ("topic", "a.b", ["all", "exact", "star"]),
        ("topic", "a.c", ["all", "star"]),
        ("topic", "z", ["all"]),
        ("direct", "a.b", ["all", "exact", "star"]),
        ("direct", "key", ["all", "plain"]),
    ],
)
def test_bindings_say_themselves_how_they_are_matched(
    exchange_type: str, routing_key: str, queues: list[str]
) -> None:
    assert Routes(Layout()).bound_queues("ex", routing_key, exchange_type, TABLE) == queues


def test_commands_of_each_kind_of_destination() -> None:
    routes = Routes(Layout())

    def commands(to: Destination) -> list[tuple[bytes, bytes, bytes]]:
        return routes.commands(Publication(to, b"m"), TABLE)

    assert commands(Destination("", "q", "q", priority=6)) == [(b"LPUSH", b"q\x06\x166", b"m")]
    assert commands(Destination("", "q")) == [(b"LPUSH", b"q", b"m")]
    assert commands(Destination("ev", "k", exchange_type="fanout")) == [(b"PUBLISH", b"/0.ev/k", b"m")]
    assert commands(Destination("ex", "key")) == [(b"LPUSH", b"all", b"m"), (b"LPUSH", b"plain", b"m")]
    with pytest.raises(BrokerError, match="headers"):
        commands(Destination("ex", "a.b", exchange_type="headers"))


def test_a_message_that_nothing_is_bound_for_is_refused() -> None:
    with pytest.raises(
        BrokerError, match="no queue is bound to the direct exchange 'other' for routing key 'z'"
    ):
        Routes(Layout()).commands(Publication(Destination("other", "z"), b"m"), TABLE)
