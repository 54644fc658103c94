"""Events."""

from umbel.compat.lazily import lazily as _lazily

__all__ = ("Event", "EventDispatcher", "EventReceiver", "event_exchange", "get_exchange", "group_from")

_PLACES = {
    "Event": "event",
    "event_exchange": "event",
    "get_exchange": "event",
    "group_from": "event",
    "EventDispatcher": "dispatcher",
    "EventReceiver": "receiver",
}
__getattr__ = _lazily(__name__, {name: f"celery.events.{place}:{name}" for name, place in _PLACES.items()})
