"""URLs."""

from __future__ import annotations

from typing import Any, NamedTuple
from urllib.parse import parse_qsl, quote, unquote, urlparse

from umbel.config.censor import mask_url

safequote = quote
ssl_available = True


class urlparts(NamedTuple):
    """The parts of a URL."""

    scheme: str | None
    hostname: str | None
    port: int | None
    username: str | None
    password: str | None
    path: str | None
    query: dict[str, str] | None


def parse_url(url: str) -> dict[str, Any]:
    """The parts of a broker's URL, by the names of ``Connection``'s arguments."""
    parts = url_to_parts(url)
    return {
        "transport": parts.scheme,
        "hostname": parts.hostname,
        "port": parts.port,
        "userid": parts.username,
        "password": parts.password,
        "virtual_host": parts.path,
        **(parts.query or {}),
    }


def url_to_parts(url: str) -> urlparts:
    """The parts of a URL."""
    scheme = urlparse(url).scheme
    parts = urlparse(f"http://{url[len(scheme) + 3 :]}")
    path = parts.path or ""
    return urlparts(
        scheme,
        unquote(parts.hostname or "") or None,
        parts.port,
        unquote(parts.username or "") or None,
        unquote(parts.password or "") or None,
        unquote(path.removeprefix("/")) or None,
        dict(parse_qsl(parts.query)),
    )


def as_url(
    scheme: str,
    host: str | None = None,
    port: int | None = None,
    user: str | None = None,
    password: str | None = None,
    path: str | None = None,
    query: str | None = None,
    sanitize: bool = False,
    mask: str = "**",
) -> str:
    """A URL of these parts."""
    login = quote(user or "", safe="")
    if password:
        login += f":{mask if sanitize else quote(password, safe='')}"
    place = f"{login}@" if login else ""
    place += quote(host or "", safe="") + (f":{port}" if port else "")
    return f"{scheme}://{place}/{path or ''}"


def sanitize_url(url: str, mask: str = "**") -> str:
    """A URL with its password masked."""
    return mask_url(url)


def maybe_sanitize_url(url: Any, mask: str = "**") -> Any:
    """A URL with its password masked; anything else as it is."""
    return mask_url(url) if isinstance(url, str) and "://" in url else url


def parse_ssl_cert_reqs(query_value: str) -> Any:
    """How certificates are checked, by the name of ``ssl``'s constant."""
    import ssl

    return getattr(ssl, query_value) if query_value.startswith("CERT_") else query_value
