"""Start a worker, send the tasks, show how they go, check every result."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from examples.demo import pictures, tasks
from umbel.results.handles import AsyncResult

#: Seconds after which the demo has failed.
DEADLINE = 55.0

#: A log or pipe has no width of its own; the table is 110 wide.
console = Console(width=None if sys.stdout.isatty() else 110)


@dataclass
class Kind:
    """One kind of task: its pending results, and what its answers must be."""

    name: str
    what: str
    pending: list[tuple[AsyncResult[tasks.Ran], str]] = field(default_factory=list)
    done: list[tasks.Ran] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)

    def collect(self) -> int:
        """Take in the results that are there; how many."""
        still, before = [], len(self.done) + len(self.wrong)
        for result, expected in self.pending:
            if not result.ready():
                still.append((result, expected))
            elif result.successful() and result.result["answer"] == expected:
                self.done.append(result.result)
            else:
                self.wrong.append(f"{self.name} {result.id}: expected {expected!r}, got {result.result!r}")
        self.pending = still
        return len(self.done) + len(self.wrong) - before


@contextmanager
def worker(folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A worker with two processes, as ``umbel worker`` starts it; ended when the demo ends."""
    log = folder / "worker.log"
    command = [
        sys.executable,
        "-m",
        "umbel",
        "-A",
        "examples.demo.tasks",
        "worker",
        "-c",
        "2",
        "-l",
        "INFO",
        "-f",
        str(log),
    ]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def send(folder: Path) -> list[Kind]:
    """Send every task."""
    return [
        _checksums(),
        _thumbnails(folder),
        _each(
            "fetch_rate",
            "fails twice, retried with back-off",
            12,
            lambda n: (tasks.fetch_rate.delay(f"C{n:02}"), f"C{n:02} 1.0"),
        ),
        _each("reminder", "countdown of 3 s", 20, lambda _: (_remind(3.0), "in time")),
        _each(
            "survivor",
            "its process is killed under it",
            2,
            lambda n: (tasks.survivor.delay(str(folder / f"killed-{n}")), "ran again"),
        ),
    ]


def _each(name: str, what: str, count: int, one: Callable[[int], tuple[AsyncResult[tasks.Ran], str]]) -> Kind:
    return Kind(name, what, [one(n) for n in range(count)])


def _remind(seconds: float) -> AsyncResult[tasks.Ran]:
    return tasks.reminder.apply_async((time.time() + seconds,), countdown=seconds)


def _checksums() -> Kind:
    """The first 200 modules of the standard library, as real files to hash."""
    files = sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))[:200]
    kind = Kind("checksum", "SHA-256 of the standard library's files")
    for path in files:
        expected = hashlib.sha256(path.read_bytes()).hexdigest()
        kind.pending.append((tasks.checksum.delay(str(path)), expected))
    return kind


def _thumbnails(folder: Path) -> Kind:
    kind = Kind("thumbnail", "pictures of 160x120 shrunk to 40x30")
    for seed in range(60):
        path = folder / f"picture-{seed}.png"
        pictures.write_png(path, pictures.draw(seed))
        kind.pending.append((tasks.thumbnail.delay(str(path), 40), "40x30"))
    return kind


def watch(kinds: list[Kind], process: subprocess.Popen[bytes]) -> bool:
    """Show progress until every task has ended; false when the worker died or time is up."""
    deadline = time.monotonic() + DEADLINE
    columns = (TextColumn("{task.description:12}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console) as progress:
        bars = {kind.name: progress.add_task(kind.name, total=len(kind.pending)) for kind in kinds}
        while any(kind.pending for kind in kinds):
            if time.monotonic() > deadline or process.poll() is not None:
                return False
            for kind in kinds:
                progress.advance(bars[kind.name], kind.collect())
            time.sleep(0.05)
    return True


def report(kinds: list[Kind], seconds: float) -> None:
    """The table: what ran, where, how long, and the results."""
    table = Table(title=f"What ran, in {seconds:.1f} s")
    for column in ("task", "what it does", "jobs", "attempts", "processes", "mean ms", "max ms", "results"):
        justify: Literal["left", "right"] = (
            "left" if column in ("task", "what it does", "results") else "right"
        )
        table.add_column(column, justify=justify, no_wrap=column != "what it does")
    for kind in kinds:
        times = [1000 * ran["seconds"] for ran in kind.done] or [0.0]
        table.add_row(
            kind.name,
            kind.what,
            str(len(kind.done) + len(kind.wrong) + len(kind.pending)),
            str(sum(ran["attempt"] for ran in kind.done)),
            ", ".join(str(pid) for pid in sorted({ran["pid"] for ran in kind.done})),
            f"{sum(times) / len(times):.2f}",
            f"{max(times):.2f}",
            f"[red]{len(kind.wrong)} wrong, {len(kind.pending)} missing"
            if kind.wrong or kind.pending
            else "[green]all right",
        )
    console.print(table)
    for kind in kinds:
        for line in kind.wrong:
            console.print(line, style="red", markup=False)


def main() -> int:
    """Run the demo in a folder of its own; 0 only if every result is right."""
    with tempfile.TemporaryDirectory(prefix="umbel-demo-") as name:
        folder = Path(name)
        root = Path(__file__).resolve().parents[2]
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(root), os.environ.get("PYTHONPATH")]))
        os.chdir(folder)
        since = time.monotonic()
        with worker(folder) as process:
            console.print(
                f"A worker with two processes (pid {process.pid}) on [bold]{tasks.app.broker.display_url}[/bold]"
            )
            kinds = send(folder)
            finished = watch(kinds, process)
        report(kinds, time.monotonic() - since)
        if not finished:
            console.print((folder / "worker.log").read_text()[-4000:], markup=False)
        tasks.app.close()
    return 0 if finished and not any(kind.wrong for kind in kinds) else 1


if __name__ == "__main__":
    sys.exit(main())
