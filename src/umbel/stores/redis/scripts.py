"""Lua scripts: kept as files with a legend of their keys, run by their digest."""

from __future__ import annotations

import hashlib
import pkgutil
import re
from typing import TYPE_CHECKING, Final

import msgspec

from umbel.stores.redis.commands import pack_command

if TYPE_CHECKING:
    from collections.abc import Sequence

_COMMENT: Final = re.compile(r"--\[\[.*?\]\]|^\s*--[^\n]*", re.DOTALL | re.MULTILINE)


class Script(msgspec.Struct, frozen=True):
    """A script's text, without comments, and its digest."""

    text: bytes
    digest: bytes


def pack_script(script: Script, keys: Sequence[bytes], arguments: Sequence[bytes | str | float]) -> bytes:
    """The command that runs a script by its digest."""
    return pack_command((b"EVALSHA", script.digest, len(keys), *keys, *arguments))


def load_script(*paths: tuple[str, str]) -> Script:
    """One script out of files, each a package and a name; earlier ones define what later ones use."""
    source = "\n".join(_COMMENT.sub("", _read(package, name)) for package, name in paths)
    text = "\n".join(line for line in source.splitlines() if line.strip()).encode()
    # Redis names scripts by SHA-1; this is no matter of trust.
    return Script(text, hashlib.sha1(text, usedforsecurity=False).hexdigest().encode())


def _read(package: str, name: str) -> str:
    # importlib.resources would read it too, but takes ten milliseconds to import.
    data = pkgutil.get_data(package, name)
    if data is None:
        raise FileNotFoundError(f"{package} has no file {name}")
    return data.decode()
