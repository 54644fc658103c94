"""Remote control."""

from umbel.app.control import Control
from umbel.app.inspecting import Inspect, flatten_reply

__all__ = ("Control", "Inspect", "flatten_reply")
