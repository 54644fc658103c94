"""Celery's result tables, as SQLAlchemy describes them, and how they come into a database."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

import sqlalchemy as sa
from sqlalchemy.dialects import mysql

if TYPE_CHECKING:
    from sqlalchemy.engine import Engine

    from umbel.results.options import DatabaseOptions

logger: Final = logging.getLogger("celery.backends.database")

#: How many characters a task's or a group's id may have in the tables.
ID_LENGTH: Final = 155
_INTEGER: Final = sa.Integer().with_variant(sa.BigInteger, "mssql")
#: Dialects whose own columns for these would end at 64 kB, know whole seconds, and take "a" and "A" for one task.
#: Tables that Celery made there are used as they are.
MYSQL: Final = ("mysql", "mariadb")
_BYTES: Final = sa.LargeBinary().with_variant(mysql.LONGBLOB(), *MYSQL)
_TEXT: Final = sa.Text().with_variant(mysql.LONGTEXT(), *MYSQL)
_INSTANT: Final = sa.DateTime().with_variant(mysql.DATETIME(fsp=6), *MYSQL)
_TASK_ID: Final = sa.String(ID_LENGTH).with_variant(
    mysql.VARCHAR(ID_LENGTH, charset="utf8mb4", collation="utf8mb4_bin"), *MYSQL
)


class ResultTables:
    """The table of tasks and that of groups, under the names and in the schemas of the application's settings."""

    def __init__(self, options: DatabaseOptions) -> None:
        names, schemas = options.table_names or {}, options.table_schemas or {}
        self.metadata = sa.MetaData()
        self.tasks = sa.Table(
            names.get("task") or "celery_taskmeta",
            self.metadata,
            _id("task_id_sequence", schemas.get("task")),
            sa.Column("task_id", _TASK_ID, unique=True),
            sa.Column("status", sa.String(50), default="PENDING"),
            sa.Column("result", _BYTES),
            sa.Column("date_done", _INSTANT, index=True),
            sa.Column("traceback", _TEXT),
            sa.Column("children", _BYTES),
            sa.Column("name", sa.String(155)),
            sa.Column("args", _BYTES),
            sa.Column("kwargs", _BYTES),
            sa.Column("worker", sa.String(155)),
            sa.Column("retries", sa.Integer),
            sa.Column("queue", sa.String(155)),
            sa.Column("stamps", _BYTES),
            schema=schemas.get("task"),
            sqlite_autoincrement=True,
        )
        self.groups = sa.Table(
            names.get("group") or "celery_tasksetmeta",
            self.metadata,
            _id("taskset_id_sequence", schemas.get("group")),
            sa.Column("taskset_id", _TASK_ID, unique=True),
            sa.Column("result", _BYTES),
            sa.Column("date_done", _INSTANT, index=True),
            schema=schemas.get("group"),
            sqlite_autoincrement=True,
        )
        #: Columns that the tables in the database have: a table of an older Celery may lack some of ours.
        self.task_columns: list[sa.Column[object]] = list(self.tasks.columns)

    def prepare(self, engine: Engine) -> None:
        """Create what is missing: tables, and columns of tables that an older Celery made.

        A column that may not be added is done without. Raises SQLAlchemy's errors.
        """
        try:
            self.metadata.create_all(engine)
        except sa.exc.DatabaseError:
            # Another process creates them between our look and our order; a second look finds them.
            self.metadata.create_all(engine)
        present = _columns(engine, self.tasks)
        missing = [column for column in self.tasks.columns if column.name not in present]
        for column in missing:
            _add(engine, self.tasks, column)
        if missing:
            present = _columns(engine, self.tasks)
        self.task_columns = [column for column in self.tasks.columns if column.name in present]


def _id(sequence: str, schema: str | None) -> sa.Column[int]:
    return sa.Column(
        "id", _INTEGER, sa.Sequence(sequence, schema=schema), primary_key=True, autoincrement=True
    )


def _columns(engine: Engine, table: sa.Table) -> set[str]:
    return {column["name"] for column in sa.inspect(engine).get_columns(table.name, schema=table.schema)}


def _add(engine: Engine, table: sa.Table, column: sa.Column[object]) -> None:
    """Add a column as Celery does."""
    preparer = engine.dialect.identifier_preparer
    kind = column.type.compile(engine.dialect)
    order = f"ALTER TABLE {preparer.format_table(table)} ADD COLUMN {preparer.quote(column.name)} {kind}"

    try:
        with engine.begin() as connection:
            connection.execute(sa.text(order))
    except sa.exc.SQLAlchemyError as error:
        logger.warning(
            "The column %s of %s is missing and cannot be added (%s); to have it stored, run: %s",
            *(column.name, table.name, error, order),
        )
