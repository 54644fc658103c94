"""How connections begin: a socket, and one round trip that logs in.

TLS is redis-py's, with its many options. Importing redis-py takes longer than starting everything else does and as
much memory as all of this package, so only who uses TLS pays for it.
"""

from __future__ import annotations

import contextlib
import socket
from typing import TYPE_CHECKING, Any, cast

from umbel.errors import BrokerConnectionError
from umbel.stores.redis.commands import pack_command
from umbel.stores.redis.finding import Sentinels, Servers

if TYPE_CHECKING:
    from collections.abc import Iterator

    from redis import SSLConnection
    from redis.asyncio import SSLConnection as AsyncSSLConnection

    from umbel.stores.redis.address import Address

#: Seconds that logging in may take where no timeout is set.
LOGIN_TIMEOUT = 15.0


def login_commands(address: Address, protocol: int) -> tuple[bytes, int]:
    """What to send first, packed, and how many replies it has."""
    commands: list[tuple[bytes | str | int, ...]] = []
    credentials = (address.username or "default", address.password or "")
    has_credentials = bool(address.username or address.password)
    if protocol == 3:
        commands.append(("HELLO", 3, *(("AUTH", *credentials) if has_credentials else ())))
    elif has_credentials:
        # Servers before 6.0 and password-only set-ups know no user names.
        commands.append(("AUTH", *credentials) if address.username else ("AUTH", credentials[1]))
    if address.client_name:
        commands.append(("CLIENT", "SETNAME", address.client_name))
    if address.db:
        commands.append(("SELECT", address.db))
    return b"".join(map(pack_command, commands)), len(commands)


def login_timeout(address: Address) -> float:
    """Seconds that logging in may take."""
    return address.connect_timeout or address.socket_timeout or LOGIN_TIMEOUT


@contextlib.contextmanager
def connecting(address: Address) -> Iterator[None]:
    """Whatever goes wrong inside is a BrokerConnectionError that says where it was going to."""
    try:
        yield
    except Exception as error:
        reason = str(error) or f"no answer within {login_timeout(address):g} seconds"
        raise BrokerConnectionError(f"cannot connect to {address.display_url}: {reason}") from error


def connect_socket(address: Address) -> socket.socket:
    """A connected blocking socket without TLS. Raises OSError."""
    if address.path:
        made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            made.settimeout(address.connect_timeout)
            made.connect(address.path)
        except BaseException:
            made.close()
            raise
        return made
    made = socket.create_connection((address.host, address.port), address.connect_timeout)
    made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    keep_alive(made, address)
    return made


def client_of(address: Address, gives_text: bool) -> Any:
    """A client of redis-py's, with a pool of its own; nothing is connected yet."""
    import redis

    if isinstance(address.way, Servers):
        address = address.way.current

    kind: Any = redis.Connection
    if address.path:
        kind = redis.UnixDomainSocketConnection
    elif address.tls is not None:
        kind = redis.SSLConnection
    arguments = address.connection_arguments(protocol=2)
    if isinstance(address.way, Sentinels):
        return _sentinel_client(address.way, arguments | {"decode_responses": gives_text})
    pool = redis.ConnectionPool(connection_class=kind, decode_responses=gives_text, **arguments)
    return redis.Redis.from_pool(pool)


def _sentinel_client(way: Sentinels, arguments: dict[str, Any]) -> Any:
    from redis.sentinel import Sentinel

    server = {name: value for name, value in arguments.items() if name not in {"host", "port"}}
    if way.server.tls is not None:
        server["ssl"] = True
    hosts = [(each.host, each.port) for each in way.addresses]
    first = way.addresses[0]
    login = first.connection_arguments(protocol=2) | ({"ssl": True} if first.tls is not None else {})
    kwargs = {name: value for name, value in login.items() if name not in {"host", "port", "db"}}
    return cast("Any", Sentinel)(hosts, way.others, kwargs, **server).master_for(way.master)


def keep_alive(connected: Any, address: Address) -> None:
    """Have the kernel look after a connection that is silent, as the address says."""
    if not address.keepalive or address.path:
        return
    connected.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in address.keepalive_options.items():
        connected.setsockopt(socket.IPPROTO_TCP, option, value)


def tls_connection(address: Address, protocol: int) -> SSLConnection:
    """redis-py's blocking connection; ``connect`` logs in."""
    from redis import SSLConnection

    return cast("Any", SSLConnection)(**address.connection_arguments(protocol))  # type: ignore[no-any-return]


def async_tls_connection(address: Address, protocol: int) -> AsyncSSLConnection:
    """redis-py's connection for an event loop; ``connect`` logs in."""
    from redis.asyncio import SSLConnection

    return cast("Any", SSLConnection)(**address.connection_arguments(protocol))  # type: ignore[no-any-return]
