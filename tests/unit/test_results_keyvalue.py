"""Results in files and in memcached: names, settings, and what goes wrong."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from tests.support.servers import free_port
from umbel.core.states import FAILURE
from umbel.errors import BackendStoreError, ImproperlyConfigured, OperationalError
from umbel.results.documents import read_document
from umbel.results.memory import MemoryResultBackend
from umbel.results.options import ResultOptions, RetryRules
from umbel.results.urls import backend_from_url
from umbel.testing.contracts.results import document, record
from umbel.testing.contracts.support import ShiftedClock


def names_in(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir() if not path.name.startswith("."))


@pytest.mark.parametrize("prefix", [None, "mine", "mine:"])
def test_files_have_celerys_names(tmp_path, prefix) -> None:
    transport = {"global_keyprefix": prefix} if prefix else {}
    backend = backend_from_url(f"file://{tmp_path}", ResultOptions(transport=transport))
    backend.save([record("d3b2c6f0-0000")])
    backend.save_group("g", b"{}")
    start = {None: "", "mine": "mine_", "mine:": "mine:"}[prefix]
    names = names_in(tmp_path)
    assert names == [f"{start}celery-task-meta-d3b2c6f0-0000", f"{start}celery-taskset-meta-g"]
    assert (tmp_path / names[0]).read_bytes() == document("d3b2c6f0-0000")
    assert stat.S_IMODE((tmp_path / names[0]).stat().st_mode) & 0o600 == 0o600


def test_an_id_does_not_leave_the_directory(tmp_path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    backend = backend_from_url(f"file://localhost{home}")
    for odd in ("/../../away", "..", "a/b", "x" * 1000):
        backend.save([record(odd)])
        assert backend.load([odd]) == [document(odd)]
    assert names_in(tmp_path) == ["home"]
    assert all(path.is_file() for path in home.iterdir())


def test_half_a_file_is_no_result(tmp_path) -> None:
    """Celery empties a file before it writes to it."""
    backend = backend_from_url(f"file://{tmp_path}")
    (tmp_path / "celery-task-meta-1").write_bytes(b"")
    assert backend.load(["1"]) == [None]
    backend.save([record("1")])
    assert backend.load(["1"]) == [document("1")]


@pytest.mark.parametrize(
    ("url", "words"), [("file://", "file:///path"), ("file:///nowhere/at/all", "may be")]
)
def test_a_directory_that_is_not_there_is_refused(url, words) -> None:
    with pytest.raises(ImproperlyConfigured, match=words):
        backend_from_url(url)


def test_a_directory_that_goes_away_is_an_error(tmp_path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    backend = backend_from_url(f"file://{home}")
    home.rmdir()
    with pytest.raises(BackendStoreError, match="cannot be written"):
        backend.save([record("1")])


def test_expired_files_are_deleted_by_the_clean_up(tmp_path) -> None:
    clock = ShiftedClock()
    options = ResultOptions(expires=100, failure_expires=1000)
    backend = backend_from_url(f"file://{tmp_path}", options, clock=clock)
    (tmp_path / "other").write_text("not ours")
    backend.save([record("1"), record("2", FAILURE)])
    backend.save_group("g", b"{}")
    clock.shift = 500
    backend.save([record("3")])
    backend.cleanup()
    names = names_in(tmp_path)
    assert names == ["celery-task-meta-2", "celery-task-meta-3", "other"]


@pytest.mark.parametrize("url", ["cache+memory://", "cache"])
def test_the_cache_in_memory_is_the_memory_backend(url) -> None:
    assert isinstance(backend_from_url(url, ResultOptions(cache_backend="memory")), MemoryResultBackend)


class TestMemcached:
    @pytest.fixture(autouse=True)
    def _library(self) -> None:
        pytest.importorskip("pymemcache")

    @pytest.mark.parametrize("client", ["memcached", "memcache", "pylibmc", "pymemcache"])
    def test_every_client_that_celery_knew(self, client) -> None:
        backend = backend_from_url(f"cache+{client}://a:1;b:2/")
        assert backend.display_url == "cache+memcached://a:1;b:2/"
        options = ResultOptions(cache_backend=f"{client}://a:1/")
        assert backend_from_url("cache", options).display_url == "cache+memcached://a:1/"

    @pytest.mark.parametrize(
        ("url", "words"),
        [("cache+nothing://a:1", "no cache is called 'nothing'"), ("cache+memcached://", "host:port")],
    )
    def test_what_is_no_memcached_is_refused(self, url, words) -> None:
        with pytest.raises(ImproperlyConfigured, match=words):
            backend_from_url(url)

    def test_options_that_the_client_does_not_take_are_refused(self) -> None:
        backend = backend_from_url("cache+memcached://a:1/", ResultOptions(cache_options={"colour": 1}))
        with pytest.raises(ImproperlyConfigured, match=r"cache_backend_options: .*colour"):
            backend.load(["1"])

    def test_a_server_that_is_not_there_is_tried_as_the_settings_say(self, caplog) -> None:
        url = f"cache+memcached://127.0.0.1:{free_port()}/"
        with pytest.raises(OperationalError, match="cannot be reached"):
            backend_from_url(url).save([record("1")])
        assert "Retrying" not in caplog.text
        rules = RetryRules(always=True, limit=2, base=0.001)
        with pytest.raises(OperationalError):
            backend_from_url(url, ResultOptions(retry=rules)).load(["1"])
        assert caplog.text.count("Retrying") == 2

    def test_a_result_that_is_too_large_is_told_as_a_failure(self, memcached_server, caplog) -> None:
        backend = backend_from_url(memcached_server.url())
        backend.save([record("1"), record("2", result="x" * 17_000_000), record("3")])
        documents = [read_document(found) for found in backend.load(["1", "2", "3"])]
        assert [found["status"] for found in documents] == ["SUCCESS", "FAILURE", "SUCCESS"]
        assert "takes no item of that size" in str(documents[1]["result"])
        backend.close()
