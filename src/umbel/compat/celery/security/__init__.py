"""Signed messages."""

from __future__ import annotations

from typing import Any

from umbel.compat.lazily import lazily as _lazily
from umbel.state import get_current_app

__all__ = ("disable_untrusted_serializers", "setup_security")


def setup_security(allowed_serializers: Any = None, *, app: Any = None, **options: Any) -> None:
    """Send and take signed messages only."""
    (app or get_current_app()).setup_security(allowed_serializers, **options)


def disable_untrusted_serializers(whitelist: Any = None) -> None:
    """Accepted: what is not named in ``accept_content`` is never decoded."""


__getattr__ = _lazily(__name__, {"register_auth": "umbel.security.signing:register_auth"})
