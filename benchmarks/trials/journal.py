"""What each run says of itself: when its task was sent and began, by the machine's monotonic clock, and its process."""

from __future__ import annotations

import struct

RECORD = struct.Struct("<ddI")
