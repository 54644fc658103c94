"""Starting pool processes by forking a template: the supervisor's side."""

from __future__ import annotations

import asyncio
import os
import socket
import warnings
from typing import TYPE_CHECKING

import msgspec

from umbel.pools.process import describe_status
from umbel.pools.template import Born, Died, Notice, Unborn, fork_template, open_descriptors

if TYPE_CHECKING:
    from collections.abc import Callable

    from umbel.pools.base import JobRunner
    from umbel.pools.process import PoolProcess

_NOTICE_BYTES = 64 * 1024


class ForkLauncher:
    """Keeps one template and has it fork pool processes.

    When the template ends, so do its pool processes (the system ends a process with its parent), and another is
    forked for the next ones. Linux takes the thread that forked for the parent: the thread that called ``prepare`` or
    ``start`` has to live as long as the pool.
    """

    can_kill = True

    def __init__(self, make_runner: Callable[[], JobRunner]) -> None:
        self._make_runner = make_runner
        self._encoder = msgspec.msgpack.Encoder()
        self._decoder = msgspec.msgpack.Decoder(Notice)
        self._control: socket.socket | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._template_pid = 0
        self._clean: set[int] | None = None
        self._unborn: dict[int, PoolProcess] = {}
        self._living: dict[int, PoolProcess] = {}

    @property
    def template_pid(self) -> int:
        """The process that forks; 0 when there is none."""
        return self._template_pid if self._control is not None else 0

    def prepare(self) -> None:
        """Fork the template. Best called before anything is open or running that it should not have."""
        if self._control is not None:
            return
        keep = self._clean
        if keep is None:
            self._clean = open_descriptors()
        with warnings.catch_warnings():
            # A second template may be forked while the supervisor has threads; it runs none of their code.
            warnings.simplefilter("ignore", DeprecationWarning)
            self._template_pid, self._control = fork_template(self._make_runner, keep)
        if self._loop is not None:
            self._loop.add_reader(self._control, self._on_notice)

    def start(self) -> None:
        """Listen to the template."""
        self._loop = asyncio.get_running_loop()
        if self._control is None:
            self.prepare()
        else:
            self._loop.add_reader(self._control, self._on_notice)

    def launch(self, process: PoolProcess) -> None:
        """Have the template fork a pool process."""
        self.prepare()
        assert self._control is not None
        self._unborn[process.settings.number] = process
        command = self._encoder.encode(process.settings)
        try:
            socket.send_fds(self._control, [command], [process.child_link.fileno(), process.permits.read_fd])
        except OSError:
            self._on_template_end()
        else:
            process.give_child_ends()

    def close(self) -> None:
        """End the template."""
        if self._control is not None:
            self._drop_control()
            os.waitpid(self._template_pid, 0)

    def _on_notice(self) -> None:
        assert self._control is not None
        try:
            data = self._control.recv(_NOTICE_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._on_template_end()
            return
        notice = self._decoder.decode(data)
        if isinstance(notice, Born):
            process = self._unborn.pop(notice.number)
            self._living[notice.pid] = process
            process.born(notice.pid)
        elif isinstance(notice, Unborn):
            self._unborn.pop(notice.number).exited(notice.why)
        else:
            self._on_death(notice)

    def _on_death(self, notice: Died) -> None:
        # Other children of the template's (a library may have started one) are none of ours.
        process = self._living.pop(notice.pid, None)
        if process is not None:
            process.exited(describe_status(notice.status))

    def _on_template_end(self) -> None:
        self._drop_control()
        _, status = os.waitpid(self._template_pid, 0)
        why = f"its parent, the template process, ended: {describe_status(status)}"
        lost = [*self._unborn.values(), *self._living.values()]
        self._unborn.clear()
        self._living.clear()
        for process in lost:
            process.end_surely(why)

    def _drop_control(self) -> None:
        assert self._control is not None
        if self._loop is not None:
            self._loop.remove_reader(self._control)
        self._control.close()
        self._control = None
