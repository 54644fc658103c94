"""The options that have a program run in the background, and the start that they ask for."""

from __future__ import annotations

import os
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from umbel.cli.command import UmbelOption

if TYPE_CHECKING:
    from collections.abc import Iterator

    import click

    from umbel.cli.context import CliContext

__all__ = ["background_options", "foreground"]

_GROUP = "Daemonization Options"


def background_options(command: str) -> tuple[UmbelOption, ...]:
    """The options; the settings ``<command>_<name>`` stand in for them."""

    def or_setting(ctx: click.Context, param: click.Parameter, value: Any) -> Any:
        return value or ctx.obj.app.conf.get(f"{command}_{param.name}")

    def option(*names: str, **attributes: Any) -> UmbelOption:
        return UmbelOption(names, help_group=_GROUP, callback=or_setting, **attributes)

    return (
        option("-f", "--logfile", metavar="PATH", help="Where the log goes; default: standard error."),
        option("--pidfile", metavar="PATH", help="File for the process id; held by one process at a time."),
        option("--uid", help="User to become."),
        option("--gid", help="Group to become."),
        option("--umask", help="Mask of the rights of files made: octal with a leading zero."),
        option("--executable", metavar="PATH", help="Python interpreter for --detach."),
    )


@contextmanager
def foreground(context: CliContext, options: dict[str, Any]) -> Iterator[bool]:
    """Become who is to run, and hold the pid file meanwhile; false where another process was started to do so.

    Takes all options of this page out of ``options`` but ``logfile``, and ``detach``.
    """
    # Showing the help and finding mistakes does not need it.
    from umbel.cli.daemon import Pidfile, detach, is_detached, read_umask
    from umbel.cli.privileges import drop_privileges

    detached = is_detached()
    drop_privileges(options.pop("uid"), options.pop("gid"))
    umask, executable = options.pop("umask"), options.pop("executable")
    if umask is not None:
        os.umask(read_umask(umask))
    pidfile, start = options.pop("pidfile"), context.start_directory
    if options.pop("detach") and not detached:
        detach(executable=executable, logfile=options["logfile"], pidfile=pidfile, start_directory=start)
        yield False
    elif pidfile:
        with Pidfile(pidfile):
            yield True
    else:
        yield True
