"""Running in the background: pid files, and starting this program anew, detached or after SIGHUP."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self

from umbel.cli.errors import EX_CANTCREAT, CommandFailed

if TYPE_CHECKING:
    from types import TracebackType
    from typing import NoReturn

__all__ = ["Pidfile", "detach", "is_detached", "read_umask", "run_again"]

#: Tells a program that it is in the background already: its command line still says ``--detach``.
_MARK: Final = "UMBEL_DETACHED"


class Pidfile:
    """A file with the id of the one process that may run; ``with`` holds it.

    One whose process is gone is stale and replaced. Raises CommandFailed with exit status 73 when it is held by a
    process that runs, or cannot be written.
    """

    def __init__(self, path: str) -> None:
        self.path = Path(path).absolute()

    def acquire(self) -> None:
        """Write this process's id."""
        self.check()
        try:
            with self.path.open("x", encoding="ascii") as file:
                file.write(f"{os.getpid()}\n")
        except OSError as error:
            raise _cannot_write(self.path, error) from error

    def check(self) -> None:
        """Make sure that it is not held, and remove it if it is stale."""
        if not self.path.exists():
            return
        pid = self._holder()
        if pid is not None and pid != os.getpid() and _runs(pid):
            raise CommandFailed(
                f"Pidfile ({self.path}) already exists. Seems we're already running? (pid: {pid})",
                exit_code=EX_CANTCREAT,
            )
        print(f"{'Stale' if pid else 'Broken'} pidfile {self.path} - removing it.", file=sys.stderr)
        self.path.unlink(missing_ok=True)

    def release(self) -> None:
        """Remove it, if it is still this process's. Safe twice."""
        if self._holder() == os.getpid():
            self.path.unlink(missing_ok=True)

    def _holder(self) -> int | None:
        try:
            return int(self.path.read_text(encoding="ascii"))
        except (FileNotFoundError, ValueError):
            return None

    def __enter__(self) -> Self:
        self.acquire()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True  # somebody else's, but it runs
    return True


def _cannot_write(path: Path, error: OSError) -> CommandFailed:
    return CommandFailed(f"Cannot write {path}: {error.strerror}", exit_code=EX_CANTCREAT, cause=error)


def read_umask(value: str | int) -> int:
    """The mask that ``--umask`` means: octal with a leading zero, decimal without, as in Celery."""
    if isinstance(value, int):
        return value
    try:
        return int(value, 8 if value.startswith("0") else 10)
    except ValueError:
        raise CommandFailed(f"--umask: expected a number such as 022, got {value!r}") from None


def is_detached() -> bool:
    """Whether ``detach`` started this process; asked once, and not known to the processes it starts."""
    return os.environ.pop(_MARK, None) is not None


def detach(*, executable: str | None, logfile: str | None, pidfile: str | None, start_directory: str) -> None:
    """Start this program anew in the background; returns in the foreground once it is on its way.

    What would go wrong unseen is tried here first. Raises CommandFailed when the log file cannot be written or the pid
    file is held.
    """
    if logfile:
        _check_writable(Path(logfile))
    if pidfile:
        Pidfile(pidfile).check()
    if os.environ.get("C_FAKEFORK"):
        run_again(executable, start_directory, detached=True)
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if child == 0:
        _leave_the_foreground(executable, start_directory)
    os.waitpid(child, 0)


def _leave_the_foreground(executable: str | None, start_directory: str) -> NoReturn:
    """Be the leader of a session without a terminal, leave it by forking once more, and start anew."""
    try:
        os.setsid()
        if os.fork() == 0:
            null = os.open(os.devnull, os.O_RDWR)
            for standard in (0, 1, 2):
                os.dup2(null, standard)
            run_again(executable, start_directory, detached=True)
    finally:
        os._exit(0)


def _check_writable(path: Path) -> None:
    try:
        path.open("ab").close()
    except OSError as error:
        raise _cannot_write(path, error) from error


def run_again(executable: str | None, start_directory: str, *, detached: bool) -> NoReturn:
    """Become this program anew, with the same process id, command line and working directory.

    Args:
        executable: a Python interpreter; None: the present one.
        start_directory: where the command line was typed; a relative ``--workdir`` starts there.
        detached: the new one is in the background already.
    """
    if detached:
        os.environ[_MARK] = "1"
    os.chdir(start_directory)
    python = executable or sys.executable
    # sys.argv knows a module as a file, which would put the package's own folder on the path of imports.
    os.execv(python, [python, *sys.orig_argv[1:]])
