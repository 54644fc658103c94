"""Certificates, private keys, and the serializer that signs with them, in Celery's format.

A signed body is base64 of five fields between the bytes 0 and 1: signer and signature, each base64, the content type
and encoding of what is signed, and that itself. The signature is RSA-PSS with the greatest salt.
"""

from __future__ import annotations

from base64 import b64decode, b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from cryptography.x509 import load_pem_x509_certificate

from umbel.core import serializers
from umbel.errors import ImproperlyConfigured, SecurityError

__all__ = [
    "CertStore",
    "Certificate",
    "FSCertStore",
    "PrivateKey",
    "SecureSerializer",
    "get_digest_algorithm",
    "register_auth",
    "reraise_errors",
]

SEPARATOR: Final = b"\x00\x01"
DEFAULT_DIGEST: Final = "sha256"


def get_digest_algorithm(digest: str = DEFAULT_DIGEST) -> Any:
    """The digest of a name. Raises ImproperlyConfigured for one that is not known."""
    found = vars(hashes).get(digest.upper())
    if found is None:
        raise ImproperlyConfigured(
            f"security_digest: expected the name of a digest such as sha256, got {digest!r}"
        )
    return found()


@contextmanager
def reraise_errors(msg: str = "{0!r}", errors: Any = None) -> Iterator[None]:
    """Turn the errors of cryptography, or these, into SecurityError."""
    kinds: Any = (InvalidSignature,) if errors is None else errors
    try:
        yield
    except SecurityError:
        raise
    except kinds as error:
        raise SecurityError(msg.format(error)).with_traceback(error.__traceback__) from error


def _bytes(value: Any) -> Any:
    return value.encode() if isinstance(value, str) else value


def _padding(digest: Any) -> Any:
    return padding.PSS(mgf=padding.MGF1(digest), salt_length=padding.PSS.MAX_LENGTH)


class Certificate:
    """An X.509 certificate with an RSA key, as PEM. Raises SecurityError for anything else."""

    def __init__(self, cert: str | bytes) -> None:
        with reraise_errors("Invalid certificate: {0!r}", (ValueError, TypeError)):
            self._cert = load_pem_x509_certificate(_bytes(cert))
            if not isinstance(self._cert.public_key(), rsa.RSAPublicKey):
                raise ValueError("Non-RSA certificates are not supported.")  # noqa: TRY004 - as what is malformed

    def has_expired(self) -> bool:
        """Whether its time is over."""
        return bool(datetime.now(UTC) >= self._cert.not_valid_after_utc)

    def get_pubkey(self) -> Any:
        """Its public key."""
        return self._cert.public_key()

    def get_serial_number(self) -> int:
        """Its number."""
        return int(self._cert.serial_number)

    def get_issuer(self) -> str:
        """Who issued it."""
        return " ".join(str(part.value) for part in self._cert.issuer)

    def get_id(self) -> str:
        """What names it: issuer and number."""
        return f"{self.get_issuer()} {self.get_serial_number()}"

    def verify(self, data: str | bytes, signature: bytes, digest: Any) -> None:
        """Raise SecurityError unless the signature is of this data and by this certificate, which still holds."""
        if self.has_expired():
            raise SecurityError(f"Expired certificate: {self.get_id()!r}")
        with reraise_errors("Bad signature: {0!r}"):
            self.get_pubkey().verify(signature, _bytes(data), _padding(digest), digest)


class CertStore:
    """Certificates by id."""

    def __init__(self) -> None:
        self._certs: dict[str, Certificate] = {}

    def itercerts(self) -> Iterator[Certificate]:
        """All of them."""
        yield from self._certs.values()

    def __getitem__(self, id: str | bytes) -> Certificate:
        name = id.decode() if isinstance(id, bytes) else id
        try:
            return self._certs[name]
        except KeyError:
            raise SecurityError(f"Unknown certificate: {id!r}") from None

    def add_cert(self, cert: Certificate) -> None:
        """Add one. Raises SecurityError when it is there already."""
        if cert.get_id() in self._certs:
            raise SecurityError(f"Duplicate certificate: {cert.get_id()!r}")
        self._certs[cert.get_id()] = cert


class FSCertStore(CertStore):
    """The certificates in the files of a folder, or that match a pattern. Raises SecurityError for an expired one."""

    def __init__(self, path: str) -> None:
        super().__init__()
        place = Path(path)
        files = place.glob("*") if place.is_dir() else place.parent.glob(place.name)
        for file in sorted(files):
            cert = Certificate(file.read_bytes())
            if cert.has_expired():
                raise SecurityError(f"Expired certificate: {cert.get_id()!r}")
            self.add_cert(cert)


class PrivateKey:
    """An RSA key, as PEM. Raises SecurityError for anything else."""

    def __init__(self, key: str | bytes, password: str | bytes | None = None) -> None:
        with reraise_errors("Invalid private key: {0!r}", (ValueError, TypeError)):
            loaded = load_pem_private_key(_bytes(key), password=_bytes(password))
            if not isinstance(loaded, rsa.RSAPrivateKey):
                raise ValueError("Non-RSA keys are not supported.")  # noqa: TRY004 - as what is malformed
            self._key = loaded

    def sign(self, data: str | bytes, digest: Any) -> Any:
        """The signature of some data."""
        with reraise_errors("Unable to sign data: {0!r}"):
            return self._key.sign(_bytes(data), _padding(digest), digest)


class SecureSerializer:
    """Signs what another serializer writes, and reads only what a known certificate has signed."""

    def __init__(
        self,
        key: PrivateKey | None = None,
        cert: Certificate | None = None,
        cert_store: Any = None,
        digest: str = DEFAULT_DIGEST,
        serializer: str = "json",
    ) -> None:
        self._key = key
        self._cert = cert
        self._cert_store = cert_store
        self._digest = get_digest_algorithm(digest)
        self._serializer = serializer

    def serialize(self, data: Any) -> str:
        """A value, signed."""
        assert self._key is not None, "signing needs security_key"
        assert self._cert is not None, "signing needs security_certificate"
        with reraise_errors("Unable to serialize: {0!r}", (Exception,)):
            content_type, encoding, body = serializers.dumps(data, self._serializer)
            signature = self._key.sign(body, self._digest)
            signer = self._cert.get_id().encode()
        fields = (b64encode(signer), b64encode(signature), content_type.encode(), encoding.encode(), body)
        return b64encode(SEPARATOR.join(fields)).decode()

    def deserialize(self, data: str | bytes) -> Any:
        """The value that was signed. Raises SecurityError when nobody known has signed it so."""
        assert self._cert_store is not None, "verifying needs security_cert_store"
        with reraise_errors("Unable to deserialize: {0!r}", (Exception,)):
            signer, signature, content_type, encoding, body = b64decode(_bytes(data)).split(
                SEPARATOR, maxsplit=4
            )
            self._cert_store[b64decode(signer)].verify(body, b64decode(signature), self._digest)
        # What was signed is trusted, whatever it is written with.
        kind = content_type.decode()
        return serializers.loads(body, kind, encoding.decode(), frozenset([kind]))


def register_auth(
    key: str | bytes | None = None,
    key_password: str | bytes | None = None,
    cert: str | bytes | None = None,
    store: str | None = None,
    digest: str = DEFAULT_DIGEST,
    serializer: str = "json",
) -> None:
    """Make ``auth`` a serializer: what it writes is signed with the key, what it reads is checked by the store."""
    signed = SecureSerializer(
        PrivateKey(key, password=key_password) if key else None,
        Certificate(cert) if cert else None,
        FSCertStore(store) if store else None,
        digest,
        serializer,
    )
    serializers.register("auth", signed.serialize, signed.deserialize, "application/data", "utf-8")
