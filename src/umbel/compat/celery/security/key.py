"""Private keys."""

from umbel.security.signing import PrivateKey

__all__ = ("PrivateKey",)
