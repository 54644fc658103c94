"""Errors of cryptography."""

from umbel.security.signing import get_digest_algorithm, reraise_errors

__all__ = (
    "get_digest_algorithm",
    "reraise_errors",
)
