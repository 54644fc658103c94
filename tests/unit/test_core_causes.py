"""Causes of dead letters as text, and losses as a header of the message."""

from __future__ import annotations

import pytest

from umbel.core.causes import (
    Cause,
    Loss,
    Losses,
    add_losses,
    cause_of,
    forget_losses,
    kind_of_refusal,
    losses_of,
    read_cause,
    write_cause,
)
from umbel.core.destination import Destination
from umbel.core.protocol import pack_kombu, pack_native, peek, read_envelope, repack
from umbel.errors import ContentDisallowed, DecodeError, InvalidTaskError
from umbel.testing.contracts.support import envelope

TO = Destination("", "q", "q")
FORMS = [pack_kombu(envelope("1"), TO), pack_native(envelope("1"))]


class Rude(Exception):
    def __str__(self) -> str:
        raise RuntimeError


@pytest.mark.parametrize("payload", FORMS)
def test_losses_are_counted_in_the_message(payload: bytes) -> None:
    assert losses_of(payload) == Losses()
    once = add_losses(payload, [Loss("a@h", 1.5)])
    assert losses_of(once) == Losses(1, (Loss("a@h", 1.5),))
    often = add_losses(once, [Loss("b@h", float(at)) for at in range(20)])
    assert losses_of(often).count == 21
    assert losses_of(often).last[-1] == Loss("b@h", 19.0)
    assert len(losses_of(often).last) == 10
    assert peek(often).redelivered
    fresh = forget_losses(often, without=["lang"])
    assert losses_of(fresh).count == 0
    assert not peek(fresh).redelivered
    assert read_envelope(fresh).body == read_envelope(payload).body
    assert "lang" not in read_envelope(fresh).headers


@pytest.mark.parametrize(
    "told", [3, "x", {"count": "many"}, {"last": [1]}, [], {"count": 1, "last": [["a"]]}]
)
def test_strange_headers_tell_of_no_loss(told: object) -> None:
    payload = repack(FORMS[0], headers={"umbel-losses": told})
    assert losses_of(payload) == Losses()
    assert losses_of(add_losses(payload, [Loss("a", 1.0)])).count == 1


def test_what_is_no_message_is_left_alone() -> None:
    assert losses_of(b"junk") == Losses()
    assert add_losses(b"junk", [Loss("a", 1.0)]) == b"junk"
    assert forget_losses(b"junk") == b"junk"


def test_a_replayed_message_has_a_tag_of_its_own_where_tags_travel_along() -> None:
    assert peek(forget_losses(FORMS[0])).delivery_tag != peek(FORMS[0]).delivery_tag


def test_causes_are_written_as_text() -> None:
    cause = Cause("failed", "E", "m", "t", "w")
    assert read_cause(write_cause("ré\udc80ason", cause)) == ("ré\\udc80ason", cause)
    assert read_cause(write_cause("r", None)) == ("r", Cause("rejected"))
    for plain in ("", "as it was", '{"reason": 1', '{"reason":1}', "{}"):
        assert read_cause(plain) == (plain, Cause("rejected"))


def test_causes_are_made_of_exceptions() -> None:
    assert cause_of("unknown") == Cause("unknown")
    assert cause_of("failed", ValueError("no"), "tb") == Cause("failed", "ValueError", "no", "tb")
    assert cause_of("failed", Rude()).message == "<unprintable: RuntimeError>"
    long = cause_of("failed", ValueError("x" * 10_000), "y" * 100_000 + "end")
    assert len(long.message) < 3000
    assert len(long.traceback) < 20_000
    assert long.traceback.endswith("end")


def test_refusals_have_kinds() -> None:
    errors = (ContentDisallowed("x"), InvalidTaskError("x"), DecodeError("x"))
    assert [kind_of_refusal(error) for error in errors] == ["unaccepted", "invalid", "undecodable"]
