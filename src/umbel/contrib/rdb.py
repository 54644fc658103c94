"""A debugger over the network, for tasks: ``rdb.set_trace()`` waits for ``telnet 127.0.0.1 6900``.

``CELERY_RDB_HOST`` and ``CELERY_RDB_PORT`` say where it listens; each pool process takes a port of its own from there
on. Who can connect can do anything, so it listens on this machine only unless told otherwise.
"""

from __future__ import annotations

import errno
import os
import socket
import sys
from multiprocessing.process import current_process
from pdb import Pdb
from types import FrameType
from typing import Any

__all__ = ["CELERY_RDB_HOST", "CELERY_RDB_PORT", "DEFAULT_PORT", "Rdb", "debugger", "set_trace"]

DEFAULT_PORT = 6899
CELERY_RDB_HOST = os.environ.get("CELERY_RDB_HOST") or "127.0.0.1"
CELERY_RDB_PORT = int(os.environ.get("CELERY_RDB_PORT") or DEFAULT_PORT)


class Rdb(Pdb):
    """Python's debugger on a socket.

    Args:
        host, port: where it listens; ``port_skew`` is added to the port, by default the number of the pool process.
        port_search_limit: how many ports are tried from there on.
        out: where it says on which port it waits; None: standard output.
    """

    def __init__(
        self,
        host: str = CELERY_RDB_HOST,
        port: int = CELERY_RDB_PORT,
        port_search_limit: int = 100,
        port_skew: int | None = None,
        out: Any = None,
    ) -> None:
        self.out = out or sys.stdout
        self._listening, self.this_port = self._listen(
            host, port + (_process_number() if port_skew is None else port_skew), port_search_limit
        )
        self.ident = f"{current_process().name}:{self.this_port}"
        self.host = host
        self._say(f"Ready to connect: telnet {host} {self.this_port}")
        client, address = self._listening.accept()
        self._say(f"In session with {address[0]}:{address[1]}.")
        self._client = client
        # Two files: one that does both forgets what it has read ahead when it writes.
        self._files = client.makefile("r"), client.makefile("w")
        super().__init__(completekey="tab", stdin=self._files[0], stdout=self._files[1])
        self.prompt = "(rdb) "

    @staticmethod
    def _listen(host: str, first: int, limit: int) -> tuple[socket.socket, int]:
        for port in range(first, first + limit):
            listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                listening.bind((host, port))
            except OSError as error:
                listening.close()
                if error.errno not in {errno.EADDRINUSE, errno.EINVAL}:
                    raise
            else:
                listening.listen(1)
                return listening, port
        raise OSError(errno.EADDRINUSE, f"rdb: no port from {first} to {first + limit - 1} is free on {host}")

    def _say(self, text: str) -> None:
        print(f"Remote Debugger:{self.this_port}: {text}", file=self.out, flush=True)

    def _close(self) -> None:
        for each in (*self._files, self._client):
            each.close()
        self._listening.close()
        self._say("Session ended.")

    def do_continue(self, arg: str) -> bool | None:
        """Go on, and let go of the connection."""
        self.set_continue()
        self._close()
        return True

    do_c = do_cont = do_continue

    def do_quit(self, arg: str) -> bool | None:
        """End what is debugged."""
        self.set_quit()
        self._close()
        return True

    do_q = do_exit = do_quit

    def set_trace(self, frame: FrameType | None = None) -> None:
        """Stop in the caller, or in a frame; the one who connected goes on from there."""
        super().set_trace(frame or sys._getframe().f_back)


def _process_number() -> int:
    number = current_process().name.rpartition("-")[2]
    return int(number) if number.isdigit() else 0


def debugger() -> Rdb:
    """A debugger; returns when someone has connected."""
    return Rdb()


def set_trace(frame: FrameType | None = None) -> None:
    """Stop here until someone has connected, and lets the program go on."""
    debugger().set_trace(frame or sys._getframe().f_back)
