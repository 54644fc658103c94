"""Settings given as the last words of a command line: ``umbel worker -- worker.prefetch_multiplier=1``."""

from __future__ import annotations

from collections.abc import Iterable

from umbel.config.names import meaning_of, nearest_to, reject_misspelling
from umbel.config.settings import BY_NAME
from umbel.config.values import BOOL
from umbel.errors import ImproperlyConfigured

__all__ = ["parse_cmdline_settings"]


def parse_cmdline_settings(argv: Iterable[str], namespace: str = "celery") -> dict[str, object]:
    """Read ``family.key=value``, ``family_key=value`` (any case) or ``.key=value``, which is in ``namespace``.

    Values are read as the setting's type, or as the type named before them: ``(int)3``, ``(json)[1]``. A name that
    is no setting needs a type, so that a misspelling does not pass for a setting of somebody else's.

    Raises:
        ImproperlyConfigured: a word is no assignment, names no setting or has a bad value.
    """
    return dict(_parse(word, namespace.lower()) for word in argv)


def _parse(word: str, namespace: str) -> tuple[str, object]:
    key, sign, text = word.partition("=")
    if not sign or not key.strip("._"):
        raise ImproperlyConfigured(f"expected name=value, got {word!r}")
    name = _full_name(key.lower().replace(".", "_"), namespace)
    cast, text = _split_cast(text)
    if name in BY_NAME:
        return name, BY_NAME[name].to_python(_cast(name, cast, text) if cast else text)
    reject_misspelling(name)
    if not cast:
        near = nearest_to(name)
        hint = f"; did you mean {near}?" if near else ""
        raise ImproperlyConfigured(f"{name}: there is no such setting{hint}")
    return name, _cast(name, cast, text)


def _full_name(key: str, namespace: str) -> str:
    """Give the full name: a key without family is one of ``namespace``; old names are known too."""
    if key.startswith("_"):
        bare = key.lstrip("_")
        inside = f"{namespace}_{bare}"
        return bare if inside not in BY_NAME and bare in BY_NAME else inside
    meaning = meaning_of(key) or meaning_of(key.upper())
    return meaning.setting if meaning else key


def _split_cast(text: str) -> tuple[str, str]:
    if text.startswith("("):
        cast, closing, rest = text[1:].partition(")")
        if closing and cast.isidentifier():
            return cast, rest
    return "", text


def _cast(name: str, cast: str, text: str) -> object:
    try:
        return _convert(cast, text)
    except (ValueError, TypeError) as error:
        raise ImproperlyConfigured(f"{name}: expected {cast}, got {text!r}") from error


def _convert(cast: str, text: str) -> object:
    match cast:
        case "string" | "str" | "any":
            return text
        case "int":
            return int(text)
        case "float":
            return float(text)
        case "bool":
            return BOOL.check(text)
        case "json" | "dict" | "list" | "tuple":
            import json  # structured values on a command line are rare

            return json.loads(text)
    raise ValueError(cast)
