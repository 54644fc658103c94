"""Serializers by name and content type, and what a reader refuses."""

from __future__ import annotations

import pickle
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest

from umbel.core import serializers
from umbel.core.serializers import Serializer, SerializerRegistry, accept_set, dumps, loads
from umbel.errors import ContentDisallowed, DecodeError, EncodeError, ImproperlyConfigured

EVERY = accept_set(["json", "pickle", "yaml", "msgpack"])
JSON = accept_set(["json"])


@dataclass
class Point:
    x: int


@pytest.mark.parametrize(
    ("name", "content_type", "encoding"),
    [
        ("json", "application/json", "utf-8"),
        ("pickle", "application/x-python-serialize", "binary"),
        ("yaml", "application/x-yaml", "utf-8"),
        ("msgpack", "application/x-msgpack", "binary"),
    ],
)
def test_every_serializer_has_kombu_s_types_and_reads_what_it_wrote(
    name: str, content_type: str, encoding: str
) -> None:
    value = {"text": "é", "list": [1, None, 2.5, True]}
    written = dumps(value, name)
    assert written[:2] == (content_type, encoding)
    assert loads(written[2], content_type, encoding, EVERY) == value


def test_pickle_keeps_kombu_s_protocol() -> None:
    assert dumps((1,), "pickle")[2] == pickle.dumps((1,), protocol=4)


def test_raw_passes_bytes_and_text_on() -> None:
    assert dumps(b"\xff", "raw") == ("application/data", "binary", b"\xff")
    assert dumps("é", "raw") == ("application/data", "utf-8", "é".encode())
    with pytest.raises(EncodeError, match="int with raw"):
        dumps(5, "raw")


@pytest.mark.parametrize("value", [datetime.now(UTC), Decimal(1), {1}, Point(1), [{"deep": b"x", "bad": 1j}]])
def test_msgpack_refuses_what_would_read_back_as_something_else(value: Any) -> None:
    with pytest.raises(EncodeError, match="msgpack has no form"):
        dumps(value, "msgpack")


@pytest.mark.parametrize("name", ["json", "pickle", "yaml", "msgpack"])
def test_an_unwritable_value_names_its_type_and_serializer(name: str) -> None:
    with pytest.raises(EncodeError, match=rf"(?i)function.*{name}"):
        dumps(lambda: None, name)


def test_an_unknown_serializer_names_the_known_ones() -> None:
    for fails in (lambda: dumps(1, "jsno"), lambda: accept_set(["jsno"])):
        with pytest.raises(ImproperlyConfigured, match="unknown serializer 'jsno'; known are json, msgpack"):
            fails()


def test_accept_takes_names_and_content_types() -> None:
    assert accept_set(["json", "text/x-mine"]) == {"application/json", "text/x-mine"}


def test_a_type_that_is_not_accepted_is_refused_in_celery_s_words() -> None:
    class Bomb:
        def __reduce__(self) -> Any:
            return pytest.fail, ("unpickled",)

    kind = "application/x-python-serialize"
    with pytest.raises(ContentDisallowed) as refused:
        loads(pickle.dumps(Bomb()), kind, "binary", JSON)
    assert str(refused.value) == f"Refusing to deserialize untrusted content of type pickle ({kind})"
    with pytest.raises(ContentDisallowed, match="Refusing to deserialize disabled content of type pickle"):
        loads(b"", kind, "binary", None)
    with pytest.raises(ContentDisallowed, match=r"untrusted content of type x/y \(x/y\)"):
        loads(b"", "x/y", "binary", JSON)


def test_plain_data_is_always_trusted() -> None:
    assert loads(b"\xff", "application/data", "binary", JSON) == b"\xff"
    assert loads("é".encode("latin-1"), "application/text", "latin-1", JSON) == "é"
    assert loads(b"a", "", "", JSON) == "a"
    assert loads(b"[1]", "application/json", "utf-8", None) == [1]


@pytest.mark.parametrize("content_type", sorted(EVERY))
@pytest.mark.parametrize("data", [b"\xff\xff", b"\x93", b"\xc1"])
def test_bytes_that_are_not_what_they_say_are_a_decode_error(content_type: str, data: bytes) -> None:
    with pytest.raises(DecodeError):
        loads(data, content_type, "utf-8", EVERY)


@pytest.mark.parametrize("encoding", ["utf-8", "no-such-encoding", "rot13"])
def test_text_of_a_bad_encoding_is_a_decode_error(encoding: str) -> None:
    with pytest.raises(DecodeError, match="application/text"):
        loads(b"\xff", "application/text", encoding, JSON)


def test_a_registered_serializer_is_used_and_forgotten() -> None:
    serializers.register(
        "reversed", lambda value: value[::-1], lambda data: data[::-1].decode(), "text/x-reversed"
    )
    try:
        assert dumps("abc", "reversed") == ("text/x-reversed", "utf-8", b"cba")
        assert loads(b"cba", "text/x-reversed", "utf-8", accept_set(["reversed"])) == "abc"
    finally:
        serializers.unregister("reversed")
    with pytest.raises(ImproperlyConfigured, match="unknown serializer 'reversed'"):
        serializers.unregister("reversed")


def test_a_serializer_may_only_read() -> None:
    serializers.register("reader", None, bytes.decode, "text/x-reader")
    try:
        with pytest.raises(ImproperlyConfigured, match="can only read"):
            dumps("a", "reader")
    finally:
        serializers.unregister("reader")


def test_registries_do_not_share() -> None:
    mine = SerializerRegistry([Serializer("x", None, bytes.decode, "text/x", "utf-8")])
    assert mine.named("x").content_type == "text/x"
    assert serializers.registry.for_type("text/x") is None
