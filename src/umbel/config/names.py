"""Which setting a name means: new and old spellings, prefixes, and what was probably meant.

Celery lets any name through, and working configurations carry many that are no settings: those of third parties
(``redbeat_redis_url``), of the web framework, helper variables of a module. So a name is an error only if it looks
like a misspelt setting: it begins like a family of settings, and word by word resembles one. Other strangers of a
family are kept and reported once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from umbel.config.settings import BY_NAME, NEW_NAMES, OLD_NAMES
from umbel.errors import ImproperlyConfigured

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = [
    "Meaning",
    "check_mixing",
    "is_stranger",
    "meaning_of",
    "nearest_to",
    "prefixed",
    "reject_misspelling",
]

_FAMILIES = frozenset(name.split("_", 1)[0] for name in BY_NAME if "_" in name) | {
    "celery",
    "celeryd",
    "celerybeat",
}
_TOP_LEVEL = tuple(name for name, setting in BY_NAME.items() if not setting.group)
_OLD_PREFIXES = ("CELERY_", "CELERYD_", "CELERYBEAT_", "BROKER_")

#: Names of a family of settings that belong to others, or that older Celery versions had: no misspellings.
_STRANGERS = frozenset(
    {
        "beat_dburi",
        "beat_engine_options",
        "beat_schema",
        "CELERYD_FORCE_EXECV",
        "CELERYD_LOG_FILE",
        "CELERYD_LOG_LEVEL",
        "CELERY_AMQP_TASK_RESULT_EXPIRES",
        "CELERY_AMQP_TASK_RESULT_CONNECTION_MAX",
        "CELERY_BACKEND",
        "CELERY_CHORD_PROPAGATES",
        "CELERY_DB_REUSE_MAX",
        "CELERY_SEND_TASK_ERROR_EMAILS",
        "BROKER_BACKEND",
        "BROKER_INSIST",
    }
)

#: How alike two whole names, two words, and two names of unlike word counts must be to be the same, misspelt.
_ALIKE, _WORDS_ALIKE, _COUNTS_ALIKE = 0.8, 0.7, 0.85


class Meaning(NamedTuple):
    """The setting a name stands for, and how directly: 0 with the namespace, 1 as it is, 2 by its old name."""

    setting: str
    rank: int


def prefixed(name: str, prefix: str) -> str:
    """Give the spelling of ``name`` with ``prefix``, in the prefix's case."""
    full = name if name.startswith(prefix) else prefix + name
    return full.upper() if prefix.isupper() else full.lower()


def meaning_of(name: str, prefix: str = "") -> Meaning | None:
    """Tell which setting ``name`` stands for, if any. ``prefix`` ends with an underscore."""
    if prefix and name.startswith(prefix):
        rest = name[len(prefix) :].lower()
        if rest in BY_NAME:
            return Meaning(rest, 0)
    if name in BY_NAME:
        return Meaning(name, 1)
    new = NEW_NAMES.get(name)
    return Meaning(new, 2) if new is not None else None


def nearest_to(name: str, cutoff: float = 0.6) -> str | None:
    """Give the setting whose name is most like ``name``, spelt in the same fashion."""
    return _closest(name, NEW_NAMES if name.isupper() else BY_NAME, cutoff)


def misspelling_of(name: str, prefix: str = "") -> str | None:
    """Give the setting that ``name``, which is none, was meant to be, if it resembles one closely enough."""
    bare = _without(prefix, name)
    if bare is None or name in _STRANGERS or not (is_stranger(name, prefix) or _begins_nearly_like_one(bare)):
        return None
    near = nearest_to(bare, _ALIKE)
    if near is None or not _is_slip(bare, near):
        return None
    return prefixed(near, prefix) if prefix else near


def reject_misspelling(name: str, prefix: str = "") -> None:
    """Raise the error about a misspelt setting.

    Raises:
        ImproperlyConfigured: ``name`` is no setting and resembles one.
    """
    meant = misspelling_of(name, prefix)
    if meant is not None:
        raise ImproperlyConfigured(f"{name}: there is no such setting; did you mean {meant}?")


def is_stranger(name: str, prefix: str = "") -> bool:
    """Tell whether ``name``, which is no setting, begins like one and is not known to be somebody else's."""
    bare = _without(prefix, name)
    if bare is None or name in _STRANGERS or bare in _STRANGERS:
        return False
    if bare.isupper():
        # CELERY_TASK_... in a shared source is the namespaced form, meant for another application.
        return bare.startswith(_OLD_PREFIXES) and bare.removeprefix("CELERY_").lower() not in BY_NAME
    return bare.islower() and "_" in bare and bare.split("_", 1)[0] in _FAMILIES


def _without(prefix: str, name: str) -> str | None:
    """Take the namespace off; a name without it is not ours to judge: the source is shared with other programs."""
    if not prefix:
        return name
    return name[len(prefix) :].lower() if name.startswith(prefix) else None


def _begins_nearly_like_one(name: str) -> bool:
    if not name.islower():
        return False
    return bool(_closest(name.split("_", 1)[0], _FAMILIES, _ALIKE) or _closest(name, _TOP_LEVEL, _ALIKE))


def _closest(name: str, candidates: Iterable[str], cutoff: float) -> str | None:
    from difflib import get_close_matches  # only strangers need it; importing it takes a millisecond

    return next(iter(get_close_matches(name, tuple(candidates), 1, cutoff)), None)


def _is_slip(name: str, near: str) -> bool:
    """Tell whether ``name`` is ``near`` with a slip in it, rather than a longer or another name of its own."""
    if name.startswith(near + "_") or near.startswith(name + "_"):
        return False
    ours, theirs = name.split("_"), near.split("_")
    if len(ours) != len(theirs):
        return _likeness(name, near) >= _COUNTS_ALIKE
    return all(
        sorted(mine) == sorted(its) or _likeness(mine, its) >= _WORDS_ALIKE
        for mine, its in zip(ours, theirs, strict=True)
    )


def _likeness(left: str, right: str) -> float:
    from difflib import SequenceMatcher  # as in nearest_to

    return SequenceMatcher(None, left, right).ratio()


def check_mixing(names: set[str]) -> frozenset[str]:
    """Check that one source does not mix new and old names, unless it gives both names of a setting.

    The names in the majority are taken to be the intended ones; in a tie the new ones.

    Returns:
        The old names found.

    Raises:
        ImproperlyConfigured: they are mixed; the message has the table of what to rename.
    """
    new, old = names & BY_NAME.keys(), names & NEW_NAMES.keys()
    if not new or not old:
        return frozenset(old)
    if len(old) > len(new):
        renames = {name: OLD_NAMES[name] for name in new if name in OLD_NAMES}
        advice = "rename these settings to their old names, or better, all of them to the new ones"
    else:
        renames = {name: NEW_NAMES[name] for name in old}
        advice = "rename these settings to their new names"
    missing = {name: to for name, to in renames.items() if to not in names}
    if missing:
        table = "\n".join(f"{name:<36} -> {to}" for name, to in sorted(missing.items()))
        raise ImproperlyConfigured(f"New and old names of settings cannot be mixed; {advice}:\n\n{table}\n")
    return frozenset(old)
