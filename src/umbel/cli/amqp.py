"""``umbel amqp``: exchanges, queues and single messages by hand, by the names of AMQP's methods.

On RabbitMQ exchanges and queues are made and deleted as asked. Other brokers have queues as soon as they are used and
exchanges as soon as a queue is bound to them; what they have no word for is refused.
"""

from __future__ import annotations

import shlex
import sys
from functools import wraps
from pprint import pformat
from typing import TYPE_CHECKING, Any, Final

import click

from umbel.cli.command import command
from umbel.cli.errors import CommandFailed, one_line
from umbel.client.messages import Receiving
from umbel.core.bindings import Binding
from umbel.core.queues import Exchange
from umbel.errors import OperationalError

if TYPE_CHECKING:
    from collections.abc import Callable

    from umbel.cli.context import CliContext
    from umbel.client.connection import Connection
    from umbel.client.messages import Message
    from umbel.stores.amqp.requests import Request

__all__ = ["amqp"]

_SHELL: Final = "umbel.amqp.shell"
_QUIT: Final = frozenset({"exit", "quit", ":q", ":quit", ":exit"})


class Shell:
    """One connection for all the commands of a session, and the messages that it has taken and not acknowledged."""

    def __init__(self, context: CliContext) -> None:
        self.context = context
        self._connection: Connection = context.app.connection()
        self._types: dict[str, str] = {}
        self._taken: dict[int, Message] = {}
        self._tags = 0

    def connect(self) -> None:
        """Say where to, and connect."""
        self.context.echo(f"-> connecting to {self._connection.as_uri()}.")
        self._connection.connect()
        self.context.secho("-> connected.", fg="green", bold=True)

    def ask(self, request: Request) -> tuple[Any, ...]:
        """The fields of RabbitMQ's answer. Raises CommandFailed where the broker is none."""
        from umbel.brokers.amqp import AmqpBroker

        broker = self._connection.broker
        if not isinstance(broker, AmqpBroker):
            raise CommandFailed(
                f"{broker.display_url} has no exchanges or queues to make or delete by themselves"
            )
        return broker.ask(request)

    @property
    def is_rabbitmq(self) -> bool:
        """Whether exchanges and queues are objects of the broker's own."""
        return bool(self._connection.broker.capabilities.definitions)

    def note_exchange(self, name: str, exchange_type: str) -> None:
        """Remember an exchange's type for bindings and messages of this session."""
        self._types[name] = exchange_type

    def bind(self, queue: str, exchange: str, routing_key: str) -> None:
        """Put a binding in place."""
        binding = Binding(queue, exchange, self._types.get(exchange, "direct"), routing_key)
        self._connection.broker.declare([binding])
        Receiving(self._connection.broker).close()  # whoever takes messages puts in place what was declared

    def depth(self, queue: str) -> int:
        """Messages that wait in a queue."""
        return self._connection.broker.depth(queue)

    def purge(self, queue: str) -> int:
        """Delete them."""
        return self._connection.broker.purge(queue)

    def publish(self, text: str, exchange: str, routing_key: str) -> None:
        """Send a text."""
        with self._connection.Producer() as producer:
            target = Exchange(exchange, self._types.get(exchange, ""))
            producer.publish(text, routing_key, exchange=target, content_type="text/plain")

    def get(self, queue: str, *, no_ack: bool) -> dict[str, Any] | None:
        """Take a message; it goes back at the end of the session unless it is acknowledged."""
        with_queue = self._connection.SimpleQueue(queue)
        try:
            message = with_queue.get_nowait()
        except with_queue.Empty:
            return None
        self._tags += 1
        if no_ack:
            message.ack()
        else:
            self._taken[self._tags] = message
        info = {**message.delivery_info, "delivery_tag": self._tags}
        body = message.body
        text = body.decode("utf-8", "backslashreplace") if isinstance(body, bytes) else body
        return {"body": text, "properties": message.properties, "delivery_info": info}

    def ack(self, tag: int) -> None:
        """Acknowledge a message of this session."""
        message = self._taken.pop(tag, None)
        if message is None:
            raise CommandFailed(f"no message of this session has the delivery tag {tag}")
        message.ack()

    def done(self, said: str = "") -> None:
        """Say what was answered, and that it went well."""
        if said:
            self.context.secho(said, fg="cyan", bold=True)
        self.context.echo(self.context.OK)

    def close(self) -> None:
        """Give back what was not acknowledged."""
        self._connection.release()


@click.group("amqp", invoke_without_command=True, short_help="Exchanges, queues and messages by hand.")
@click.pass_context
def amqp(ctx: click.Context) -> None:
    """Exchanges, queues and messages by hand. Without a command it reads commands, line by line.

    On RabbitMQ all of them work. Other brokers have no exchanges to make or delete: binding a queue makes them.
    """
    shell = ctx.meta[_SHELL] = Shell(ctx.obj)
    ctx.call_on_close(shell.close)
    shell.connect()
    if ctx.invoked_subcommand is None:
        _converse(ctx, shell)


def _converse(ctx: click.Context, shell: Shell) -> None:
    """Carry out what is typed, or what comes in, until there is no more."""
    interactive = sys.stdin.isatty()
    while True:
        try:
            line = input("amqp> " if interactive else "")
        except EOFError:
            return
        try:
            words = shlex.split(line, comments=line.lstrip().startswith("#"))
        except ValueError as error:
            click.UsageError(f"{error}: {line}", ctx).show()
            continue
        if words and words[0] in _QUIT:
            return
        if words:
            _carry_out(ctx, shell, words)


def _carry_out(ctx: click.Context, shell: Shell, line: list[str]) -> None:
    name, *words = line
    if name == "help":
        shell.context.echo(ctx.get_help())
        return
    found = amqp.get_command(ctx, name)
    try:
        if found is None:
            raise click.UsageError(f"No such command {name!r}; help lists them.", ctx)
        found.main(words, name, standalone_mode=False, parent=ctx)
    except click.exceptions.Exit:
        return  # after --help
    except click.ClickException as error:
        error.show()
    except OperationalError as error:
        shell.context.error(f"{shell.context.ERROR}: {one_line(error)}")


def _flags(*names: str) -> list[click.Argument]:
    return [click.Argument([name], type=bool, default=False) for name in names]


def _command(name: str, *params: click.Argument) -> Callable[[Any], click.Command]:
    """Make a command that gets the session's shell."""

    def make(function: Callable[..., None]) -> click.Command:
        @wraps(function)
        def run(_: CliContext, /, **options: Any) -> None:
            function(click.get_current_context().meta[_SHELL], **options)

        made = command(name, *params)(run)
        amqp.add_command(made)
        return made

    return make


@_command(
    "exchange.declare",
    click.Argument(["exchange"]),
    click.Argument(["type"]),
    *_flags("passive", "durable", "auto_delete"),
)
def _exchange_declare(
    shell: Shell, /, exchange: str, type: str, passive: bool, durable: bool, auto_delete: bool
) -> None:
    """Make an exchange; on other brokers than RabbitMQ: say of which type it is to be."""
    from umbel.stores.amqp import requests

    if shell.is_rabbitmq:
        shell.ask(
            requests.declare_exchange(
                exchange, type, durable=durable, auto_delete=auto_delete, passive=passive
            )
        )
    shell.note_exchange(exchange, type)
    shell.done()


@_command("exchange.delete", click.Argument(["exchange"]), *_flags("if_unused"))
def _exchange_delete(shell: Shell, /, exchange: str, if_unused: bool) -> None:
    """Delete an exchange of RabbitMQ's."""
    from umbel.stores.amqp import requests

    shell.ask(requests.delete_exchange(exchange, if_unused=if_unused))
    shell.done()


@_command(
    "queue.bind", click.Argument(["queue"]), click.Argument(["exchange"]), click.Argument(["routing_key"])
)
def _queue_bind(shell: Shell, /, queue: str, exchange: str, routing_key: str) -> None:
    """Have an exchange put messages into a queue."""
    from umbel.stores.amqp import requests

    if shell.is_rabbitmq:
        shell.ask(requests.bind_queue(queue, exchange, routing_key))
    else:
        shell.bind(queue, exchange, routing_key)
    shell.done()


@_command("queue.declare", click.Argument(["queue"]), *_flags("passive", "durable", "auto_delete"))
def _queue_declare(shell: Shell, /, queue: str, passive: bool, durable: bool, auto_delete: bool) -> None:
    """Make a queue, and say how many messages and consumers it has."""
    from umbel.stores.amqp import requests

    name, messages, consumers = queue, 0, 0
    if shell.is_rabbitmq:
        name, messages, consumers = shell.ask(
            requests.declare_queue(queue, durable=durable, auto_delete=auto_delete, passive=passive)
        )[:3]
    else:
        messages = shell.depth(queue)
    shell.done(f"queue:{name} messages:{messages} consumers:{consumers}")


@_command("queue.delete", click.Argument(["queue"]), *_flags("if_unused", "if_empty"))
def _queue_delete(shell: Shell, /, queue: str, if_unused: bool, if_empty: bool) -> None:
    """Delete a queue with what is in it. Other brokers than RabbitMQ keep its bindings."""
    from umbel.stores.amqp import requests

    if shell.is_rabbitmq:
        count = shell.ask(requests.delete_queue(queue, if_unused=if_unused, if_empty=if_empty))[0]
    elif if_empty and shell.depth(queue):
        raise CommandFailed(f"queue {queue} is not empty")
    else:
        count = shell.purge(queue)
    shell.done(f"{count} messages deleted.")


@_command("queue.purge", click.Argument(["queue"]))
def _queue_purge(shell: Shell, /, queue: str) -> None:
    """Delete what waits in a queue."""
    shell.done(f"{shell.purge(queue)} messages deleted.")


@_command("basic.get", click.Argument(["queue"]), *_flags("no_ack"))
def _basic_get(shell: Shell, /, queue: str, no_ack: bool) -> None:
    """Take a message from a queue. It goes back at the end, unless it is acknowledged."""
    found = shell.get(queue, no_ack=no_ack)
    shell.context.echo("No messages in queue. basic.publish something." if found is None else pformat(found))
    shell.done()


@_command(
    "basic.publish",
    click.Argument(["msg"]),
    click.Argument(["exchange"]),
    click.Argument(["routing_key"]),
    *_flags("mandatory", "immediate"),
)
def _basic_publish(
    shell: Shell, /, msg: str, exchange: str, routing_key: str, mandatory: bool, immediate: bool
) -> None:
    """Send a text. One that no queue gets is refused, mandatory or not."""
    shell.publish(msg, exchange, routing_key)
    shell.done()


@_command("basic.ack", click.Argument(["delivery_tag"], type=int))
def _basic_ack(shell: Shell, /, delivery_tag: int) -> None:
    """Acknowledge a message that was taken in this session."""
    shell.ack(delivery_tag)
    shell.done()


@_command("repl")
def _repl(shell: Shell, /) -> None:
    """Read commands, line by line."""
    ctx = click.get_current_context().parent
    assert ctx is not None
    _converse(ctx, shell)
