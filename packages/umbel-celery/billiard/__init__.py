"""billiard's name for what Umbel has of it: programs import it because Celery does."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

__umbel_alias__ = True

_HERE = Path(__file__).parent
if (_HERE / "pool.py").exists():
    raise ImportError(
        f"umbel-celery was installed over a real billiard, whose files are still in {_HERE}. "
        "Run: pip uninstall -y billiard umbel-celery; pip install umbel-celery"
    )

from umbel.compat import install_as_celery  # noqa: E402 - only where it is safe to go on

install_as_celery()
del sys.modules["billiard"]
importlib.import_module("billiard")
