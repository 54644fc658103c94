"""Messages on the wire: protocol 2 as Celery writes it, older forms read, garbage of every kind refused."""

from __future__ import annotations

import json
import uuid
from base64 import b64encode
from collections import UserDict
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from umbel.core.destination import Destination
from umbel.core.message import Call
from umbel.core.protocol import (
    Envelope,
    Header,
    build_message,
    decode_body,
    encode,
    open_body,
    pack_kombu,
    pack_native,
    peek,
    read_envelope,
    repack,
    upgrade,
)
from umbel.core.serializers import accept_set
from umbel.errors import ContentDisallowed, DecodeError, EncodeError, InvalidTaskError

JSON = accept_set(["json"])
EVERY = accept_set(["json", "pickle", "yaml", "msgpack"])
QUEUE = Destination("", "celery", "celery")
TASK_ID = "11111111-1111-4111-8111-111111111111"
NO_EMBED = {"callbacks": None, "errbacks": None, "chain": None, "chord": None}
READING_ERRORS = (DecodeError, InvalidTaskError, ContentDisallowed)
FORMS = {"kombu": lambda envelope: pack_kombu(envelope, QUEUE), "native": pack_native}


def make_call(**changes: Any) -> Call:
    return Call(
        **{
            "task": "wapp.add",
            "id": TASK_ID,
            "args": (2, 2),
            "origin": "gen1@vm",
            "reply_to": "oid",
            **changes,
        }
    )


def make_envelope(**changes: Any) -> Envelope:
    return encode(build_message(make_call(**changes)), "json", None)


def kombu_payload(headers: Any, body: Any, **properties: Any) -> bytes:
    """A payload as another program writes it by hand."""
    document = {
        "body": b64encode(json.dumps(body).encode()).decode(),
        "content-type": "application/json",
        "content-encoding": "utf-8",
        "headers": headers,
        "properties": {"body_encoding": "base64", **properties},
    }
    return json.dumps(document).encode()


def test_headers_are_celery_s_in_celery_s_order() -> None:
    message = build_message(make_call())
    assert list(message.headers.items()) == [
        ("lang", "py"),
        ("task", "wapp.add"),
        ("id", TASK_ID),
        ("shadow", None),
        ("eta", None),
        ("expires", None),
        ("group", None),
        ("group_index", None),
        ("retries", 0),
        ("timelimit", [None, None]),
        ("root_id", TASK_ID),
        ("parent_id", None),
        ("argsrepr", "(2, 2)"),
        ("kwargsrepr", "{}"),
        ("origin", "gen1@vm"),
        ("ignore_result", False),
        ("replaced_task_nesting", 0),
        ("stamped_headers", None),
        ("stamps", {}),
    ]
    assert message.id == TASK_ID
    assert message.properties == {
        "correlation_id": TASK_ID,
        "reply_to": "oid",
        "delivery_mode": 2,
        "priority": 0,
    }


def test_options_go_where_celery_puts_them() -> None:
    call = make_call(
        expiration=300,
        time_limit=30,
        soft_time_limit=20,
        group_index=0,
        custom_headers={"x-my": "1", "shadow": "mine"},
        extra_properties={"app_id": "1234"},
        stamped_headers=["mon"],
        stamps={"mon": "abc"},
        argsrepr="(secret)",
        priority=6,
    )
    message = build_message(call)
    assert message.headers["timelimit"] == [30, 20]  # hard first
    assert message.headers["group_index"] == 0
    assert (message.headers["x-my"], message.headers["shadow"]) == ("1", "mine")
    assert (message.headers["stamped_headers"], message.headers["stamps"]) == (["mon"], {"mon": "abc"})
    assert message.headers["argsrepr"] == "(secret)"
    assert (message.properties["expiration"], message.properties["priority"]) == ("300000", 6)
    assert message.properties["app_id"] == "1234"


@pytest.mark.parametrize(("args", "kwargs"), [("text", {}), ({1}, {}), ((), [1])])
def test_arguments_of_a_wrong_kind_are_refused(args: Any, kwargs: Any) -> None:
    with pytest.raises(TypeError, match="must be a"):
        build_message(make_call(args=args, kwargs=kwargs))


def test_any_mapping_of_keyword_arguments_is_taken() -> None:
    assert build_message(make_call(kwargs=UserDict(a=1))).kwargs == {"a": 1}


def test_the_payload_is_kombu_s() -> None:
    payload = json.loads(pack_kombu(make_envelope(), QUEUE))
    assert list(payload) == ["body", "content-encoding", "content-type", "headers", "properties"]
    assert payload["content-type"] == "application/json"
    assert payload["content-encoding"] == "utf-8"
    properties = payload["properties"]
    assert uuid.UUID(properties.pop("delivery_tag")).version == 4
    assert properties == {
        "correlation_id": TASK_ID,
        "reply_to": "oid",
        "delivery_mode": 2,
        "priority": 0,
        "delivery_info": {"exchange": "", "routing_key": "celery"},
        "body_encoding": "base64",
    }


def test_every_payload_has_a_tag_of_its_own_and_leaves_the_envelope_alone() -> None:
    envelope = make_envelope()
    before = dict(envelope.properties)
    assert peek(pack_kombu(envelope, QUEUE)).delivery_tag != peek(pack_kombu(envelope, QUEUE)).delivery_tag
    assert envelope.properties == before


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("compression", [None, "gzip", "zlib", "bzip2", "xz", "zstd", "brotli"])
@pytest.mark.parametrize("serializer", ["json", "pickle", "yaml", "msgpack"])
def test_a_message_survives_every_form(form: str, serializer: str, compression: str | None) -> None:
    message = build_message(
        make_call(args=[1, "é", None, {"a": [1.5]}], kwargs={"k": True}, chord={"task": "t"})
    )
    payload = FORMS[form](encode(message, serializer, compression))
    args, kwargs, embed = decode_body(read_envelope(payload), EVERY)
    assert (list(args), kwargs, embed) == (message.args, message.kwargs, message.embed)
    assert peek(payload).task == "wapp.add"
    assert upgrade(read_envelope(payload), EVERY).headers["id"] == TASK_ID


@pytest.mark.parametrize("form", FORMS)
def test_headers_of_special_types_survive(form: str) -> None:
    headers = {
        "at": datetime(2026, 1, 1, tzinfo=UTC),
        "who": uuid.UUID(int=5),
        "big": 10**30,
        "odd": "\ud800",
    }
    payload = FORMS[form](make_envelope(custom_headers=headers))
    assert {name: read_envelope(payload).headers[name] for name in headers} == headers
    assert peek(payload).task == "wapp.add"
    assert {
        name: read_envelope(repack(payload, redelivered=True)).headers[name] for name in headers
    } == headers


@pytest.mark.parametrize("form", FORMS)
def test_a_header_without_a_json_form_is_an_error(form: str) -> None:
    with pytest.raises(EncodeError, match="object"):
        FORMS[form](make_envelope(custom_headers={"x": object()}))


def test_the_native_form_never_looks_like_json() -> None:
    assert pack_native(make_envelope())[:1] != b"{"


def test_an_old_compression_header_does_not_outlive_its_body() -> None:
    envelope = make_envelope(custom_headers={"compression": "application/x-gzip"})
    assert decode_body(envelope, JSON)[0] == [2, 2]


@pytest.mark.parametrize("form", FORMS)
def test_peek_reads_what_the_supervisor_needs(form: str) -> None:
    call = make_call(
        eta="2026-01-01T00:00:00+00:00", retries=3, time_limit=1.5, shadow="s", priority=4, group_id="g"
    )
    header = peek(FORMS[form](encode(build_message(call), "json", "gzip")))
    assert (header.id, header.task, header.name) == (TASK_ID, "wapp.add", "s")
    assert (header.eta, header.retries, header.timelimit) == ("2026-01-01T00:00:00+00:00", 3, (1.5, None))
    assert (header.priority, header.group, header.ignore_result, header.redelivered) == (4, "g", False, False)
    assert (header.reply_to, header.correlation_id, header.root_id) == ("oid", TASK_ID, TASK_ID)


def test_peek_reads_the_minimal_headers_of_other_clients() -> None:
    header = peek(kombu_payload({"lang": "js", "task": "t", "id": "i"}, [[], {}, {}]))
    assert header == Header(id="i", task="t")
    assert header.name == "t"


@pytest.mark.parametrize(
    ("field", "value", "expected"),
    [
        ("retries", None, 0),
        ("retries", "2", 2),
        ("retries", 1e999, 0),
        ("retries", {"__type__": "decimal", "__value__": "1E+999999999"}, 0),
        ("timelimit", None, (None, None)),
        ("timelimit", [5], (5, None)),
        ("timelimit", "soon", (None, None)),
        ("eta", 5, "5"),
        ("eta", {"__type__": "datetime", "__value__": "2026-01-01T00:00:00"}, "2026-01-01T00:00:00"),
        ("stamps", None, {}),
        ("stamped_headers", ["a", 1], ["a"]),
        ("ignore_result", None, None),
        ("task", 5, ""),
        ("task", None, ""),
        ("id", 7, "7"),
        ("id", ["x"], ""),
        ("shadow", "\ud800", "\ud800"),
        ("origin", "a\0b", "a\0b"),
    ],
)
def test_peek_takes_a_field_of_a_wrong_type(field: str, value: Any, expected: Any) -> None:
    header = peek(kombu_payload({"task": "t", "id": "i", field: value}, []))
    assert getattr(header, field) == expected


def test_peek_and_read_take_properties_of_wrong_types() -> None:
    payload = kombu_payload({"task": "t", "id": "i"}, [], priority="high", delivery_info=5, delivery_tag=9)
    assert (peek(payload).priority, peek(payload).delivery_tag) == (0, "9")
    assert peek(kombu_payload(None, [])).task == ""
    assert read_envelope(b' {"body": "[]"}').body == b"[]"


def test_a_lone_surrogate_in_a_header_leaves_the_body_alone() -> None:
    envelope = Envelope({"argsrepr": "('\ud800',)"}, {}, "application/json", "utf-8", b"[]")
    payload = pack_kombu(envelope, Destination("", "q", "q"))
    assert json.loads(payload)["body"] == b64encode(b"[]").decode()
    assert read_envelope(payload).headers == envelope.headers


@pytest.mark.parametrize("name", ["id", "task", "root_id", "parent_id", "group"])
def test_a_lone_surrogate_in_a_name_is_refused(name: str) -> None:
    payload = kombu_payload({"task": "t", "id": "i", name: "\ud800"}, [])
    with pytest.raises(DecodeError, match=f"a message's {name} is no valid text"):
        peek(payload)


def test_a_lone_surrogate_in_the_address_of_the_reply_is_refused() -> None:
    with pytest.raises(DecodeError, match="a message's reply_to is no valid text"):
        peek(kombu_payload({"task": "t", "id": "i"}, [], reply_to="\ud800"))


@pytest.mark.parametrize("form", FORMS)
def test_repack_changes_what_it_is_told_and_keeps_the_rest(form: str) -> None:
    payload = FORMS[form](make_envelope())
    changed = repack(payload, redelivered=True, headers={"retries": 2}, new_tag=True)
    old, new = read_envelope(payload), read_envelope(changed)
    assert peek(changed).redelivered
    assert new.headers == {**old.headers, "retries": 2, "redelivered": True}
    assert new.properties["delivery_info"] == {**old.properties.get("delivery_info", {}), "redelivered": True}
    assert peek(changed).delivery_tag != peek(payload).delivery_tag
    assert (new.body, new.content_type) == (old.body, old.content_type)
    assert read_envelope(repack(payload)) == old


def test_repack_keeps_what_it_does_not_know() -> None:
    payload = (
        b'{"body": "", "headers": null, "extra": {"__type__": "unknown", "__value__": NaN}, "properties": {}}'
    )
    assert b'"__type__": "unknown", "__value__": NaN' in repack(payload, headers={"a": 1})


def test_nothing_is_decompressed_or_decoded_before_it_is_accepted() -> None:
    envelope = Envelope(
        {"compression": "application/x-gzip"}, {}, "application/x-python-serialize", "binary", b"junk"
    )
    for reads in (decode_body, upgrade):
        with pytest.raises(ContentDisallowed, match="untrusted content of type pickle"):
            reads(envelope, JSON)


@pytest.mark.parametrize(
    "body", [[], [[]], [[], {}], [[], {}, {}], [None, None, None], [[], {}, {"chain": None}]]
)
def test_short_bodies_are_complete_enough(body: Any) -> None:
    args, kwargs, embed = decode_body(read_envelope(kombu_payload({}, body)), JSON)
    assert (list(args), kwargs, embed) == ([], {}, NO_EMBED)


@pytest.mark.parametrize(
    "body",
    [5, "x", None, [5], [[], 5], [[], {}, 5], [[], {}, {"chain": 5}], [[], {}, {"chain": [5]}], [[], {}, {}, {}],
     [[], {}, {"chord": [1]}], {"args": 5}, {"kwargs": []}],
)  # fmt: skip
def test_a_body_that_is_no_task_s_is_invalid(body: Any) -> None:
    with pytest.raises(InvalidTaskError):
        decode_body(read_envelope(kombu_payload({}, body)), JSON)


V1_BODY = {
    "task": "wapp.add", "id": "i", "args": [2, 2], "kwargs": {"k": 1}, "group": None, "group_index": None,
    "retries": 2, "eta": None, "expires": None, "utc": True, "callbacks": [{"task": "cb"}], "errbacks": None,
    "timelimit": [9, None], "taskset": "g", "chord": None,
}  # fmt: skip


@pytest.mark.parametrize("serializer", ["json", "pickle", "yaml", "msgpack"])
@pytest.mark.parametrize("compression", [None, "gzip"])
def test_protocol_1_becomes_protocol_2(serializer: str, compression: str | None) -> None:
    from umbel.core.compression import compress
    from umbel.core.serializers import dumps

    content_type, encoding, body = dumps(V1_BODY, serializer)
    headers: dict[str, Any] = {"x-my": 1}
    if compression:
        headers["compression"], body = compress(body, compression)
    envelope = Envelope(headers, {"correlation_id": "i"}, content_type, encoding, body)
    assert peek(pack_native(envelope)).task == ""
    upgraded = upgrade(envelope, EVERY)
    assert decode_body(upgraded, EVERY) == ([2, 2], {"k": 1}, {**NO_EMBED, "callbacks": [{"task": "cb"}]})
    header = peek(pack_kombu(upgraded, QUEUE))
    assert (header.task, header.id, header.root_id, header.group) == ("wapp.add", "i", "i", "g")
    assert (header.retries, header.timelimit, upgraded.headers["argsrepr"]) == (2, (9, None), "[2, 2]")
    assert upgraded.headers["x-my"] == 1
    assert "compression" not in upgraded.headers


def test_a_hybrid_message_takes_its_headers_over_its_body() -> None:
    payload = kombu_payload({"task": "t", "id": "i", "retries": 5}, {**V1_BODY, "retries": 1})
    headers = upgrade(read_envelope(payload), JSON).headers
    assert (headers["task"], headers["retries"], headers["group"]) == ("t", 5, "g")


def test_protocol_2_is_left_as_it_is() -> None:
    envelope = make_envelope()
    assert upgrade(envelope, JSON) is envelope


@pytest.mark.parametrize(
    ("headers", "body"),
    [({}, {"id": "i", "args": []}), ({}, []), ({}, 5), ({"task": 5, "id": "i"}, []), ({"task": "t"}, []),
     ({"task": "", "id": "i"}, []), ({}, {"task": "t"}), ({}, {"task": ["t"], "id": "i"})],
)  # fmt: skip
def test_a_message_that_names_no_task_is_invalid(headers: Any, body: Any) -> None:
    with pytest.raises(InvalidTaskError):
        upgrade(read_envelope(kombu_payload(headers, body)), JSON)


@pytest.mark.parametrize(
    ("payload", "says"),
    [
        (b"", "neither"),
        (b"hello", "neither"),
        (b"[1]", "neither"),
        (b"{", "JSON"),
        (b'{"headers": 5}', "headers must be an object, not int"),
        (b'{"properties": []}', "properties must be an object, not list"),
        (b'{"body": 5}', "body must be text, not int"),
        (b'{"body": "\\ud800"}', "body is not utf-8"),
        (b'{"body": "a", "properties": {"body_encoding": "base64"}}', "body is not base64"),
        (b'{"body": "a", "properties": {"body_encoding": ["x"]}}', "body_encoding must be base64"),
        (b'{"body": "a", "content-type": {}}', "content-type must be text, not dict"),
        (msgspec.msgpack.encode([b"x", {}, "", "", b""]), "JSON"),
        (msgspec.msgpack.encode([b"[]", {}, "", "", b""]), "headers must be an object"),
        (b'{"a":' * 50_000, "nested too deeply"),
    ],
)
def test_what_is_wrong_with_a_payload_is_said(payload: bytes, says: str) -> None:
    for read in (read_envelope, repack):
        if says.startswith(("body", "content")) and read is repack:
            continue  # repack leaves them alone
        with pytest.raises(DecodeError, match=says):
            read(payload)


def read_fully(payload: bytes) -> None:
    """All that a worker does to a payload before it runs a task."""
    with suppress(*READING_ERRORS):
        header = peek(payload)
        assert isinstance(header.task, str)
        assert isinstance(header.retries, int)
        assert isinstance(header.timelimit, tuple)
    with suppress(*READING_ERRORS):
        envelope = read_envelope(payload)
        with suppress(*READING_ERRORS):
            decode_body(envelope, EVERY - accept_set(["pickle"]))
        upgraded = upgrade(envelope, EVERY - accept_set(["pickle"]))
        assert isinstance(upgraded.headers["task"], str)
        decode_body(upgraded, EVERY)
    with suppress(*READING_ERRORS):
        repack(payload, redelivered=True, new_tag=True)


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    read_fully(data)
    read_fully(b"{" + data)
    read_fully(b"\x95" + data)


@given(st.sampled_from(sorted(FORMS)), st.integers(0, 700), st.binary(max_size=3), st.integers(0, 3))
def test_damaged_messages_are_read_or_refused(form: str, at: int, junk: bytes, dropped: int) -> None:
    payload = FORMS[form](make_envelope())
    read_fully(payload[:at])
    read_fully(payload[:at] + junk + payload[at + dropped :])


names = st.sampled_from(
    [*build_message(make_call()).headers, "compression", "utc", "redelivered", "args", "kwargs"]
)
texts = st.text(st.characters(exclude_categories=()), max_size=6) | st.sampled_from(
    [
        "application/x-gzip",
        "application/json",
        "application/x-yaml",
        "application/x-msgpack",
        "base64",
        "binary",
        "t",
    ]
)
anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | texts,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(texts | names | st.sampled_from(["__type__", "__value__"]), inner, max_size=3)
    ),
    max_leaves=6,
)
documents = st.fixed_dictionaries(
    {},
    optional={
        "body": anything
        | st.lists(anything, max_size=4).map(json.dumps)
        | st.dictionaries(names, anything).map(json.dumps),
        "headers": st.dictionaries(names, anything) | anything,
        "properties": st.dictionaries(
            st.sampled_from(["priority", "delivery_tag", "delivery_info", "body_encoding", "reply_to"]),
            anything,
        )
        | anything,
        "content-type": st.just("application/json") | texts | anything,
        "content-encoding": texts | anything,
    },
)


@given(documents)
def test_json_of_wrong_shapes_is_read_or_refused(document: Any) -> None:
    read_fully(json.dumps(document).encode())


@given(
    st.tuples(
        st.dictionaries(names, anything) | st.binary(max_size=9), anything, anything, anything, st.binary()
    )
)
def test_msgpack_of_wrong_shapes_is_read_or_refused(document: Any) -> None:
    with suppress(OverflowError, UnicodeEncodeError):
        read_fully(msgspec.msgpack.encode(document))


@given(
    anything,
    st.dictionaries(st.text(max_size=4), anything, max_size=3),
    st.dictionaries(texts, anything, max_size=3),
)
def test_arguments_and_headers_survive_both_forms(value: Any, kwargs: Any, headers: Any) -> None:
    call = make_call(
        args=[value], kwargs=kwargs, custom_headers={f"x-{name}": item for name, item in headers.items()}
    )
    with suppress(DecodeError):  # an object that looks like a tagged type and is none
        envelope = encode(build_message(call), "json", None)
        kombu, native = read_envelope(pack_kombu(envelope, QUEUE)), read_envelope(pack_native(envelope))
        assert repr(kombu.headers) == repr(native.headers)
        assert kombu.body == native.body
        assert repr(decode_body(kombu, JSON)) == repr(decode_body(native, JSON))


STEP = {"task": "wapp.add", "args": [1], "kwargs": {}, "options": {"task_id": TASK_ID}, "subtask_type": None}


class TestTail:
    """A chain that is passed on without being read."""

    def open(self, chain: Any, **changes: Any) -> Any:
        return open_body(make_envelope(chain=chain, **changes), JSON)

    def test_a_long_chain_is_left_unread(self) -> None:
        chain = [{**STEP, "args": [number, 'ü\n"]']} for number in range(20)]
        args, kwargs, embed, tail = self.open(chain, errbacks=[STEP])
        assert (args, kwargs, embed) == ([2, 2], {}, {**NO_EMBED, "errbacks": [STEP]})
        assert tail.steps() == chain
        step, rest = tail.split()
        assert (step, rest.steps()) == (chain[-1], chain[:-1])

    def test_it_is_written_as_it_came(self) -> None:
        chain = [{**STEP, "args": [number]} for number in range(20)]
        tail = self.open(chain)[3]
        assert make_envelope(chain=tail).body == make_envelope(chain=chain).body
        yaml = encode(build_message(make_call(chain=tail)), "yaml", None)
        assert decode_body(yaml, EVERY)[2]["chain"] == chain

    def test_it_is_written_beside_what_only_the_standard_library_writes(self) -> None:
        chain = [STEP] * 20
        now = datetime.now(UTC)
        for args in ([now], ["\ud800"]):
            envelope = make_envelope(args=args, chain=self.open(chain)[3])
            assert decode_body(envelope, JSON)[::2] == (args, {**NO_EMBED, "chain": chain})

    @pytest.mark.parametrize(
        "changes",
        [
            {"chain": [STEP]},
            {"chain": [{**STEP, "kwargs": {"at": {"__type__": "date", "__value__": "2026-11-22"}}}] * 20},
            {"chain": None, "args": ("x" * 2000,)},
        ],
        ids=["short", "tagged", "none"],
    )
    def test_anything_else_is_read_whole(self, changes: dict[str, Any]) -> None:
        envelope = make_envelope(**changes)
        *parts, tail = open_body(envelope, JSON)
        assert (tuple(parts), tail) == (decode_body(envelope, JSON), None)

    def test_what_is_no_signature_is_refused_when_it_is_next(self) -> None:
        with pytest.raises(InvalidTaskError):
            self.open([STEP] * 20 + [7])
        with pytest.raises(DecodeError, match="int"):
            self.open([7] + [STEP] * 20)[3].steps()

    def test_content_that_is_not_accepted_is_not_looked_at(self) -> None:
        with pytest.raises(ContentDisallowed):
            open_body(make_envelope(chain=[STEP] * 20), accept_set(["yaml"]))


@given(
    body=st.binary(max_size=40),
    header=st.text(max_size=8),
    encoding=st.sampled_from(["base64", "utf-8", None]),
)
def test_an_envelope_reads_alike_however_it_is_written(
    body: bytes, header: str, encoding: str | None
) -> None:
    """The quick way for what nearly every payload looks like, and the other for the rest, agree."""
    text = b64encode(body).decode() if encoding == "base64" else body.hex()
    document = {
        "body": text,
        "content-encoding": "utf-8",
        "content-type": "application/json",
        "headers": {"task": header, "at": {"__type__": "date", "__value__": "2026-11-22"}},
        "properties": {"body_encoding": encoding, "priority": 3},
    }
    tagged = read_envelope(json.dumps(document).encode())
    document["headers"]["at"] = "2026-11-22"  # type: ignore[index]
    plain = read_envelope(json.dumps(document).encode())
    wanted = body if encoding == "base64" else text.encode()
    assert tagged.body == plain.body == wanted
    assert plain.headers == {"task": header, "at": "2026-11-22"}
    assert tagged.headers["at"].isoformat() == "2026-11-22"
    assert tagged.properties == plain.properties == {"priority": 3}
