"""kombu's name for Umbel. What is imported is in ``umbel/compat/kombu``."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

__umbel_alias__ = True

_HERE = Path(__file__).parent
if (_HERE / "transport").exists() or (_HERE.parent / "celery" / "app").exists():
    raise ImportError(
        "umbel-celery was installed over a real Celery or kombu, whose files are still in "
        f"{_HERE.parent}. Run: pip uninstall -y celery kombu umbel-celery; pip install umbel-celery"
    )

from umbel.compat import install_as_celery  # noqa: E402 - only where it is safe to go on

install_as_celery()
del sys.modules["kombu"]
importlib.import_module("kombu")
