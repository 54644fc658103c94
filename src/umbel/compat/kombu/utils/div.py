"""The rest."""

from __future__ import annotations

import pickle
import sys
import uuid
from pathlib import Path
from pprint import pformat
from tempfile import gettempdir
from typing import Any

__all__ = ("emergency_dump_state",)


def emergency_dump_state(state: Any, open_file: Any = open, dump: Any = None, stderr: Any = None) -> str:
    """Write something to a temporary file when there is nothing else left to do; its name."""
    path = Path(gettempdir()) / str(uuid.uuid4())
    print(f"EMERGENCY DUMP STATE TO FILE -> {path} <-", file=stderr or sys.stderr)
    try:
        path.write_bytes(pickle.dumps(state))
    except Exception as error:  # whatever cannot be pickled can be read by people
        print(f"Cannot pickle state: {error!r}. Fallback to pformat.", file=stderr or sys.stderr)
        path.write_text(pformat(state), encoding="utf-8")
    return str(path)
