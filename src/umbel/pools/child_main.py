"""Where a pool process begins that starts from nothing.

``python -m umbel.pools.child_main LINK PERMITS PARENT``: two descriptors and a process id.
"""

from __future__ import annotations

import multiprocessing.process
import os
import socket
import sys
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING, cast

import msgspec

from umbel.pools.child import run_process
from umbel.pools.frames import FrameReader, ProcessSettings
from umbel.pools.greenlets import greenlets_of
from umbel.pools.guard import die_with_parent
from umbel.pools.permits import Permits

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import NoReturn

    from umbel.pools.base import JobRunner


def main() -> NoReturn:
    """Read what to be, and be it."""
    link_fd, permits_fd, parent = map(int, sys.argv[1:4])
    # Passed on to us, not to what the tasks start.
    os.set_inheritable(link_fd, False)
    os.set_inheritable(permits_fd, False)
    link = socket.socket(fileno=link_fd)
    die_with_parent(parent, link)
    settings = read_settings(link)
    sys.path[:] = settings.path
    if settings.patch:
        greenlets_of(settings.patch).patch()
        # Of the patched kind.
        link = socket.socket(link.family, link.type, link.proto, fileno=link.detach())
    multiprocessing.process.current_process().name = settings.name
    run_process(
        link, Permits(permits_fd), settings, partial(make_runner, settings.factory, settings.argument)
    )


def read_settings(link: socket.socket) -> ProcessSettings:
    """The first frame; the supervisor sends nothing after it until this process says that it is up."""
    reader = FrameReader()
    while data := link.recv(4096):
        for _, body in reader.feed(data):
            return msgspec.msgpack.decode(body, type=ProcessSettings)
    sys.exit(1)


def make_runner(factory: str, argument: bytes = b"") -> JobRunner:
    """Call what makes the runner, by its ``module:name``, with the argument if there is one."""
    module, _, name = factory.partition(":")
    made = import_module(module)
    for part in name.split("."):
        made = getattr(made, part)
    make = cast("Callable[..., JobRunner]", made)
    return make(argument) if argument else make()


if __name__ == "__main__":
    main()
