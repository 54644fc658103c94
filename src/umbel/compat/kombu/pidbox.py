"""Remote control: see ``app.control``."""

from umbel.compat.lazily import lazily as _lazily

__all__ = ("Mailbox", "Node")

__getattr__ = _lazily(__name__, {"Mailbox": "umbel.app.mailbox:Mailbox", "Node": "umbel.app.mailbox:Node"})
