"""``app.setup_security``: send and take signed messages only."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from umbel.errors import ImproperlyConfigured

if TYPE_CHECKING:
    from umbel.app.application import Umbel

__all__ = ["setup_security"]


def setup_security(
    app: Umbel,
    key: str | None = None,
    key_password: str | bytes | None = None,
    cert: str | None = None,
    store: str | None = None,
    digest: str | None = None,
    serializer: str = "json",
) -> None:
    """Sign this process's messages and check those it takes; the settings stand in for what is not given.

    Raises:
        ImproperlyConfigured: the settings do not ask for signed messages and those alone, or a part is missing.
        SecurityError: a key or certificate cannot be used.
    """
    try:
        from umbel.security.signing import register_auth
    except ModuleNotFoundError as error:
        raise ImproperlyConfigured("signed messages need cryptography: pip install cryptography") from error
    conf = app.conf
    if conf.task_serializer != "auth" or list(conf.accept_content) != ["auth"]:
        raise ImproperlyConfigured(
            "signing needs the settings task_serializer = 'auth' and accept_content = ['auth']: "
            f"there is no point in signing what is not checked; they are {conf.task_serializer!r} and "
            f"{conf.accept_content!r}"
        )
    key, cert = key or conf.security_key, cert or conf.security_certificate
    store = store or conf.security_cert_store
    if not (key and cert and store):
        raise ImproperlyConfigured(
            "signing needs the settings security_key, security_certificate and security_cert_store"
        )
    password: Any = key_password or conf.security_key_password
    register_auth(
        Path(key).read_bytes(),
        password,
        Path(cert).read_bytes(),
        store,
        digest or conf.security_digest,
        serializer,
    )
