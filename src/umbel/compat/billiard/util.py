"""Helpers."""

from multiprocessing.util import Finalize, get_logger, register_after_fork
