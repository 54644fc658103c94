"""TLS for AMQP, from the options that py-amqp and kombu take."""

from __future__ import annotations

import logging
import ssl
from typing import TYPE_CHECKING, Any, Final

from umbel.errors import ImproperlyConfigured

if TYPE_CHECKING:
    from collections.abc import Mapping

logger = logging.getLogger("umbel.amqp")

__all__ = ["make_context"]

_CERT_REQS: Final = {
    "none": ssl.CERT_NONE,
    "optional": ssl.CERT_OPTIONAL,
    "required": ssl.CERT_REQUIRED,
}
_KNOWN: Final = frozenset(
    {
        "keyfile",
        "certfile",
        "ca_certs",
        "cert_reqs",
        "check_hostname",
        "ciphers",
        "server_hostname",
        "context",
        "ssl_version",
        "version",
        "tls_minimum_version",
        "tls_maximum_version",
        "do_handshake_on_connect",
        "suppress_ragged_eofs",
        "server_side",
    }
)


def make_context(options: Mapping[str, Any], host: str) -> tuple[ssl.SSLContext, str]:
    """The context of a connection, and the name that the server's certificate is asked for.

    The server's certificate is verified against ``ca_certs`` or the system's authorities unless ``cert_reqs`` says
    otherwise. Its name is verified when ``server_hostname`` is given or ``check_hostname`` is true, as in py-amqp;
    ``server_hostname`` None is the URL's host. Raises ImproperlyConfigured for what cannot be read.
    """
    unknown = sorted(set(options) - _KNOWN)
    if unknown:
        raise ImproperlyConfigured(
            f"broker_use_ssl: unknown options {unknown}; expected some of {sorted(_KNOWN)}"
        )
    named = options.get("server_hostname") or host
    given = options.get("context")
    if isinstance(given, ssl.SSLContext):
        return given, named
    try:
        return _build(options, dict(given or {})), named
    except (OSError, ValueError) as error:
        raise ImproperlyConfigured(f"broker_use_ssl: {error}") from error


def _build(options: Mapping[str, Any], default: dict[str, Any]) -> ssl.SSLContext:
    check_name = options.get("check_hostname", default.pop("check_hostname", None))
    if check_name is None:
        check_name = "server_hostname" in options
    context = ssl.create_default_context(ssl.Purpose.SERVER_AUTH, cafile=options.get("ca_certs"), **default)
    context.check_hostname = bool(check_name)
    if (required := options.get("cert_reqs")) is not None:
        mode = _cert_reqs(required)
        if mode == ssl.CERT_NONE:
            context.check_hostname = False
            logger.warning("broker_use_ssl: the identity of the RabbitMQ server is not verified")
        context.verify_mode = mode
    if certfile := options.get("certfile"):
        context.load_cert_chain(certfile, options.get("keyfile"))
    if ciphers := options.get("ciphers"):
        context.set_ciphers(ciphers)
    if (lowest := options.get("tls_minimum_version")) is not None:
        context.minimum_version = lowest
    if (highest := options.get("tls_maximum_version")) is not None:
        context.maximum_version = highest
    return context


def _cert_reqs(value: Any) -> ssl.VerifyMode:
    if isinstance(value, str):
        mode = _CERT_REQS.get(value.lower().removeprefix("cert_"))
        if mode is None:
            raise ValueError(f"cert_reqs must be CERT_REQUIRED, CERT_OPTIONAL or CERT_NONE, not {value!r}")
        return mode
    return ssl.VerifyMode(value)
