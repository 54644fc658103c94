"""The command ``multi``."""

from __future__ import annotations

import sys
from contextlib import redirect_stderr, redirect_stdout
from functools import partialmethod
from typing import TYPE_CHECKING, Any

import click

from umbel.cli.context import CliContext
from umbel.cli.errors import EX_FAILURE
from umbel.cli.multi import Multi, call, multi

from ..apps.multi import Cluster, MultiParser, NamespacedOptionParser

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import TextIO

__all__ = ("MultiTool",)


class MultiTool:
    """``umbel multi`` for programs.

    Args:
        env: of the workers.
        cmd: what Python runs, instead of ``-m umbel worker --detach``.
        fh, stdout, stderr: where it prints; ``fh`` is an old name of ``stdout``.
        nosplash, quiet, verbose, no_color: as the options of these names.
    """

    MultiParser = MultiParser
    OptionParser = NamespacedOptionParser

    def __init__(
        self,
        env: Mapping[str, str] | None = None,
        cmd: str | None = None,
        fh: TextIO | None = None,
        stdout: TextIO | None = None,
        stderr: TextIO | None = None,
        *,
        nosplash: bool = False,
        quiet: bool = False,
        verbose: bool = False,
        no_color: bool = False,
        **options: object,
    ) -> None:
        self.env, self.cmd = env, cmd
        self.stdout, self.stderr = stdout or fh or sys.stdout, stderr or sys.stderr
        self.nosplash, self.quiet, self.verbose, self.no_color = nosplash, quiet, verbose, no_color

    def execute_from_commandline(self, argv: Sequence[str], cmd: str | None = None) -> int:
        """Do what a command line says, of which the first word is the program's name; gives the exit status."""
        self.cmd = cmd if cmd is not None else self.cmd
        words = list(argv[1:])
        for option, name in (
            ("--nosplash", "nosplash"),
            ("--quiet", "quiet"),
            ("-q", "quiet"),
            ("--verbose", "verbose"),
            ("--no-color", "no_color"),
        ):
            if option in words:
                words.remove(option)
                setattr(self, name, True)
        if not words or words[0].startswith("-"):
            self._say(multi.get_help(click.Context(multi, info_name="celery multi")))
            return EX_FAILURE
        return self.call_command(words[0], words[1:])

    def call_command(self, command: str, argv: Sequence[str]) -> int:
        """Do one command; gives the exit status."""
        if command == "help":
            self._say(multi.get_help(click.Context(multi, info_name="celery multi")))
            return 0
        context = CliContext(no_color=self.no_color, quiet=self.quiet)
        tool = Multi(context, frozenset(["--verbose"] if self.verbose else []), self.env)
        words = [*argv, f"--cmd={self.cmd}"] if self.cmd else list(argv)
        with redirect_stdout(self.stdout), redirect_stderr(self.stderr):
            try:
                return call(tool, context, command, words)
            except click.ClickException as error:
                error.show(self.stderr)
                return EX_FAILURE

    def _command(self, *argv: str, command: str) -> int:
        return self.call_command(command, argv)

    start = partialmethod(_command, command="start")
    stop = partialmethod(_command, command="stop")
    stopwait = partialmethod(_command, command="stopwait")
    stop_verify = stopwait
    restart = partialmethod(_command, command="restart")
    kill = partialmethod(_command, command="kill")
    show = partialmethod(_command, command="show")
    names = partialmethod(_command, command="names")
    get = partialmethod(_command, command="get")
    expand = partialmethod(_command, command="expand")
    help = partialmethod(_command, command="help")

    def cluster_from_argv(self, argv: Sequence[str], cmd: str | None = None) -> Any:
        """The nodes that a command line names."""
        parser = self.OptionParser(argv)
        parser.parse()
        cmd = cmd if cmd is not None else self.cmd
        return Cluster(list(self.MultiParser(cmd=cmd).parse(parser)), cmd=cmd, env=self.env)

    def _say(self, text: str) -> None:
        print(text, file=self.stdout)
