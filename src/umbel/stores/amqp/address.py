"""Where RabbitMQ is and how to log in: URLs and options as Celery and kombu write them."""

from __future__ import annotations

import logging
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import parse_qsl, quote, unquote, urlsplit

import msgspec

from umbel.errors import ImproperlyConfigured

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import TypeVar

    T = TypeVar("T")

logger = logging.getLogger("umbel.amqp")

__all__ = ["SCHEMES", "Address", "parse_address", "parse_addresses", "warn_unknown"]

DEFAULT_PORT: Final = 5672
DEFAULT_TLS_PORT: Final = 5671
#: How often in the time of the heartbeat, where nothing else is set.
HEARTBEAT_RATE: Final = 3.0
#: ``pyamqp`` and ``librabbitmq`` name client libraries in kombu; here they mean AMQP.
SCHEMES: Final = frozenset({"amqp", "amqps", "pyamqp", "librabbitmq"})
_LOGIN_METHODS: Final = frozenset({"PLAIN", "AMQPLAIN", "EXTERNAL", "GSSAPI"})
#: Options that py-amqp takes and that have no meaning where an event loop moves the bytes.
_PASSED_OVER: Final = frozenset(
    {"insist", "read_timeout", "write_timeout", "locale", "on_blocked", "on_unblocked"}
)


class Address(msgspec.Struct, frozen=True):
    """One virtual host of one server, and how to log in. Durations are seconds.

    ``identity`` is equal for two addresses exactly when they lead to the same virtual host of the same server.
    """

    host: str
    port: int
    vhost: str
    user: str
    password: Any  #: text, or a function that gives it when a connection is made
    tls: dict[str, Any] | None  #: see ``tls.make_context``; None: no TLS
    login_method: str
    heartbeat: float  #: what we propose; 0: none
    heartbeat_rate: (
        float  #: how often in that time one shows that one is there, and looks whether the server does
    )
    connect_timeout: float | None
    frame_max: int | None
    channel_max: int | None
    client_properties: dict[str, Any]
    socket_settings: dict[int, Any]  #: TCP options by their number

    @property
    def identity(self) -> str:
        """The server and virtual host, without credentials."""
        host = "127.0.0.1" if self.host == "localhost" else self.host
        return f"amqp://{_bracketed(host)}:{self.port}/{quote(self.vhost, safe='')}"

    @property
    def display_url(self) -> str:
        """The URL with the password blotted out, as Celery's banner shows it."""
        who = quote(self.user, safe="") + (":**" if self.password else "")
        scheme = "amqp" if self.tls is None else "amqps"
        vhost = "/" if self.vhost == "/" else quote(self.vhost, safe="")
        return f"{scheme}://{who}@{_bracketed(self.host)}:{self.port}/{vhost}"

    def login_arguments(self) -> dict[str, Any]:
        """Keyword arguments of py-amqp's connection."""
        return {
            "userid": self.user,
            "password": self.password() if callable(self.password) else self.password,
            "login_method": self.login_method,
            "virtual_host": self.vhost,
            "heartbeat": self.heartbeat,
            "frame_max": self.frame_max,
            "channel_max": self.channel_max,
            "client_properties": dict(self.client_properties),
        }


def parse_addresses(
    urls: str | Sequence[str],
    options: Mapping[str, Any],
    *,
    use_ssl: bool | Mapping[str, Any] | None = None,
    connect_timeout: float | None = None,
    heartbeat: float = 0.0,
    heartbeat_rate: float = HEARTBEAT_RATE,
    login_method: str | None = None,
) -> tuple[list[Address], dict[str, Any]]:
    """The addresses of one broker, in their order, and those options that none of them used.

    ``urls`` are a list, or text with ``;`` between them. Raises ImproperlyConfigured for what cannot be read.
    """
    parts = urls.split(";") if isinstance(urls, str) else [part for url in urls for part in url.split(";")]
    texts = [text for part in parts if (text := part.strip())]
    found = [
        parse_address(
            text,
            options,
            use_ssl=use_ssl,
            connect_timeout=connect_timeout,
            heartbeat=heartbeat,
            heartbeat_rate=heartbeat_rate,
            login_method=login_method,
        )
        for text in texts or ["amqp://"]
    ]
    rest = {name: value for _, more in found for name, value in more.items()}
    return [address for address, _ in found], rest


def parse_address(
    url: str,
    options: Mapping[str, Any],
    *,
    use_ssl: bool | Mapping[str, Any] | None = None,
    connect_timeout: float | None = None,
    heartbeat: float = 0.0,
    heartbeat_rate: float = HEARTBEAT_RATE,
    login_method: str | None = None,
) -> tuple[Address, dict[str, Any]]:
    """The address a URL and options describe, and those options that it did not use.

    What the URL says wins over ``options``. The path without its first slash, unquoted, names the virtual host; none is
    ``/``. Raises ImproperlyConfigured for what it cannot read.
    """
    scheme, parts = _split(url)
    rest: dict[str, Any] = {**options, **dict(parse_qsl(parts.query))}
    tls = _tls_options(scheme, rest, use_ssl)
    default_port = DEFAULT_PORT if tls is None else DEFAULT_TLS_PORT
    address = Address(
        host=_first(parts.hostname, rest.pop("hostname", None), "localhost"),
        port=_port(parts, url) or default_port,
        vhost=_first(unquote(parts.path[1:]), rest.pop("virtual_host", None), "/"),
        user=_first(unquote(parts.username or ""), rest.pop("userid", None), "guest"),
        password=_first(unquote(parts.password or ""), rest.pop("password", None), "guest"),
        tls=tls,
        login_method=_login_method(_first(rest.pop("login_method", None), login_method, "PLAIN")),
        heartbeat=_number(rest, "heartbeat", heartbeat) or 0.0,
        heartbeat_rate=_rate(heartbeat_rate),
        connect_timeout=_number(rest, "connect_timeout", connect_timeout),
        frame_max=_whole(rest, "frame_max"),
        channel_max=_whole(rest, "channel_max"),
        client_properties=dict(rest.pop("client_properties", {})),
        socket_settings=dict(rest.pop("socket_settings", {})),
    )
    return address, {name: value for name, value in rest.items() if name not in _PASSED_OVER}


def _split(url: str) -> tuple[str, Any]:
    """A URL's scheme and parts; its netloc may be all there is, and the whole may be a scheme."""
    text = url if "://" in url else f"{url}://"
    scheme = text.partition("://")[0]
    if scheme not in SCHEMES:
        raise ImproperlyConfigured(
            f"{scheme!r} is not an AMQP scheme; expected one of {', '.join(sorted(SCHEMES))}"
        )
    try:
        return scheme, urlsplit(text)
    except ValueError as error:
        raise ImproperlyConfigured(f"broker_url: {error}") from error


def _port(parts: Any, url: str) -> int | None:
    try:
        port: int | None = parts.port
    except ValueError as error:
        raise ImproperlyConfigured(f"the port in {url.rpartition('@')[2]!r} is not a number") from error
    return port


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _login_method(value: Any) -> str:
    method = str(value).upper()
    if method not in _LOGIN_METHODS:
        raise ImproperlyConfigured(
            f"broker_login_method: expected one of {', '.join(sorted(_LOGIN_METHODS))}, got {value!r}"
        )
    return method


def _first(*values: Any) -> Any:
    """The first that is neither None nor empty."""
    return next(value for value in values if value not in {None, ""})


def _rate(value: float) -> float:
    # Less often than twice, a heartbeat that comes just after one looked would count as missed.
    if value < 2:
        raise ImproperlyConfigured(f"broker_heartbeat_checkrate: expected 2 or more, got {value!r}")
    return value


def _number(rest: dict[str, Any], name: str, default: float | None) -> float | None:
    return _read(rest, name, float, default)


def _whole(rest: dict[str, Any], name: str) -> int | None:
    return _read(rest, name, int, None)


def _read(rest: dict[str, Any], name: str, read: Callable[[Any], T], default: T | None) -> T | None:
    value = rest.pop(name, None)
    if value is None or value == "":
        return default
    try:
        return read(value)
    except (TypeError, ValueError) as error:
        raise ImproperlyConfigured(f"the AMQP option {name} cannot be {value!r}") from error


def _tls_options(
    scheme: str, rest: dict[str, Any], use_ssl: bool | Mapping[str, Any] | None
) -> dict[str, Any] | None:
    """TLS options of the setting, of the transport options and of the URL, without the prefix ``ssl_``."""
    given = {name[4:]: rest.pop(name) for name in list(rest) if name.startswith("ssl_")}
    option = rest.pop("ssl", None)
    chosen = option if option is not None else use_ssl
    if isinstance(chosen, str):
        chosen = chosen.lower() not in {"", "0", "no", "false", "off"}
    if not (chosen or given or scheme == "amqps"):
        return None
    named = dict(chosen) if chosen and not isinstance(chosen, bool) else {}
    return {name.removeprefix("ssl_"): value for name, value in named.items()} | given


@lru_cache(maxsize=64)
def warn_unknown(names: tuple[str, ...]) -> None:
    """Say once in a process that options are ignored."""
    if names:
        logger.warning("AMQP transport options without a meaning here are ignored: %s", ", ".join(names))
