"""Bindings in the database file: written by whoever declared them, read by whoever sends to their exchange."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from umbel.core.bindings import Binding, Bindings, is_named, spread

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from sqlite3 import Connection

    from umbel.core.records import Publication
    from umbel.stores.sqlite import Database

_INSERT: Final = (
    "INSERT OR IGNORE INTO bindings (exchange, exchange_type, routing_key, queue) VALUES (?, ?, ?, ?)"
)
_SELECT: Final = "SELECT queue, exchange, exchange_type, routing_key FROM bindings WHERE exchange = ?"

_SELECT_ALL: Final = "SELECT queue, exchange, exchange_type, routing_key FROM bindings"


def insert(connection: Connection, bindings: Iterable[Binding]) -> None:
    """Put bindings in place."""
    rows = [(each.exchange, each.exchange_type, each.routing_key, each.queue) for each in bindings]
    connection.executemany(_INSERT, rows)


class BindingTable:
    """The bindings of one file, and those that were declared through one broker object and have to be there."""

    def __init__(self, database: Database, declared: Bindings) -> None:
        self._database = database
        self._declared = declared

    def complete(self) -> None:
        """Put everything that was declared in place."""
        declared = list(self._declared)
        if declared:
            self._database.write(lambda connection: insert(connection, declared))

    def spread(self, publications: Sequence[Publication]) -> tuple[Sequence[Publication], list[Publication]]:
        """As ``core.bindings.spread``. The file is read only where something goes to a named exchange."""
        if not [None for publication in publications if publication.destination.queue is None]:
            return publications, []
        exchanges = {each.destination.exchange for each in publications if is_named(each.destination)}
        # Nothing takes a binding away, so that what is read here still holds in the transaction that sends.
        tables = {exchange: self._bindings_to(exchange) for exchange in exchanges if exchange}
        return spread(publications, tables.__getitem__)

    def everything(self) -> list[Binding]:
        """All that are in place, and those that have to be."""
        rows = self._database.read(lambda connection: connection.execute(_SELECT_ALL).fetchall())
        return list({*(Binding(*row) for row in rows), *self._declared})

    def _bindings_to(self, exchange: str) -> set[Binding]:
        rows = self._database.read(lambda connection: connection.execute(_SELECT, (exchange,)).fetchall())
        found = {Binding(*row) for row in rows}
        missing = self._declared.to(exchange) - found
        if missing:
            self._database.write(lambda connection: insert(connection, missing))
        return found | missing
