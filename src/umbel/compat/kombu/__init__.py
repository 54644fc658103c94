"""kombu's top level: queues as values, and simple connections, are Umbel's."""

from __future__ import annotations

from typing import Any, NamedTuple

from umbel.compat.lazily import lazily as _lazily
from umbel.core.ids import new_id as uuid
from umbel.core.queues import Exchange, Queue, binding

__umbel_alias__ = True

__version__ = "5.7.0"
__author__ = "The Umbel authors"
__contact__ = __homepage__ = "https://umbel.readthedocs.io"
__docformat__ = "restructuredtext en"


class version_info_t(NamedTuple):
    """A version in parts."""

    major: int
    minor: int
    micro: int
    releaselevel: str
    serial: str


VERSION = version_info = version_info_t(5, 7, 0, "", "")

__all__ = (
    "BrokerConnection",
    "Connection",
    "Consumer",
    "Exchange",
    "Message",
    "Producer",
    "Queue",
    "binding",
    "connections",
    "disable_insecure_serializers",
    "enable_insecure_serializers",
    "eventloop",
    "parse_url",
    "producers",
    "uuid",
)

__getattr__ = _lazily(
    __name__,
    {
        "BrokerConnection": "umbel.client.connection:Connection",
        "Connection": "umbel.client.connection:Connection",
        "Consumer": "kombu.messaging:Consumer",
        "Message": "umbel.client.connection:Message",
        "Producer": "kombu.messaging:Producer",
        "connections": "kombu.pools:connections",
        "disable_insecure_serializers": "kombu.serialization:disable_insecure_serializers",
        "enable_insecure_serializers": "kombu.serialization:enable_insecure_serializers",
        "eventloop": "kombu.common:eventloop",
        "exceptions": "kombu.exceptions",
        "parse_url": "kombu.utils.url:parse_url",
        "pools": "kombu.pools",
        "producers": "kombu.pools:producers",
        "serialization": "kombu.serialization",
        "utils": "kombu.utils",
    },
)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
