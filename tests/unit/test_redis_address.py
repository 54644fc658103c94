"""URLs and options of Redis servers, as Celery users write them."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from umbel.errors import ImproperlyConfigured
from umbel.stores.redis.address import Address, parse_address, warn_unknown
from umbel.stores.redis.finding import Sentinels


def parse(url: str, use_ssl: bool | dict[str, Any] | None = None, **options: Any) -> Address:
    return parse_address(url, options, use_ssl, 4.0)[0]


@pytest.mark.parametrize(
    ("url", "identity"),
    [
        ("redis://", "redis://127.0.0.1:6379/0"),
        ("redis", "redis://127.0.0.1:6379/0"),
        ("redis://localhost", "redis://127.0.0.1:6379/0"),
        ("redis://example.org:7000/3", "redis://example.org:7000/3"),
        ("redis://example.org//3", "redis://example.org:6379/3"),
        ("redis://example.org/?virtual_host=2", "redis://example.org:6379/2"),
        ("redis://:secret@h/1", "redis://h:6379/1"),
        ("valkey://h/1", "redis://h:6379/1"),
        ("rediss://h/1", "redis://h:6379/1"),
        ("redis://[::1]:6380/1", "redis://::1:6380/1"),
        ("redis+socket:///run/redis.sock", "redis://socket:/run/redis.sock/0"),
        ("redis+socket:///run/redis.sock?virtual_host=5", "redis://socket:/run/redis.sock/5"),
    ],
)
def test_where_a_url_leads(url: str, identity: str) -> None:
    assert parse(url).identity == identity


def test_user_and_password_are_unquoted_and_not_shown() -> None:
    address = parse("redis://us%40er:pa%2Fss@h:1/2")
    assert (address.username, address.password) == ("us@er", "pa/ss")
    assert address.display_url == "redis://us%40er:**@h:1/2"
    assert "pa" not in parse("redis+socket://:pa@/run/r.sock").display_url


def test_the_query_wins_over_options() -> None:
    address = parse("redis://h?socket_timeout=3&socket_keepalive=no", socket_timeout=9, socket_keepalive=True)
    assert (address.socket_timeout, address.keepalive, address.connect_timeout) == (3.0, False, 4.0)


def test_options_fill_what_the_url_leaves_out() -> None:
    address = parse("redis://", host="h", port="7", db=4, username="u", password="p", client_name="me")
    assert (address.identity, address.username, address.password) == ("redis://h:7/4", "u", "p")
    assert address.connection_arguments(3)["client_name"] == "me"


def test_tls_from_url_and_settings() -> None:
    assert parse("rediss://h?ssl_cert_reqs=CERT_NONE&ssl_ca_certs=%2Fca.pem").tls == {
        "ssl_cert_reqs": "none",
        "ssl_ca_certs": "/ca.pem",
    }
    assert parse("redis://h", use_ssl={"ssl_cert_reqs": "required"}).tls == {"ssl_cert_reqs": "required"}
    assert parse("redis://h", use_ssl=True).tls == {}
    assert parse("redis://h").tls is None


@pytest.mark.parametrize(
    ("url", "complaint"),
    [
        ("amqp://h", "'amqp' is not a Redis scheme"),
        ("redis://h/two", "a Redis database is a number"),
        ("redis://h:port/0", "is not a number"),
        ("redis://h?socket_timeout=soon", "socket_timeout cannot be 'soon'"),
        ("redis://h?ssl_cert_reqs=none", "need the scheme rediss://"),
        ("rediss://h?ssl_cert_reqs=maybe", "ssl_cert_reqs must be CERT_REQUIRED"),
    ],
)
def test_what_cannot_be_read_is_said(url: str, complaint: str) -> None:
    with pytest.raises(ImproperlyConfigured, match=complaint):
        parse(url)


def test_unused_options_are_given_back_and_warned_of_once(caplog: pytest.LogCaptureFixture) -> None:
    _, rest = parse_address("redis://h?a=1", {"b": 2}, None, None)
    assert rest == {"a": "1", "b": 2}
    with caplog.at_level(logging.WARNING):
        warn_unknown(("odd-one",))
        warn_unknown(("odd-one",))
    assert len([r for r in caplog.records if "odd-one" in r.message]) == 1


SENTINELS = "sentinel://ann:secret@s1/3;sentinel://s2:7000;s3:7001"


def test_sentinels_are_read_as_kombu_reads_them() -> None:
    address, rest = parse_address(
        SENTINELS,
        {"master_name": "m", "sentinel_kwargs": {"password": "guard"}, "min_other_sentinels": 1, "more": 1},
        None,
        4.0,
    )
    assert (address.db, address.username, address.password) == (3, "ann", "secret")
    assert isinstance(address.way, Sentinels)
    places = [(each.host, each.port, each.password) for each in address.way.addresses]
    assert places == [("s1", 26379, "guard"), ("s2", 7000, "guard"), ("s3", 7001, "guard")]
    assert (address.way.master, address.way.others, rest) == ("m", 1, {"more": 1})
    assert address.display_url == "sentinel://s1:26379;sentinel://s2:7000;sentinel://s3:7001/3"
    other = parse_address(
        "sentinel://s2:7000/3;sentinel://s3:7001;sentinel://s1", {"master_name": "m"}, None, 4.0
    )
    assert other[0].identity == address.identity


@pytest.mark.parametrize(
    ("url", "options", "complaint"),
    [
        ("sentinel://h", {}, "set master_name in broker_transport_options"),
        ("sentinel://h;redis://h", {"master_name": "m"}, "must be sentinel://"),
        ("sentinel://h", {"master_name": "m", "ssl_ca_certs": "x"}, "need broker_use_ssl"),
    ],
)
def test_what_is_wrong_with_sentinels_is_said(url: str, options: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ImproperlyConfigured, match=complaint):
        parse_address(url, options, None, 4.0)


def test_the_first_sentinel_names_the_database(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        address, _ = parse_address("sentinel://a;sentinel://b/2", {"master_name": "m"}, None, 4.0)
    assert address.db == 0
    assert "it is 0, not 2" in caplog.text


def test_a_list_of_servers_is_one_store_in_any_order() -> None:
    one, two = parse("redis://a/1;redis://b/1"), parse("redis://b/1; redis://a/1")
    assert one.identity == two.identity == "redis://a:6379/1;redis://b:6379/1"
    assert one.identity != parse("redis://a/1").identity
