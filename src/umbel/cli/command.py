"""Commands and options as Celery's command line has them: options in groups, and options that applications add."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from umbel.cli.errors import misplaced_app
from umbel.signals import user_preload_options

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from umbel.app import Umbel

__all__ = ["UmbelCommand", "UmbelOption", "adopt", "command", "format_option_groups"]


class UmbelOption(click.Option):
    """An option that is shown in the help under the heading ``help_group``."""

    def __init__(self, param_decls: Sequence[str], *, help_group: str = "Options", **attributes: Any) -> None:
        super().__init__(param_decls, **attributes)
        self.help_group = help_group


class UmbelCommand(click.Command):
    """A command that shows its options in groups and takes those that the application adds to it.

    ``app.user_options[<command>]`` are options whose values the command gets, ``app.user_options['preload']`` options
    of every command, whose values go out with the signal ``user_preload_options``.
    """

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        """Its own options and the application's."""
        params = super().get_params(ctx)
        options = user_options(ctx)
        return [*params, *options(self.name or ""), *options("preload")]

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Read the options; for ``-A`` in this place say where it belongs."""
        try:
            return super().parse_args(ctx, args)
        except click.NoSuchOption as error:
            if error.option_name in {"-A", "--app"}:
                raise misplaced_app(error.option_name, ctx) from None
            raise

    def invoke(self, ctx: click.Context) -> Any:
        """Tell the receivers of ``user_preload_options``, then run."""
        _send_preload_options(ctx, self.callback)
        return super().invoke(ctx)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options, group by group."""
        format_option_groups(self.get_params(ctx), ctx, formatter)


def command(name: str, *params: click.Parameter, **attributes: Any) -> Callable[[Any], UmbelCommand]:
    """Make a command of a function; its docstring is the help. The function gets the values by keyword."""

    def make(function: Callable[..., Any]) -> UmbelCommand:
        callback = click.pass_obj(function)
        return UmbelCommand(name, params=list(params), callback=callback, help=function.__doc__, **attributes)

    return make


def user_options(ctx: click.Context) -> Callable[[str], Iterable[click.Parameter]]:
    """What the application, where one was named, adds to commands."""
    app: Umbel | None = ctx.obj.given_app if ctx.obj is not None else None
    if app is None:
        return lambda kind: ()
    return lambda kind: app.user_options.get(kind, ())


def _send_preload_options(ctx: click.Context, sender: Any) -> None:
    names = [option.name for option in user_options(ctx)("preload")]
    options = {name: ctx.params.pop(name) for name in names if name in ctx.params}
    if options:
        user_preload_options.send(sender=sender, app=ctx.obj.app, options=options)


def adopt(other: click.Command, ctx: click.Context) -> click.Command:
    """Give a plug-in's command, which is any click command, the options of every command."""
    if isinstance(other, UmbelCommand):
        return other
    known = {param.name for param in other.params}
    other.params.extend(option for option in user_options(ctx)("preload") if option.name not in known)
    plain = other.invoke

    def invoke(ctx: click.Context) -> Any:
        _send_preload_options(ctx, other.callback)
        return plain(ctx)

    other.invoke = invoke  # type: ignore[method-assign]
    return other


def format_option_groups(
    params: Iterable[click.Parameter], ctx: click.Context, formatter: click.HelpFormatter
) -> None:
    """Write options under the headings of their groups, in the order in which the groups come up."""
    groups: dict[str, list[tuple[str, str]]] = {}
    for param in params:
        record = param.get_help_record(ctx)
        if record is not None:
            heading = param.help_group if isinstance(param, UmbelOption) else "Options"
            groups.setdefault(heading, []).append(record)
    for heading, records in groups.items():
        with formatter.section(heading):
            formatter.write_dl(records)
