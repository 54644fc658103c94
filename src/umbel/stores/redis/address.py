"""Where a Redis server is and how to log in: URLs and options as Celery and kombu write them.

Several URLs with ``;`` between them are servers of which one is the primary, or sentinels that know it.
"""

from __future__ import annotations

import logging
from enum import Enum
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import parse_qsl, quote, unquote, urlsplit

import msgspec

from umbel.errors import ImproperlyConfigured
from umbel.stores.redis.finding import Sentinels, Servers

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from umbel.stores.redis.finding import Way

logger = logging.getLogger("umbel.redis")

DEFAULT_PORT: Final = 6379
DEFAULT_SENTINEL_PORT: Final = 26379
#: Seconds that a sentinel has to answer, where ``sentinel_kwargs`` says nothing else: there are others to ask.
_SENTINEL_TIMEOUT: Final = 2.0
_SENTINEL: Final = "sentinel"
_PLAIN: Final = frozenset({"redis", "valkey"})
_TLS: Final = frozenset({"rediss", "valkeys"})
_UNIX: Final = frozenset({"redis+socket", "valkey+socket", "unix", "socket"})
SCHEMES: Final = _PLAIN | _TLS | _UNIX | {_SENTINEL}
#: Transport options that concern sentinels alone.
SENTINEL_OPTIONS: Final = frozenset(
    {"master_name", "min_other_sentinels", "sentinel_fanout_compat", "sentinel_kwargs"}
)

_CERT_REQS: Final = {
    "CERT_NONE": "none",
    "CERT_OPTIONAL": "optional",
    "CERT_REQUIRED": "required",
    "none": "none",
    "optional": "optional",
    "required": "required",
}


class Address(msgspec.Struct, frozen=True):
    """One database of one server. Durations are seconds.

    ``identity`` is equal for two addresses exactly when they lead to the same database by the same way.
    """

    host: str
    port: int
    path: str  #: of the unix socket; empty over TCP
    db: int
    username: str | None
    password: str | None
    tls: dict[str, Any] | None  #: redis-py's ``ssl_*`` options; None: no TLS
    socket_timeout: float | None
    connect_timeout: float | None
    keepalive: bool
    keepalive_options: dict[int, int]
    client_name: str | None
    way: Way | None = None  #: how to find the server; None: it is at ``host`` and ``port``

    @property
    def identity(self) -> str:
        """The server and database, without credentials."""
        if self.way is not None:
            return self.way.identity
        host = "127.0.0.1" if self.host == "localhost" else self.host
        place = f"socket:{self.path}" if self.path else f"{host}:{self.port}"
        return f"redis://{place}/{self.db}"

    @property
    def display_url(self) -> str:
        """The URL with the password blotted out, as Celery's banner shows it."""
        if self.way is not None:
            return self.way.display_url
        who = ""
        if self.username or self.password:
            who = quote(self.username or "", safe="") + (":**" if self.password else "") + "@"
        if self.path:
            return f"redis+socket://{who}{self.path}?virtual_host={self.db}"
        scheme = "redis" if self.tls is None else "rediss"
        return f"{scheme}://{who}{self.host}:{self.port}/{self.db}"

    def connection_arguments(self, protocol: int) -> dict[str, Any]:
        """Keyword arguments of redis-py's connection classes."""
        arguments: dict[str, Any] = {
            "db": self.db,
            "username": self.username,
            "password": self.password,
            "socket_timeout": self.socket_timeout,
            "socket_connect_timeout": self.connect_timeout,
            "client_name": self.client_name,
            "protocol": protocol,
        }
        if self.path:
            return {**arguments, "path": self.path}
        arguments |= {"host": self.host, "port": self.port, "socket_keepalive": self.keepalive}
        if self.keepalive_options:
            arguments["socket_keepalive_options"] = self.keepalive_options
        return arguments | (self.tls or {})


def parse_address(
    url: str,
    options: Mapping[str, Any],
    use_ssl: bool | Mapping[str, Any] | None,
    connect_timeout: float | None,
    strategy: Any = None,
) -> tuple[Address, dict[str, Any]]:
    """The address that one or several URLs and options describe, and those options that it did not use.

    The URL's query wins over ``options``. Without a database in the path, ``virtual_host`` of the query names it.
    ``strategy`` is ``broker_failover_strategy``. Raises ImproperlyConfigured for what it cannot read.
    """
    urls = [part.strip() for part in url.split(";") if part.strip()] or [url]
    if urls[0].partition("://")[0] == _SENTINEL:
        return _parse_sentinels(urls, options, use_ssl, connect_timeout)
    parsed = [_parse_server(each, options, use_ssl, connect_timeout) for each in urls]
    address, rest = parsed[0]
    if len(parsed) > 1:
        way = Servers([each for each, _ in parsed], strategy)
        address = msgspec.structs.replace(address, way=way)
        rest = {name: value for _, more in parsed for name, value in more.items()}
    return address, {name: value for name, value in rest.items() if name not in SENTINEL_OPTIONS}


def _parse_sentinels(
    urls: list[str],
    options: Mapping[str, Any],
    use_ssl: bool | Mapping[str, Any] | None,
    connect_timeout: float | None,
) -> tuple[Address, dict[str, Any]]:
    """As kombu and Celery do, the first URL says the database, user and password; they are the server's."""
    first = urls[0]
    server, rest = _parse_server(first, options, use_ssl, connect_timeout)
    master = rest.pop("master_name", None)
    if not master:
        raise ImproperlyConfigured(
            "sentinel:// needs the name under which the sentinels watch the server: set master_name in"
            " broker_transport_options (or result_backend_transport_options), such as {'master_name': 'mymaster'}"
        )
    login = {**(rest.pop("sentinel_kwargs", None) or {})}
    others = _take(rest, "min_other_sentinels", int, 0)
    rest.pop("sentinel_fanout_compat", None)
    sentinels = [_parse_sentinel(each, login, connect_timeout) for each in urls]
    _warn_other_databases(urls)
    way = Sentinels(sentinels, str(master), others, server)
    return msgspec.structs.replace(server, way=way), rest


def _parse_sentinel(url: str, login: Mapping[str, Any], connect_timeout: float | None) -> Address:
    """Where a sentinel is; ``login`` (``sentinel_kwargs``) says how it is talked to."""
    place = urlsplit(url if "://" in url else f"{_SENTINEL}://{url}")
    if place.scheme != _SENTINEL:
        raise ImproperlyConfigured(
            f"all URLs of a list must be sentinel:// when the first is; one is {place.scheme}://"
        )
    limit = min(connect_timeout or _SENTINEL_TIMEOUT, _SENTINEL_TIMEOUT)
    given = {"socket_timeout": limit, "socket_connect_timeout": limit, **login}
    use_ssl = given.pop("ssl", False) or None
    host = place.hostname or "localhost"
    bare = f"{'rediss' if use_ssl else 'redis'}://{f'[{host}]' if ':' in host else host}"
    address, _ = _parse_server(f"{bare}:{_port(place, url) or DEFAULT_SENTINEL_PORT}", given, use_ssl, limit)
    return address


def _warn_other_databases(urls: list[str]) -> None:
    first, *others = [urlsplit(url).path.strip("/") for url in urls]
    if other := next((each for each in others if each and each != (first or "0")), None):
        logger.warning(
            "The first of several sentinel:// URLs names the database, as in Celery: it is %s, not %s",
            first or "0",
            other,
        )


def _parse_server(
    url: str,
    options: Mapping[str, Any],
    use_ssl: bool | Mapping[str, Any] | None,
    connect_timeout: float | None,
) -> tuple[Address, dict[str, Any]]:
    parts = urlsplit(url if "://" in url else f"{url}://")
    scheme = parts.scheme
    if scheme not in SCHEMES:
        raise ImproperlyConfigured(
            f"{scheme!r} is not a Redis scheme; expected one of {', '.join(sorted(SCHEMES))}"
        )
    rest: dict[str, Any] = {**options, **dict(parse_qsl(parts.query))}
    unix = scheme in _UNIX
    database = rest.pop("virtual_host", None)
    if not unix:
        database = parts.path.strip("/") or rest.pop("db", None) or database
    tls = _tls_options(scheme, rest, use_ssl)
    address = Address(
        host=_first(parts.hostname, rest.pop("host", None), "localhost"),
        port=int(_first(_port(parts, url), rest.pop("port", None), DEFAULT_PORT)),
        path=unquote(parts.netloc.rpartition("@")[2] + parts.path) if unix else "",
        db=_database(database if database is not None else rest.pop("db", None)),
        username=_first(unquote(parts.username or ""), rest.pop("username", None), None),
        password=_first(unquote(parts.password or ""), rest.pop("password", None), None),
        tls=tls,
        socket_timeout=_take(rest, "socket_timeout", _seconds, None),
        connect_timeout=_take(rest, "socket_connect_timeout", _seconds, connect_timeout),
        keepalive=_take(rest, "socket_keepalive", _boolean, True),
        keepalive_options={
            int(k): int(v) for k, v in (rest.pop("socket_keepalive_options", None) or {}).items()
        },
        client_name=rest.pop("client_name", None),
    )
    return address, rest


def _first(*values: Any) -> Any:
    """The first that is neither None nor empty, else the last."""
    for value in values:
        if value not in {None, ""}:
            return value
    return values[-1]


def _port(parts: Any, url: str) -> int | None:
    try:
        port: int | None = parts.port
    except ValueError as error:
        raise ImproperlyConfigured(f"the port in {url.rpartition('@')[2]!r} is not a number") from error
    return port


def _database(value: Any) -> int:
    text = str(value if value is not None else 0).strip("/") or "0"
    if not text.isdecimal():
        raise ImproperlyConfigured(f"a Redis database is a number such as redis://host/1, not {text!r}")
    return int(text)


def _take(rest: dict[str, Any], name: str, read: Callable[[Any], Any], default: Any) -> Any:
    value = rest.pop(name, None)
    if value is None or value == "":
        return default
    try:
        return read(value)
    except ValueError as error:
        raise ImproperlyConfigured(f"the Redis option {name} cannot be {value!r}") from error


def _seconds(value: Any) -> float | None:
    return float(value) or None


def _boolean(value: Any) -> bool:
    return value.lower() not in {"0", "no", "false", "off"} if isinstance(value, str) else bool(value)


def _tls_options(
    scheme: str, rest: dict[str, Any], use_ssl: bool | Mapping[str, Any] | None
) -> dict[str, Any] | None:
    """redis-py's ``ssl_*`` options, taken out of the options; None where TLS is not asked for."""
    given = {name: rest.pop(name) for name in list(rest) if name.startswith("ssl_")}
    if use_ssl:
        given = {**(use_ssl if not isinstance(use_ssl, bool) else {}), **given}
    elif scheme not in _TLS:
        if given:
            needed = (
                "broker_use_ssl or redis_backend_use_ssl" if scheme == _SENTINEL else "the scheme rediss://"
            )
            raise ImproperlyConfigured(
                f"TLS options ({', '.join(given)}) need {needed}, not {scheme}:// alone"
            )
        return None
    if "ssl_cert_reqs" in given:
        given["ssl_cert_reqs"] = _cert_reqs(given["ssl_cert_reqs"])
    if "ssl_check_hostname" in given:
        given["ssl_check_hostname"] = _boolean(given["ssl_check_hostname"])
    return given


def _cert_reqs(value: Any) -> str:
    if isinstance(value, Enum):  # ssl.VerifyMode
        value = value.name
    reqs = _CERT_REQS.get(str(value))
    if reqs is None:
        raise ImproperlyConfigured(
            f"ssl_cert_reqs must be CERT_REQUIRED, CERT_OPTIONAL or CERT_NONE, not {value!r}"
        )
    if reqs != "required":
        logger.warning("ssl_cert_reqs=%s: the identity of the Redis server is not verified", value)
    return reqs


@lru_cache(maxsize=64)
def warn_unknown(names: tuple[str, ...]) -> None:
    """Say once in a process that options are ignored."""
    if names:
        logger.warning("Redis transport options without a meaning here are ignored: %s", ", ".join(names))
