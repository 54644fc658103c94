"""RabbitMQ over TLS, with the options that Celery's users have."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.rabbitmq import RabbitMqServer
from tests.support.servers import HOST, free_port
from umbel.brokers.options import BrokerOptions
from umbel.brokers.urls import broker_from_url
from umbel.core.destination import Destination
from umbel.core.records import Publication
from umbel.errors import BrokerConnectionError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from umbel.brokers.base import Broker

TO = Destination("", "q", "q")


class Guarded:
    """A server that takes TLS only from those who show a certificate of its own authority."""

    def __init__(self, port: int, files: dict[str, str]) -> None:
        self.url = f"amqps://guest:guest@{HOST}:{port}//"
        self.files = files

    def broker(self, url: str = "", **options: Any) -> Broker:
        return broker_from_url(url or self.url, BrokerOptions(connect_timeout=5, **options))


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    files = _certificates(tmp_path_factory.mktemp("tls"))
    port = free_port()
    with RabbitMqServer(
        f"listeners.ssl.default = {HOST}:{port}",
        f"ssl_options.cacertfile = {files['ca_certs']}",
        f"ssl_options.certfile = {files['certfile']}",
        f"ssl_options.keyfile = {files['keyfile']}",
        "ssl_options.verify = verify_peer",
        "ssl_options.fail_if_no_peer_cert = true",
    ):
        yield Guarded(port, files)


def _certificates(folder: Path) -> dict[str, str]:
    """The files of an authority, and of a certificate of its for this machine with its key."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("openssl makes the certificates")
    names = ("authority.pem", "authority.key", "request.pem", "own.pem", "own.key", "extensions")
    authority, authority_key, request, own, own_key, extensions = (str(folder / name) for name in names)
    (folder / "extensions").write_text(f"subjectAltName=IP:{HOST}\n")
    new = [openssl, "req", "-newkey", "rsa:2048", "-nodes"]
    sign = [openssl, "x509", "-req", "-days", "1", "-CAcreateserial"]
    for command in (
        [*new, "-x509", "-days", "2", "-subj", "/CN=authority", "-out", authority, "-keyout", authority_key],
        [*new, "-subj", "/CN=localhost", "-out", request, "-keyout", own_key],
        [
            *sign,
            "-in",
            request,
            "-CA",
            authority,
            "-CAkey",
            authority_key,
            "-extfile",
            extensions,
            "-out",
            own,
        ],
    ):
        subprocess.run(command, check=True, capture_output=True)
    return {"ca_certs": authority, "certfile": own, "keyfile": own_key}


def send(broker: Broker, *payloads: bytes) -> None:
    """By a thread, and by an event loop."""
    publications = [Publication(TO, payload) for payload in payloads]
    broker.publisher().send(publications, timeout=10)

    async def in_loop() -> None:
        publisher = broker.async_publisher()
        try:
            await publisher.send(publications, timeout=10)
        finally:
            await publisher.close()

    asyncio.run(in_loop())


def test_both_faces_speak_tls(guarded: Guarded) -> None:
    broker = guarded.broker(use_ssl={**guarded.files, "cert_reqs": "CERT_REQUIRED", "server_hostname": HOST})
    assert broker.display_url.startswith("amqps://")
    send(broker, b"small", b"x" * 1_000_000, *[b"many"] * 500)
    assert broker.depth("q") == 1004
    assert broker.purge("q") == 1004
    broker.close()


def test_options_may_stand_in_the_url(guarded: Guarded) -> None:
    query = "&".join(f"ssl_{name}={value}" for name, value in guarded.files.items())
    broker = guarded.broker(f"{guarded.url}?{query}")
    send(broker, b"?")
    assert broker.purge("q") == 2
    broker.close()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"ca_certs": None}, "CERTIFICATE_VERIFY_FAILED"),
        ({"server_hostname": "elsewhere"}, "Hostname mismatch"),
    ],
)
def test_a_server_that_cannot_be_trusted(guarded: Guarded, change: dict[str, Any], said: str) -> None:
    broker = guarded.broker(use_ssl={**guarded.files, **change})
    with pytest.raises(BrokerConnectionError, match=said):
        send(broker, b"?")

    async def in_loop() -> None:
        with pytest.raises(BrokerConnectionError, match=said):
            await broker.async_publisher().send([Publication(TO, b"?")], timeout=10)

    asyncio.run(in_loop())


def test_a_client_that_the_server_does_not_trust(guarded: Guarded) -> None:
    broker = guarded.broker(use_ssl={"ca_certs": guarded.files["ca_certs"]})
    with pytest.raises(BrokerConnectionError, match="cannot connect to amqps://"):
        send(broker, b"?")
