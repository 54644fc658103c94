"""Files that Celery ships; Umbel has none."""

from __future__ import annotations

from typing import NoReturn

__all__ = ("get_file", "logo")


def get_file(*args: str) -> NoReturn:
    """There is no such file here."""
    raise FileNotFoundError(f"Umbel ships no {'/'.join(args)}")


def logo() -> NoReturn:
    """There is no picture here."""
    get_file("celery_128.png")
