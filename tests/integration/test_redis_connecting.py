"""How connections to Redis begin: logging in, naming themselves, choosing the database, TLS, and failing to."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.certificates import self_signed
from tests.support.sentinel import MASTER, Sentinel
from tests.support.servers import RedisServer, free_port
from umbel.errors import BrokerConnectionError
from umbel.stores.redis.address import parse_address
from umbel.stores.redis.blocking import BlockingLink, open_blocking
from umbel.stores.redis.commands import pack_command
from umbel.stores.redis.link import open_link

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.redis


@pytest.fixture(scope="module")
def guarded() -> Iterator[RedisServer]:
    """A server with a password, and a user of the name ``ann``."""
    with RedisServer() as server:
        client = server.client()
        client.execute_command("ACL", "SETUSER", "ann", "on", ">secret", "~*", "&*", "+@all")
        client.config_set("requirepass", "open")
        client.close()
        yield server


async def both(url: str, options: dict[str, Any] | None = None) -> list[list[Any]]:
    """What the server knows of a blocking connection and of one of an event loop."""
    packed = b"".join(map(pack_command, (("ACL", "WHOAMI"), ("CLIENT", "INFO"))))
    address, _ = parse_address(url, options or {}, None, 5)
    blocking, link = BlockingLink(address), await open_link(address)
    try:
        return [blocking.call(packed, 2, 5), await link.send(packed, 2)]
    finally:
        blocking.close()
        link.close()


@pytest.mark.parametrize(("login", "user"), [(":open", b"default"), ("ann:secret", b"ann")])
async def test_who_and_where(guarded: RedisServer, login: str, user: bytes) -> None:
    url = f"redis://{login}@127.0.0.1:{guarded.port}/3"
    for who, info in await both(url, {"client_name": "sender"}):
        assert who == user
        assert b" name=sender " in info
        assert b" db=3 " in info


async def test_without_a_password(redis_server: RedisServer) -> None:
    assert [who for who, _ in await both(redis_server.url())] == [b"default", b"default"]


@pytest.mark.parametrize("login", ["", ":wrong@", "ann:wrong@", "nobody:secret@"])
async def test_wrong_logins(guarded: RedisServer, login: str) -> None:
    address, _ = parse_address(f"redis://{login}127.0.0.1:{guarded.port}/3", {}, None, 5)
    expected = r"cannot connect to redis://.*: Redis refused: (WRONGPASS|NOAUTH)"
    with pytest.raises(BrokerConnectionError, match=expected):
        BlockingLink(address)
    with pytest.raises(BrokerConnectionError, match=expected):
        await open_link(address)


async def test_nobody_there(tmp_path: Path) -> None:
    for url in (f"redis://127.0.0.1:{free_port()}", f"redis+socket://{tmp_path}/none.sock"):
        address, _ = parse_address(url, {}, None, 5)
        with pytest.raises(BrokerConnectionError, match="cannot connect to redis"):
            BlockingLink(address)
        with pytest.raises(BrokerConnectionError, match="cannot connect to redis"):
            await open_link(address)


async def test_a_server_that_says_nothing() -> None:
    with RedisServer() as server:
        address, _ = parse_address(server.url(1), {}, None, 0.3)
        server.freeze()
        with pytest.raises(BrokerConnectionError, match=r"no answer within 0\.3 seconds"):
            BlockingLink(address)
        with pytest.raises(BrokerConnectionError, match=r"no answer within 0\.3 seconds"):
            await open_link(address)


@pytest.fixture
def certificate(tmp_path: Path) -> tuple[str, str]:
    return self_signed(tmp_path)


async def test_tls(certificate: tuple[str, str]) -> None:
    port = free_port()
    files = ("--tls-cert-file", certificate[0], "--tls-key-file", certificate[1])
    with RedisServer("--tls-port", str(port), *files, "--tls-auth-clients", "no"):
        url = f"rediss://127.0.0.1:{port}/3"
        for _, info in await both(url, {"ssl_ca_certs": certificate[0]}):
            assert b" db=3 " in info
        address, _ = parse_address(url, {}, None, 5)
        with pytest.raises(BrokerConnectionError, match="CERTIFICATE_VERIFY_FAILED"):
            BlockingLink(address)
        with pytest.raises(BrokerConnectionError, match="CERTIFICATE_VERIFY_FAILED"):
            await open_link(address)


async def test_tls_to_sentinels_and_to_the_server_they_name(certificate: tuple[str, str]) -> None:
    server_port, sentinel_port = free_port(), free_port()
    files = ("--tls-cert-file", certificate[0], "--tls-key-file", certificate[1])
    lines = (
        f"tls-port {sentinel_port}",
        f"tls-cert-file {certificate[0]}",
        f"tls-key-file {certificate[1]}",
        f"tls-ca-cert-file {certificate[0]}",
        "tls-auth-clients no",
        "tls-replication yes",
    )
    trusted = {"ssl_ca_certs": certificate[0]}
    user = ("--user", "ann", "on", ">secret", "~*", "&*", "+@all")
    url = f"sentinel://ann:secret@127.0.0.1:{sentinel_port}/3"
    options = {"master_name": MASTER, "sentinel_kwargs": {"ssl": True, **trusted}}
    with (
        RedisServer("--tls-port", str(server_port), *files, "--tls-auth-clients", "no", *user),
        Sentinel(server_port, 1, *lines),
    ):
        address, rest = parse_address(url, options, trusted, 5)
        assert rest == {}
        blocking, link = open_blocking(address), await open_link(address)
        packed = pack_command(("CLIENT", "INFO"))
        for [info] in (blocking.call(packed, 1, 5), await link.send(packed, 1)):
            assert f":{server_port} " in info.decode()
            assert " db=3 " in info.decode()
            assert " user=ann " in info.decode()
        blocking.close()
        link.close()
        refused, _ = parse_address(url, {**options, "sentinel_kwargs": {"ssl": True}}, trusted, 5)
        with pytest.raises(BrokerConnectionError, match="CERTIFICATE_VERIFY_FAILED"):
            open_blocking(refused)


def test_redis_py_is_imported_for_tls_only() -> None:
    code = "import sys, umbel.brokers.redis.broker, umbel.results.redis; assert 'redis' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
