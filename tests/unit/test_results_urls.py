"""From a URL to a result backend, and the backend that is none."""

from __future__ import annotations

import pytest

from umbel.brokers.urls import broker_from_url
from umbel.errors import ImproperlyConfigured
from umbel.results.disabled import DisabledResultBackend
from umbel.results.options import ResultOptions, SendingOptions
from umbel.results.urls import backend_from_url
from umbel.testing.contracts.results import record


@pytest.mark.parametrize("url", ["memory://x", "sqlite:///x.db", "sqlite:///x.db?synchronous=full"])
def test_a_backend_shares_its_store_with_the_broker_of_the_same_url(url) -> None:
    assert backend_from_url(url).store == broker_from_url(url).store


def test_results_sent_through_a_broker_in_memory_are_kept_beside_its_messages() -> None:
    options = ResultOptions(sending=SendingOptions(urls=("memory://beside",)))
    backend = backend_from_url("rpc://", options)
    assert backend.store == broker_from_url("memory://beside").store
    backend.save([record("1")])
    assert backend.load(["1"]) == backend_from_url("memory://beside").load(["1"]) != [None]


@pytest.mark.parametrize("url", ["", "disabled", "disabled://"])
def test_no_backend_is_a_backend(url) -> None:
    backend = backend_from_url(url)
    assert isinstance(backend, DisabledResultBackend)
    assert not backend.stores_results
    assert backend.store == ""


def test_options_reach_the_backend() -> None:
    options = ResultOptions(serializer="msgpack")
    assert {backend_from_url(url, options).serializer for url in ("", "memory://", "sqlite:///x")} == {
        "msgpack"
    }


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("mongodb://user:secret@host", "mongodb:// is not in this version; use redis://"),
        ("rpc://", "must be RabbitMQ or Redis; it is not set"),
        ("amqp://user:secret@host//", "use rpc://, which sends results through the broker"),
        ("kafka://user:secret@host", "unknown scheme 'kafka'"),
        ("user:secret@host/", "expected a URL"),
        ("sqlite://", "sqlite:///path"),
    ],
)
def test_what_cannot_be_served_is_refused_with_a_hint(url, words) -> None:
    with pytest.raises(ImproperlyConfigured, match=words) as caught:
        backend_from_url(url)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "state", "seconds"),
    [
        (ResultOptions(), "SUCCESS", 86400),
        (ResultOptions(expires=None), "SUCCESS", float("inf")),
        (ResultOptions(expires=0), "FAILURE", float("inf")),
        (ResultOptions(expires=10, failure_expires=20), "FAILURE", 20),
        (ResultOptions(expires=10, failure_expires=0), "FAILURE", float("inf")),
        (ResultOptions(expires=10, failure_expires=20), "RETRY", 10),
    ],
)
def test_how_long_a_result_is_kept(options, state, seconds) -> None:
    assert options.lifetime(state) == seconds


async def test_the_disabled_backend_drops_and_refuses() -> None:
    backend = backend_from_url("disabled://")
    backend.expect(["1"])
    backend.save([record("1")])
    await backend.asave([record("1")])
    backend.forget(["1"])
    backend.close()
    with pytest.raises(NotImplementedError, match="No result backend is configured"):
        backend.load(["1"])
    with pytest.raises(NotImplementedError):
        await backend.aload(["1"])
    with pytest.raises(NotImplementedError):
        backend.wait(["1"], None)
    with pytest.raises(NotImplementedError):
        backend.await_(["1"], None)
