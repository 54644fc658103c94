"""Virtual environments made from lock files, each once.

pip's own settings (its environment variables and configuration files) decide where packages come from; nothing here
overrides them. The lock files hold versions and hashes only.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import importlib.util
import shutil
import subprocess
import sys
import time
import venv
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

ROOT = Path(__file__).resolve().parent.parent
CACHE = ROOT / ".cache"

#: Whether this interpreter's pip can serve other environments: making one for each takes seconds.
_HAS_PIP = importlib.util.find_spec("pip") is not None
#: Written last, so that an environment whose making was interrupted is made again.
_COMPLETE = "complete"


class InstallError(RuntimeError):
    """pip did not install what a lock file names; the message says which command failed."""


def say(message: str) -> None:
    """Tell the person at the terminal what is being done; standard output stays free for results."""
    print(f"==> {message}", file=sys.stderr, flush=True)


def digest(*parts: bytes | str) -> str:
    """A short name for exactly these contents."""
    text = b"\0".join(part.encode() if isinstance(part, str) else part for part in parts)
    return hashlib.sha256(text).hexdigest()[:12]


@contextlib.contextmanager
def exclusively(name: str) -> Iterator[None]:
    """Let one process at a time make the environment called ``name``; the others wait and find it made."""
    CACHE.mkdir(exist_ok=True)
    with (CACHE / f"{name}.lock").open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def make_venv(path: Path, interpreter: str, *, with_pip: bool = True) -> Path:
    """Make an empty virtual environment and give its interpreter; one that can do without a pip of its own has none."""
    if Path(interpreter).resolve() == Path(sys.executable).resolve():
        venv.create(path, with_pip=with_pip or not _HAS_PIP, clear=True)
    else:
        run([interpreter, "-m", "venv", "--clear", str(path)])
    return python_of(path)


def python_of(path: Path) -> Path:
    """The interpreter of a virtual environment."""
    return path / "bin" / "python"


def pip_install(python: Path, *arguments: str) -> None:
    """Run ``pip install``; its progress goes to standard error."""
    run([*pip_of(python), "install", "--disable-pip-version-check", *arguments])


def pip_of(python: Path) -> list[str]:
    """The command that begins with an environment's pip: its own, or this interpreter's."""
    if (python.parent / "pip").exists():
        return [str(python), "-m", "pip"]
    return [sys.executable, "-m", "pip", "--python", str(python)]


def install_lock(python: Path, lock: Path, *options: str) -> None:
    """Install exactly what ``lock`` names, every file checked against its hash."""
    pip_install(python, "--require-hashes", *options, "-r", str(lock))


def run(command: Sequence[str]) -> None:
    """Run a command with its output on standard error. Raises InstallError when it fails."""
    done = subprocess.run(command, check=False, stdout=sys.stderr)
    if done.returncode != 0:
        raise InstallError(f"exit status {done.returncode} from: {' '.join(command)}")


def ensure_environment(name: str, lock: Path, *, interpreter: str = sys.executable) -> Path:
    """Give the interpreter of ``.cache/NAME-HASH``, made from ``lock`` on first use.

    The hash covers the lock file and the interpreter's path, so that a changed lock makes a new environment.
    Environments of the same name made from older locks are removed. Raises InstallError when pip fails.
    """
    stamp = digest(lock.read_bytes(), str(Path(interpreter).resolve()))
    path = CACHE / f"{name}-{stamp}"
    with exclusively(name):
        if not (path / _COMPLETE).exists():
            started = time.monotonic()
            say(f"making the environment {path.relative_to(ROOT)} from {lock.relative_to(ROOT)} (once)")
            for old in CACHE.glob(f"{name}-{'?' * len(stamp)}"):
                shutil.rmtree(old)
            install_lock(make_venv(path, interpreter, with_pip=False), lock, "--quiet")
            (path / _COMPLETE).touch()
            say(f"{path.relative_to(ROOT)} is ready after {time.monotonic() - started:.0f} s")
    return python_of(path)
