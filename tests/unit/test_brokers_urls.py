"""From a URL to a broker."""

from __future__ import annotations

import subprocess
import sys

import pytest

from umbel.brokers.memory import MemoryBroker
from umbel.brokers.options import BrokerOptions
from umbel.brokers.sqlite import SqliteBroker
from umbel.brokers.urls import broker_from_url
from umbel.errors import ImproperlyConfigured


def test_memory_brokers_of_one_name_meet() -> None:
    assert isinstance(broker_from_url("memory://"), MemoryBroker)
    assert broker_from_url("memory://a").store == broker_from_url("memory://a/").store == "memory://a"
    assert broker_from_url("memory://a").store != broker_from_url("memory://b").store


def test_a_relative_path_is_of_the_working_directory(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    broker = broker_from_url("sqlite:///umbel.db")
    assert isinstance(broker, SqliteBroker)
    monkeypatch.chdir("/")
    assert broker.location.path == str(tmp_path.resolve() / "umbel.db")
    assert not list(tmp_path.iterdir())  # nothing is opened before it is used


def test_an_absolute_path_has_four_slashes(tmp_path) -> None:
    broker = broker_from_url(f"sqlite:///{tmp_path}/with%20space.db")
    assert broker.store == f"sqlite:///{tmp_path.resolve()}/with space.db"


def test_links_lead_to_one_store(tmp_path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    real, link = (broker_from_url(f"sqlite:///{tmp_path}/{name}/u.db") for name in ("real", "link"))
    assert real.store == link.store


@pytest.mark.parametrize(
    ("url", "transport", "synchronous"),
    [
        ("sqlite:///x.db", {}, "normal"),
        ("sqlite:///x.db?synchronous=full", {}, "full"),
        ("sqlite:///x.db", {"synchronous": "FULL"}, "full"),
        ("sqlite:///x.db?synchronous=normal", {"synchronous": "full"}, "normal"),
    ],
)
def test_synchronous_comes_from_the_url_or_the_options(url, transport, synchronous) -> None:
    broker = broker_from_url(url, BrokerOptions(transport=transport))
    assert isinstance(broker, SqliteBroker)
    assert broker.location.synchronous == synchronous


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("sqlite://", "sqlite:///path"),
        ("sqlite:///", "sqlite:///path"),
        ("sqlite:///:memory:", "memory://"),
        ("sqlite:///x.db?sync=full", "'sync'"),
        ("sqlite:///x.db?synchronous=off", "'off'"),
        ("sqs://guest:secret@host//", "sqs:// brokers are not in this version"),
        ("kafka://user:secret@host", "unknown scheme 'kafka'"),
        ("user:secret@host", "expected a URL"),
        ("", "expected a URL"),
    ],
)
def test_what_cannot_be_served_is_refused_with_a_hint(url, words) -> None:
    with pytest.raises(ImproperlyConfigured, match=words) as caught:
        broker_from_url(url)
    assert "secret" not in str(caught.value)


def test_refusals_name_the_known_schemes() -> None:
    with pytest.raises(ImproperlyConfigured, match=r"memory://, .*redis://.*sqlite://"):
        broker_from_url("nonsense://")


def test_a_client_library_is_imported_only_for_its_scheme() -> None:
    code = (
        "import sys; from umbel.brokers.urls import broker_from_url; from umbel.results.urls import backend_from_url;"
        "broker_from_url('memory://'); backend_from_url('memory://');"
        "assert not {'redis', 'sqlite3', 'amqp'} & set(sys.modules), sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
