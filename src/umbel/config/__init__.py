"""Settings: the table of them, and ``app.conf``."""

from umbel.config.cmdline import parse_cmdline_settings
from umbel.config.config import Settings
from umbel.config.settings import SETTINGS, Setting
from umbel.config.values import seconds

__all__ = ["SETTINGS", "Setting", "Settings", "parse_cmdline_settings", "seconds"]
