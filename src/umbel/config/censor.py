"""Hides secrets in settings before they are shown: in logs, reports and remote control."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache

__all__ = ["censored", "mask_url"]

_MASK = "********"
_SECRET_NAMES = "API|TOKEN|KEY|SECRET|PASS|PROFANITIES_LIST|SIGNATURE|DATABASE|BEAT_DBURI"  # noqa: S105 - a pattern, no secret
_BROKER_URLS = frozenset({"broker_url", "broker_read_url", "broker_write_url"})


@cache
def _pattern(text: str) -> re.Pattern[str]:
    # Compiled when first needed: reports are rare, programs that start are not.
    return re.compile(text, re.IGNORECASE)


def censored(settings: Mapping[str, object]) -> dict[str, object]:
    """Give the settings with secrets masked, dictionaries inside them included."""
    return {name: _censor(name, value) for name, value in settings.items()}


def _censor(name: object, value: object) -> object:
    if isinstance(value, Mapping):
        return censored(value)
    if not isinstance(name, str):
        return value
    if _pattern(_SECRET_NAMES).search(name):
        return _MASK
    if name.lower().removeprefix("celery_") in _BROKER_URLS or "backend" in name.lower():
        return _mask_urls(value)
    return value


def _mask_urls(value: object) -> object:
    if isinstance(value, (list, tuple)):
        return [mask_url(url) if isinstance(url, str) else url for url in value]
    return mask_url(value) if isinstance(value, str) else value


def mask_url(url: str) -> str:
    """Mask the passwords in a URL, in a list of URLs joined by ``;``, or in an Azure connection string.

    In doubt more is masked: a password may hold any character, so it reaches to the last ``@``.
    """
    if "://" not in url:
        return url
    return ";".join(_mask_one(part) for part in _split(url))


def _split(url: str) -> list[str]:
    """Split a list of whole URLs; hosts after a ``;`` that have no scheme belong to the URL before them."""
    parts: list[str] = []
    for part in url.split(";"):
        if "://" in part or not parts:
            parts.append(part)
        else:
            parts[-1] += ";" + part
    return parts


def _mask_one(url: str) -> str:
    url = _pattern(r"(://[^:@/]*:).*@").sub(rf"\g<1>{_MASK}@", url)
    url = _pattern(r"([?&](?:password|passwd|secret|token|sig|api_?key)=)[^&#;]*").sub(rf"\g<1>{_MASK}", url)
    return _pattern(r"((?:AccountKey|SharedAccessSignature)=)[^;]*").sub(rf"\g<1>{_MASK}", url)
