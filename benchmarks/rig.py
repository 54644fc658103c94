"""One system set up for one measurement: private server, stamps, worker, sender."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sqlite3
import subprocess
import tempfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from benchmarks.catalogue import ASYNC_SLOTS, CannotMeasureError, System, WorkerOptions
from benchmarks.stamps import VARIABLE, Stamps
from scripts.environments import ROOT
from tests.support.processes import cpu_seconds, pss_bytes, tree
from tests.support.rabbitmq import RabbitMqServer
from tests.support.servers import RedisServer, ServerMissingError
from tests.support.workers import WorkerProcess

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import TracebackType

    import redis

_END = "the end of the commands to count"
_POLL = 0.002  #: seconds between looks at the stamps: a thousandth of a core
_PATIENCE = 60.0  #: seconds without any progress after which a measurement has failed
_RESULTS_PATIENCE = 10.0
_SHUTDOWN_PATIENCE = 10.0
_DRIVER_PATIENCE = 3600.0
_ROUND_TRIPS_PATIENCE = 120.0


class MeasurementError(RuntimeError):
    """A system did not do what was measured: tasks missing, doubled or without a result. No figure is given then."""


class Store:
    """The broker under measurement, where results go too: a private server, or a fresh file for each measurement.

    ``url`` is where tasks go, ``results_url`` where results do.
    """

    broker = ""
    #: Seconds between two looks at ``results``: counting rows costs more than asking a server.
    look = 0.001

    def __init__(self) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="bench-"))
        self.url = self.results_url = ""

    def empty(self) -> None:
        """Forget everything."""
        for left in self.directory.iterdir():
            shutil.rmtree(left) if left.is_dir() else left.unlink()

    def cpu_seconds(self) -> float:
        """CPU of the servers' processes; 0 where there is none."""
        return 0.0

    def results(self) -> int:
        """About how many results it holds, cheaply: the keys of a server (a worker has a few of its own), or rows."""
        raise NotImplementedError(f"{type(self).__name__} has to say how its results are counted")

    def commands(self, seconds: float) -> int | None:
        """How many commands clients send in that time, for idle times; None where nobody counts them."""
        time.sleep(seconds)
        return None

    def versions(self) -> dict[str, str]:
        """The servers' own versions."""
        return {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        shutil.rmtree(self.directory, ignore_errors=True)


class SqliteStore(Store):
    """A file."""

    broker = "sqlite"
    look = 0.05

    def __init__(self) -> None:
        super().__init__()
        self._file = self.directory / "bench.db"
        self.url = self.results_url = f"sqlite:///{self._file}"

    def results(self) -> int:
        """The rows."""
        with contextlib.closing(sqlite3.connect(f"file:{self._file}?mode=ro", uri=True)) as connection:
            return int(connection.execute("SELECT count(*) FROM results").fetchone()[0])


class RedisStore(Store):
    """A private Redis server."""

    broker = "redis"

    def __init__(self) -> None:
        super().__init__()
        self._server = RedisServer().start()
        self._client: redis.Redis = self._server.client()
        self.url = self.results_url = self._server.url()

    def empty(self) -> None:
        """Flush the server."""
        self._server.flush()
        super().empty()

    def cpu_seconds(self) -> float:
        """As the server counts."""
        cpu = self._client.info("cpu")
        return float(cpu["used_cpu_user"] + cpu["used_cpu_sys"])

    def results(self) -> int:
        """The keys."""
        return int(self._client.dbsize())

    def commands(self, seconds: float) -> int | None:
        """Those of clients, without what scripts call in the server."""
        with self._client.monitor() as monitor:  # type: ignore[no-untyped-call]
            timer = threading.Timer(seconds, self._client.echo, (_END,))
            timer.start()
            count = 0
            while _END not in (heard := monitor.next_command())["command"]:
                count += heard["client_type"] != "lua"
            timer.join()
        return count

    def versions(self) -> dict[str, str]:
        """Redis'."""
        return {"redis": str(self._client.info("server")["redis_version"])}

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._client.close()
        self._server.stop()
        super().__exit__(kind, error, trace)


class RabbitMqStore(RedisStore):
    """A private RabbitMQ server for tasks, a fresh vhost for each measurement; results go to a private Redis server."""

    broker = "rabbitmq"

    def __init__(self) -> None:
        super().__init__()
        self._rabbitmq = RabbitMqServer().start()
        self._vhost = ""
        self.empty()

    def empty(self) -> None:
        """Take another vhost, and flush Redis."""
        if self._vhost:
            self._rabbitmq.delete_vhost(self._vhost)
        self._vhost = self._rabbitmq.add_vhost()
        self.url = self._rabbitmq.url(self._vhost)
        super().empty()

    def cpu_seconds(self) -> float:
        """Both servers'."""
        return super().cpu_seconds() + self._rabbitmq.cpu_seconds()

    def commands(self, seconds: float) -> None:
        """Nobody counts them."""
        time.sleep(seconds)

    def versions(self) -> dict[str, str]:
        """Both servers'."""
        return super().versions() | {"rabbitmq": self._rabbitmq.version}

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._rabbitmq.stop()
        super().__exit__(kind, error, trace)


_STORES = {store.broker: store for store in (RedisStore, SqliteStore, RabbitMqStore)}


def open_store(broker: str) -> Store:
    """The private store of a broker's name. Raises CannotMeasureError where its server is not installed."""
    try:
        return _STORES[broker]()
    except ServerMissingError as error:
        raise CannotMeasureError(str(error)) from error


class Rig:
    """One system on one store; every measurement starts with ``prepare``."""

    def __init__(self, system: System, store: Store, *, pool: str) -> None:
        self.system = system
        self.store = store
        self.pool = pool
        self.stores_results = True
        self.python = system.python()
        self.stamps: Stamps | None = None
        self.abilities: dict[str, bool] = self.drive("can")

    def versions(self) -> dict[str, str]:
        """The versions of the system and of what matters for its speed."""
        found: dict[str, str] = self.drive("versions", library=self.system.import_name)
        return found

    def prepare(self, tasks: int) -> Stamps:
        """Empty the store and the stamps for tasks numbered from 0."""
        if self.stamps is not None:
            self.stamps.close()
        self.store.empty()
        self.stamps = Stamps.create(self._stamps_file, tasks)
        return self.stamps

    @contextlib.contextmanager
    def with_pool(self, pool: str) -> Iterator[None]:
        """Measure with this pool for the time of the block, where the system has pools."""
        before, self.pool = self.pool, pool
        try:
            yield
        finally:
            self.pool = before

    @contextlib.contextmanager
    def without_results(self) -> Iterator[None]:
        """Measure tasks that store none for the time of the block."""
        self.stores_results = False
        try:
            yield
        finally:
            self.stores_results = True

    def drive(self, command: str, **options: Any) -> dict[str, Any]:
        """Run a command of benchmarks.driver in the system's environment."""
        try:
            return self._drive(command, options)
        except subprocess.TimeoutExpired as error:
            raise MeasurementError(
                f"{self.system.name} {command} took more than {error.timeout:g} s"
            ) from error

    def _drive(self, command: str, options: dict[str, Any]) -> dict[str, Any]:
        done = subprocess.run(
            [str(self.python), "-m", "benchmarks.driver", self.system.file, command, json.dumps(options)],
            env=self._environment(),
            cwd=self.store.directory,
            capture_output=True,
            text=True,
            check=False,
            timeout=_ROUND_TRIPS_PATIENCE if command == "round-trips" else _DRIVER_PATIENCE,
        )
        # A client in another language may crash after the answer, when the interpreter ends.
        if done.returncode != 0 and not (done.returncode < 0 and done.stdout.endswith("}\n")):
            failure = f"exit status {done.returncode} {done.stderr.strip()[-2000:]}"
            raise MeasurementError(f"{self.system.name} {command}: {failure}")
        answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return answer

    @contextlib.contextmanager
    def worker(self, loglevel: str = "WARNING", *extra: str) -> Iterator[RunningWorker]:
        """A worker with these options more, asked to finish at the end and killed when it does not."""
        logfile = self.store.directory / "worker.log" if loglevel != "WARNING" else None
        options = WorkerOptions(self.pool, self.store.url, loglevel, logfile, extra)
        process = WorkerProcess(
            self.system.worker(self.python, options),
            cwd=self.store.directory,
            env=self._environment(),
            name=self.system.name,
        )
        started = time.monotonic()
        with process:
            assert self.stamps is not None, "prepare comes first"
            yield RunningWorker(process, self.stamps, started, logfile)
            # Some peers hang when they are asked to finish; that is not what is measured.
            with contextlib.suppress(AssertionError):
                process.terminate(timeout=_SHUTDOWN_PATIENCE)

    def verify(self, stamps: Stamps, count: int, *, unstamped: int = 0, stored: bool = True) -> None:
        """Every task ran exactly once and its result is stored, or soon will be. Raises MeasurementError otherwise.

        ``unstamped`` tasks more have results, which leave no stamps. Without ``stored`` none has.
        To be called while the worker still runs: some peers drop the last results when they are asked to finish.
        """
        wrong = stamps.wrong(0, count)
        if wrong:
            raise MeasurementError(
                f"{self.system.name}: {len(wrong)} tasks not run exactly once, as {wrong[:5]}"
            )
        if stored and self.stores_results and self.abilities["stored_results"]:
            deadline = time.monotonic() + _RESULTS_PATIENCE
            count += unstamped
            while (results := self.drive("stored")["results"]) != count:
                if time.monotonic() > deadline:
                    raise MeasurementError(f"{self.system.name}: {results} results stored of {count}")

    @property
    def _stamps_file(self) -> Path:
        return self.store.directory / "stamps"

    def _environment(self) -> dict[str, str]:
        return os.environ | {
            # The library of this checkout, wherever the interpreter has another from.
            "PYTHONPATH": os.pathsep.join((str(ROOT), str(ROOT / "src"))),
            "C_FORCE_ROOT": "true",
            "BENCH_LIB": self.system.import_name,
            "BENCH_BROKER_URL": self.store.url,
            "BENCH_RESULT_URL": self.store.results_url,
            "BENCH_POOL": self.pool,
            "BENCH_RESULTS": str(int(self.stores_results)),
            "BENCH_SLOTS": str(ASYNC_SLOTS if self.pool == "asyncio" else 0),
            VARIABLE: str(self._stamps_file),
        }


class RunningWorker:
    """A worker under measurement."""

    def __init__(self, process: WorkerProcess, stamps: Stamps, started: float, logfile: Path | None) -> None:
        self._process = process
        self.stamps = stamps
        self.started = started  #: when its process was started, on the clock of the stamps
        self.logfile = logfile

    def cpu_seconds(self) -> float:
        """User plus system time of its process tree."""
        return cpu_seconds(tree(self._process.pid))

    def pss_bytes(self) -> int:
        """Memory of its process tree."""
        return pss_bytes(tree(self._process.pid))

    def pids(self) -> list[int]:
        """Its processes."""
        return tree(self._process.pid)

    def wait_count(self, wanted: int, *, until: float = float("inf")) -> int:
        """Wait until that many tasks have run, or until that moment; how many ran.

        Raises MeasurementError with the worker's output when there is no progress.
        """
        seen, moved = -1, time.monotonic()
        while True:
            count, now = self.stamps.count(), time.monotonic()
            if count >= wanted or now >= until:
                return count
            if count != seen:
                seen, moved = count, now
            elif now - moved > _PATIENCE or not self._process.alive:
                raise MeasurementError(
                    f"{self._process.name} stopped at {count} of {wanted}:\n{self._process.output[-3000:]}"
                )
            time.sleep(_POLL)
