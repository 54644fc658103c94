"""What kombu's virtual transports are made of; Umbel's brokers have a contract of their own."""

from umbel.client.connection import Message
from umbel.compat.lazily import lazily as _lazily

__all__ = (
    "AbstractChannel",
    "Base64",
    "BrokerState",
    "Channel",
    "Empty",
    "Management",
    "Message",
    "NotEquivalentError",
    "QoS",
    "Transport",
    "UndeliverableWarning",
    "binding_key_t",
    "queue_binding_t",
)

__getattr__ = _lazily(
    __name__, {name: f"umbel.compat.kombu_transports:{name}" for name in __all__ if name != "Message"}
)
