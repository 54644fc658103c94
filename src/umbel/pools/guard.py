"""Pool processes never outlive their supervisor, however it ends and whatever they are doing."""

from __future__ import annotations

import ctypes
import os
import select
import signal
import sys
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import socket

_PR_SET_PDEATHSIG = 1


def die_with_parent(parent: int, link: socket.socket) -> None:
    """End this process with SIGKILL when ``parent`` ends.

    Linux does it for us. Elsewhere a thread waits for the other end of ``link`` to close; it asks for no events, so
    it is woken by nothing else.
    """
    if sys.platform == "linux":
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL) != 0:
            number = ctypes.get_errno()
            raise OSError(number, f"prctl(PR_SET_PDEATHSIG) failed: {os.strerror(number)}")
        # The parent may have ended before the call: then nothing would tell us.
        if os.getppid() != parent:
            os.kill(os.getpid(), signal.SIGKILL)
        return
    threading.Thread(target=_watch, args=(link.fileno(),), name="umbel-guard", daemon=True).start()


def _watch(fd: int) -> None:
    poll = select.poll()
    poll.register(fd, 0)
    poll.poll()
    os.kill(os.getpid(), signal.SIGKILL)
