"""The serializer that signs."""

from umbel.security.signing import SEPARATOR as DEFAULT_SEPARATOR
from umbel.security.signing import SecureSerializer, register_auth

__all__ = (
    "SecureSerializer",
    "register_auth",
)
