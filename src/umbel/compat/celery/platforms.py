"""Processes: locks, rights, the background."""

from __future__ import annotations

import errno
import os
import platform as _platform
import signal as _signal
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from umbel.cli.daemon import Pidfile as _Pidfile
from umbel.cli.privileges import _group_id as parse_gid
from umbel.cli.privileges import _user_id as parse_uid
from umbel.cli.privileges import check_privileges, drop_privileges

__all__ = (
    "EX_FAILURE",
    "EX_OK",
    "EX_UNAVAILABLE",
    "EX_USAGE",
    "IS_WINDOWS",
    "SIGMAP",
    "SYSTEM",
    "DaemonContext",
    "IS_macOS",
    "LockFailed",
    "Pidfile",
    "close_open_fds",
    "create_pidlock",
    "detached",
    "fd_by_path",
    "get_errno_name",
    "get_fdmax",
    "ignore_errno",
    "initgroups",
    "isatty",
    "maybe_drop_privileges",
    "parse_gid",
    "parse_uid",
    "pyimplementation",
    "set_mp_process_title",
    "set_process_title",
    "setgid",
    "setgroups",
    "setuid",
    "signal_name",
    "signals",
)

EX_OK = 0
EX_FAILURE = 1
EX_UNAVAILABLE = 69
EX_USAGE = 64
EX_CANTCREAT = 73

SYSTEM = _platform.system()
IS_macOS = SYSTEM == "Darwin"
IS_WINDOWS = SYSTEM == "Windows"
SIGMAP = {each.value: each.name for each in _signal.Signals}

DAEMON_WORKDIR = "/"
PIDFILE_FLAGS = os.O_CREAT | os.O_EXCL | os.O_WRONLY
PIDFILE_MODE = 0o644


class LockFailed(Exception):
    """The file is another process's."""


class Pidfile:
    """A file that one process at a time holds, with its number in it."""

    def __init__(self, path: str) -> None:
        self.path = os.path.abspath(path)  # noqa: PTH100 - as Celery's attribute
        self._file = _Pidfile(self.path)

    def acquire(self) -> Pidfile:
        """Take it. Raises LockFailed."""
        try:
            self._file.acquire()
        except Exception as error:
            raise LockFailed(str(error)) from error
        return self

    __enter__ = acquire

    def release(self, *args: Any) -> None:
        """Give it back."""
        self._file.release()

    __exit__ = release

    def is_locked(self) -> bool:
        """Whether the file is there."""
        return os.path.exists(self.path)  # noqa: PTH110

    def read_pid(self) -> int | None:
        """The number in it; None where there is no file. Raises ValueError for anything else in it."""
        try:
            with open(self.path, encoding="utf-8") as file:
                return int(file.read().strip())
        except FileNotFoundError:
            return None

    def write_pid(self) -> None:
        """Take it."""
        self.acquire()

    def remove(self) -> None:
        """Delete it."""
        if self.is_locked():
            os.unlink(self.path)  # noqa: PTH108

    def remove_if_stale(self) -> bool:
        """Delete it when its process is gone; says whether it may be taken."""
        try:
            pid = self.read_pid()
        except ValueError:
            pid = -1
        if pid is None or not _is_running(pid):
            self.remove()
            return True
        return False


def _is_running(pid: int) -> bool:
    if pid <= 0 or pid == os.getpid():
        return False
    try:
        os.kill(pid, 0)
    except OSError as error:
        return error.errno != errno.ESRCH
    return True


def create_pidlock(pidfile: str) -> Pidfile:
    """Take a file until the process ends."""
    import atexit

    lock = Pidfile(pidfile).acquire()
    atexit.register(lock.release)
    return lock


def isatty(fh: Any) -> bool:
    """Whether a stream is a terminal."""
    try:
        return bool(fh.isatty())
    except AttributeError:
        return False


def pyimplementation() -> str:
    """The name of this Python."""
    return _platform.python_implementation()


def get_fdmax(default: int | None = None) -> int | None:
    """The most files that may be open."""
    found = os.sysconf("SC_OPEN_MAX")
    return found if found > 0 else default


def fd_by_path(paths: Iterable[str]) -> list[int]:
    """The numbers of the open files of these paths."""
    wanted = {os.stat(path)[1:3] for path in paths}  # noqa: PTH116
    return [number for number in range(get_fdmax(2048) or 2048) if _identity(number) in wanted]


def _identity(number: int) -> Any:
    try:
        return os.fstat(number)[1:3]
    except OSError:
        return None


def close_open_fds(keep: Iterable[Any] | None = None) -> None:
    """Close all files but these and the standard ones."""
    kept = sorted({0, 1, 2, *(each if isinstance(each, int) else each.fileno() for each in keep or ())})
    low = 0
    for number in (*kept, get_fdmax(2048) or 2048):
        os.closerange(low, number)
        low = number + 1


class DaemonContext:
    """Leaves the terminal: the process goes on in the background."""

    def __init__(
        self,
        pidfile: Any = None,
        workdir: str | None = None,
        umask: Any = None,
        fake: bool = False,
        after_chdir: Any = None,
        after_forkers: bool = True,
        **kwargs: Any,
    ) -> None:
        self.workdir = workdir or DAEMON_WORKDIR
        self.umask = int(umask, 8) if isinstance(umask, str) else umask
        self.fake = fake
        self.after_chdir = after_chdir
        self._is_open = False

    def open(self) -> None:
        """Leave."""
        if self._is_open:
            return
        if not self.fake:
            if os.fork():
                os._exit(0)
            os.setsid()
            if os.fork():
                os._exit(0)
        os.chdir(self.workdir)
        if self.umask is not None:
            os.umask(self.umask)
        if self.after_chdir:
            self.after_chdir()
        if not self.fake:
            null = os.open(os.devnull, os.O_RDWR)
            for number in (0, 1, 2):
                os.dup2(null, number)
        self._is_open = True

    __enter__ = open

    def close(self, *args: Any) -> None:
        """There is no way back."""
        self._is_open = False

    __exit__ = close


def detached(
    logfile: Any = None,
    pidfile: Any = None,
    uid: Any = None,
    gid: Any = None,
    umask: Any = 0,
    workdir: str | None = None,
    fake: bool = False,
    **opts: Any,
) -> DaemonContext:
    """A context in which the process is in the background, as another user if wanted."""
    maybe_drop_privileges(uid=uid, gid=gid)
    return DaemonContext(pidfile=pidfile, umask=umask, workdir=workdir, fake=fake)


def maybe_drop_privileges(uid: Any = None, gid: Any = None) -> None:
    """Become another user, and never return."""
    drop_privileges(uid, gid)


def setgid(gid: Any) -> None:
    """Become a member of a group."""
    os.setgid(parse_gid(gid))


def setuid(uid: Any) -> None:
    """Become a user."""
    os.setuid(parse_uid(uid))


def setgroups(groups: Iterable[int]) -> None:
    """Be a member of these groups."""
    os.setgroups(list(groups))


def initgroups(uid: int, gid: int) -> None:
    """Be a member of a user's groups."""
    import pwd

    os.initgroups(pwd.getpwuid(uid).pw_name, gid)


class Signals:
    """The process's signals, by short names: ``signals["TERM"] = handler``."""

    ignored = _signal.SIG_IGN
    default = _signal.SIG_DFL

    def signum(self, name: Any) -> int:
        """The number of a signal."""
        if isinstance(name, int):
            return name
        if not isinstance(name, str) or not name.isupper():
            raise TypeError("signal name must be uppercase string.")
        full = name if name.startswith("SIG") else f"SIG{name}"
        return int(_signal.Signals[full])

    def supported(self, name: str) -> bool:
        """Whether there is such a signal."""
        return (name if name.startswith("SIG") else f"SIG{name}") in _signal.Signals.__members__

    def arm_alarm(self, seconds: float) -> None:
        """Have ALRM sent in so many seconds."""
        _signal.setitimer(_signal.ITIMER_REAL, seconds)

    def reset_alarm(self) -> int:
        """Have none sent."""
        return _signal.alarm(0)

    def reset(self, *signal_names: str) -> None:
        """Let signals do what they do by default."""
        self.update((name, self.default) for name in signal_names)

    def ignore(self, *names: str) -> None:
        """Ignore signals."""
        self.update((name, self.ignored) for name in names)

    def __getitem__(self, name: str) -> Any:
        return _signal.getsignal(self.signum(name))

    def __setitem__(self, name: str, handler: Any) -> None:
        try:
            _signal.signal(self.signum(name), handler)
        except (KeyError, ValueError):
            return  # no such signal, or not the main thread

    def update(self, _d_: Any = None, **sigmap: Any) -> None:
        """Set several."""
        for name, handler in dict(_d_ or {}, **sigmap).items():
            self[name] = handler


signals = Signals()
get_signal = signals.signum
install_signal_handler = signals.__setitem__
reset_signal = signals.reset
ignore_signal = signals.ignore


def signal_name(signum: Any) -> str:
    """The name of a signal by its number."""
    return SIGMAP[signum][3:]


def strargv(argv: list[str]) -> str:
    """The words of a command line after the program, if it is one of many."""
    first = 2 if "manage" in argv[0] else 1
    return " ".join(argv[first:]) if len(argv) > first else ""


def set_process_title(progname: str, info: str | None = None) -> str:
    """What the process is called in listings, where ``setproctitle`` is installed."""
    title = f"[{progname}] {info}" if info else f"[{progname}]"
    try:
        import setproctitle  # type: ignore[import-not-found]
    except ImportError:
        return title
    setproctitle.setproctitle(title)
    return title


def set_mp_process_title(progname: str, info: str | None = None, hostname: str | None = None) -> str:
    """The same, with the name of the pool process."""
    from multiprocessing.process import current_process

    name = f"{progname}: {hostname}" if hostname else progname
    return set_process_title(f"{name}:{current_process().name}", info=info)


def get_errno_name(n: Any) -> int:
    """The number of an error by its name."""
    return int(vars(errno)[n]) if isinstance(n, str) else int(n)


@contextmanager
def ignore_errno(*errnos: Any, **kwargs: Any) -> Iterator[None]:
    """Ignore errors with these numbers."""
    kinds = kwargs.get("types") or (Exception,)
    numbers = [get_errno_name(each) for each in errnos]
    try:
        yield
    except kinds as error:
        if not isinstance(error, OSError) or error.errno not in numbers:
            raise


def set_pdeathsig(name: str) -> None:
    """Have a signal sent when the parent ends (Linux)."""
    import ctypes

    ctypes.CDLL(None).prctl(1, signals.signum(name))
