"""URLs and options of RabbitMQ as Celery's users write them."""

from __future__ import annotations

import ssl
from itertools import islice

import pytest

from umbel.brokers.options import BrokerOptions
from umbel.brokers.urls import broker_from_url
from umbel.errors import ImproperlyConfigured
from umbel.stores.amqp.address import Address, parse_address, parse_addresses
from umbel.stores.amqp.failover import Failover
from umbel.stores.amqp.tls import make_context


def parse(url: str, **options: object) -> Address:
    return parse_address(url, options)[0]


@pytest.mark.parametrize(
    ("url", "host", "port", "user", "password", "vhost"),
    [
        ("amqp://", "localhost", 5672, "guest", "guest", "/"),
        ("amqp", "localhost", 5672, "guest", "guest", "/"),
        ("pyamqp://", "localhost", 5672, "guest", "guest", "/"),
        ("amqp://rabbit", "rabbit", 5672, "guest", "guest", "/"),
        ("amqp://rabbit/", "rabbit", 5672, "guest", "guest", "/"),
        ("amqp://rabbit//", "rabbit", 5672, "guest", "guest", "/"),
        ("amqp://ann:s%40e%2Fc@rabbit:5673/video", "rabbit", 5673, "ann", "s@e/c", "video"),
        ("amqp://rabbit/%2Fvideo", "rabbit", 5672, "guest", "guest", "/video"),
        ("amqp://rabbit//video", "rabbit", 5672, "guest", "guest", "/video"),
        ("amqp://rabbit/a%20b%3Fc", "rabbit", 5672, "guest", "guest", "a b?c"),
        ("amqps://rabbit", "rabbit", 5671, "guest", "guest", "/"),
        ("amqp://[::1]:5673/v", "::1", 5673, "guest", "guest", "v"),
    ],
)
def test_urls(url: str, host: str, port: int, user: str, password: str, vhost: str) -> None:
    address = parse(url)
    found = (address.host, address.port, address.user, address.password, address.vhost)
    assert found == (host, port, user, password, vhost)


def test_the_password_is_not_shown() -> None:
    address = parse("amqp://ann:secret@rabbit:5673/vi%2Fdeo")
    assert address.display_url == "amqp://ann:**@rabbit:5673/vi%2Fdeo"
    assert parse("amqp://").display_url == "amqp://guest:**@localhost:5672//"
    assert parse("amqps://[::1]").display_url == "amqps://guest:**@[::1]:5671//"


def test_identity_tells_virtual_hosts_apart_and_not_users() -> None:
    assert parse("amqp://ann:a@localhost/v").identity == parse("pyamqp://bob:b@127.0.0.1:5672/v").identity
    assert parse("amqp://localhost/v").identity != parse("amqp://localhost/w").identity


def test_options_come_from_the_query_first() -> None:
    address, rest = parse_address(
        "amqp://h?heartbeat=5&login_method=amqplain&mystery=1",
        {"heartbeat": 9, "frame_max": "4096", "confirm_publish": False, "read_timeout": 3},
        connect_timeout=2.0,
    )
    assert (address.heartbeat, address.login_method, address.frame_max) == (5.0, "AMQPLAIN", 4096)
    assert address.connect_timeout == 2.0
    assert rest == {"mystery": "1", "confirm_publish": False}


def test_settings_apply_where_neither_url_nor_options_say() -> None:
    address, _ = parse_address("amqp://h", {}, heartbeat=120, login_method="EXTERNAL", connect_timeout=4)
    assert (address.heartbeat, address.login_method, address.connect_timeout) == (120, "EXTERNAL", 4)


@pytest.mark.parametrize(
    ("url", "options", "complaint"),
    [
        ("redis://h", {}, "'redis' is not an AMQP scheme"),
        ("amqp://h:port", {}, "port .* is not a number"),
        ("amqp://h", {"login_method": "guess"}, "broker_login_method.*'guess'"),
        ("amqp://h?heartbeat=soon", {}, "heartbeat cannot be 'soon'"),
    ],
)
def test_what_cannot_be_read_is_refused(url: str, options: dict[str, object], complaint: str) -> None:
    with pytest.raises(ImproperlyConfigured, match=complaint):
        parse_address(url, options)


def test_a_password_may_be_made_for_each_connection() -> None:
    tokens = iter(["one", "two"])
    address = parse("amqp://ann@h", password=lambda: next(tokens))
    assert [address.login_arguments()["password"] for _ in "12"] == ["one", "two"]


# TLS


@pytest.mark.parametrize(
    ("url", "use_ssl", "options"),
    [
        ("amqps://h", None, {}),
        ("amqp://h", True, {}),
        ("amqp://h?ssl=true", None, {}),
        ("amqp://h", {"ca_certs": "/ca"}, {"ca_certs": "/ca"}),
        ("amqps://h", {"ssl_ca_certs": "/ca"}, {"ca_certs": "/ca"}),
        ("amqp://h?ssl_ca_certs=/other", {"ca_certs": "/ca"}, {"ca_certs": "/other"}),
    ],
)
def test_tls(url: str, use_ssl: bool | dict[str, object] | None, options: dict[str, object]) -> None:
    address, rest = parse_address(url, {}, use_ssl=use_ssl)
    assert (address.tls, address.port, rest) == (options, 5671, {})


@pytest.mark.parametrize("use_ssl", [None, False, {}])
def test_no_tls(use_ssl: bool | dict[str, object] | None) -> None:
    assert parse_address("amqp://h", {}, use_ssl=use_ssl)[0].tls is None


def test_certificates_are_verified_unless_told_otherwise() -> None:
    context, name = make_context({}, "rabbit")
    assert (context.verify_mode, context.check_hostname, name) == (ssl.CERT_REQUIRED, False, "rabbit")
    context, name = make_context({"server_hostname": "other"}, "rabbit")
    assert (context.verify_mode, context.check_hostname, name) == (ssl.CERT_REQUIRED, True, "other")
    for value in ("CERT_NONE", "none", ssl.CERT_NONE):
        context, _ = make_context({"cert_reqs": value, "server_hostname": None}, "rabbit")
        assert (context.verify_mode, context.check_hostname) == (ssl.CERT_NONE, False)


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"cafile": "/x"}, r"unknown options \['cafile'\]"),
        ({"cert_reqs": "maybe"}, "cert_reqs.*'maybe'"),
        ({"ca_certs": "/does/not/exist"}, "No such file"),
    ],
)
def test_tls_options_that_cannot_be_used(options: dict[str, object], complaint: str) -> None:
    with pytest.raises(ImproperlyConfigured, match=complaint):
        make_context(options, "rabbit")


# Several addresses


def test_several_urls() -> None:
    addresses, _ = parse_addresses("amqp://a;amqp://b:1;amqps://c", {})
    assert [(each.host, each.port) for each in addresses] == [("a", 5672), ("b", 1), ("c", 5671)]
    assert [each.host for each in parse_addresses(["amqp://a", "amqp://b; amqp://c"], {})[0]] == [
        "a",
        "b",
        "c",
    ]


def test_round_robin_goes_on_when_an_address_fails() -> None:
    addresses, _ = parse_addresses("amqp://a;amqp://b;amqp://c", {})
    failover = Failover(addresses)
    seen = []
    for _ in range(4):
        seen.append(failover.current.host)
        failover.failed(failover.current)
    assert seen == ["a", "b", "c", "a"]
    failover.failed(addresses[2])  # somebody else's news: it is not the current one
    assert failover.current.host == "b"


def test_shuffle_tries_every_address() -> None:
    addresses, _ = parse_addresses("amqp://a;amqp://b;amqp://c", {})
    failover, seen = Failover(addresses, "shuffle"), set()
    for _ in range(3):
        seen.add(failover.current.host)
        failover.failed(failover.current)
    assert seen == {"a", "b", "c"}


def test_a_strategy_may_be_a_function() -> None:
    addresses, _ = parse_addresses("amqp://a;amqp://b", {})
    failover = Failover(addresses, lambda given: islice(reversed(given), 2))
    assert failover.current.host == "b"
    for _ in range(3):
        failover.failed(failover.current)
    assert failover.current.host == "a"


def test_an_unknown_strategy_is_refused() -> None:
    addresses, _ = parse_addresses("amqp://a", {})
    with pytest.raises(ImproperlyConfigured, match=r"broker_failover_strategy.*'random'"):
        Failover(addresses, "random")


@pytest.mark.parametrize("scheme", ["amqp", "amqps", "pyamqp"])
def test_the_schemes_lead_to_rabbitmq(scheme: str) -> None:
    broker = broker_from_url(f"{scheme}://ann:secret@a/v;{scheme}://b", BrokerOptions())
    assert "ann:**@a" in broker.display_url
    assert "secret" not in broker.store + broker.display_url
