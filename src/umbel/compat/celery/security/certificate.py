"""Certificates."""

from umbel.security.signing import Certificate, CertStore, FSCertStore

__all__ = (
    "CertStore",
    "Certificate",
    "FSCertStore",
)
