"""Logical time."""

from umbel.compat.helpers.clocks import LamportClock, timetuple

__all__ = ("LamportClock", "timetuple")
