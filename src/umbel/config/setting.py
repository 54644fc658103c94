"""``Setting``: one row of the table of settings."""

from __future__ import annotations

from typing import NamedTuple

from umbel.config.values import Kind
from umbel.errors import ImproperlyConfigured

__all__ = ["Setting"]

#: What replaces a group's prefix in the old upper-case names; other groups keep their names, in upper case.
_OLD_PREFIXES = {
    "task": "CELERY_",
    "worker": "CELERYD_",
    "beat": "CELERYBEAT_",
    "cache": "CELERY_CACHE_",
    "couchbase": "CELERY_COUCHBASE_",
    "arangodb": "CELERY_ARANGODB_",
    "mongodb": "CELERY_MONGODB_",
    "event": "CELERY_EVENT_",
    "redis": "CELERY_REDIS_",
    "result": "CELERY_RESULT_",
    "elasticsearch": "CELERY_ELASTICSEARCH_",
    "security": "CELERY_SECURITY_",
}


class Setting(NamedTuple):
    """A setting: its name, what it takes, what it is when nothing was said, and what it is for.

    Attributes:
        name: the lower-case name.
        kind: what values it takes.
        default: its value when nothing was said.
        doc: what it means, in one line, units named.
        group: its family, ``""`` for the general ones. Celery calls this the namespace.
        irregular: the old upper-case name where the family's rule does not give it.
        idle: Umbel accepts it and, so far, does nothing with it.
        ours: it is Umbel's own; Celery does not know it.
        unlisted: Celery reads it without listing it among its defaults; it has no old name.
        deprecated: what to use instead, where Celery has announced its end.
    """

    name: str
    kind: Kind
    default: object
    doc: str
    group: str = ""
    irregular: str = ""
    idle: bool = False
    ours: bool = False
    unlisted: bool = False
    deprecated: str = ""

    @property
    def key(self) -> str:
        """Its name within its group: ``acks_late`` for ``task_acks_late``."""
        return self.name[len(self.group) + 1 :] if self.group else self.name

    @property
    def old(self) -> str:
        """Its old upper-case name, or ``""`` if it never had one."""
        if self.irregular or self.ours or self.unlisted:
            return self.irregular
        prefix = _OLD_PREFIXES.get(self.group)
        return prefix + self.key.upper() if prefix else self.name.upper()

    @property
    def type(self) -> str:
        """Celery's word for the type, as its options have it."""
        return self.kind.name

    def to_python(self, value: object) -> object:
        """Give the value to use.

        Raises:
            ImproperlyConfigured: this setting cannot take the value.
        """
        if value is None:
            return None
        try:
            return self.kind.check(value)
        except (ValueError, TypeError) as error:
            raise ImproperlyConfigured(f"{self.name}: expected {self.kind.expects}, got {value!r}") from error
