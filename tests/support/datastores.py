"""Private PostgreSQL, MariaDB and memcached servers, for the result backends that live there."""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Self

from tests.support.servers import HOST, ServerMissingError, ServerProcess
from umbel.core.ids import new_id

if TYPE_CHECKING:
    from collections.abc import Sequence

#: Where Debian keeps the programs of its PostgreSQL versions.
_POSTGRES: Path = Path("/usr/lib/postgresql")


class PostgresServer(ServerProcess):
    """A PostgreSQL server that forgets everything when the machine loses power, but not when it is killed."""

    program = "pg_ctlcluster"
    package = "postgresql"

    def start(self) -> Self:
        """Make a cluster and start it."""
        if not shutil.which(self.program) or not self._programs():
            raise ServerMissingError(
                f"PostgreSQL is not installed: run `apt-get install {self.package}` as root"
            )
        if not self._data.exists():
            self._make_cluster()
        return super().start()

    def _make_cluster(self) -> None:
        options = ["-D", str(self._data), "-U", "umbel", "--auth=trust", "--encoding=UTF8", "--no-sync"]
        if os.getuid() == 0:
            self.directory.chmod(0o755)
            self._data.mkdir(mode=0o700)
            user = pwd.getpwnam("postgres")
            os.chown(self._data, user.pw_uid, user.pw_gid)
        done = subprocess.run(
            [*_as_postgres(), self._program("initdb"), *options],
            cwd=self.directory,
            check=False,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr

    def command(self) -> Sequence[str]:
        """The command line; PostgreSQL refuses to run as root."""
        options = {
            "listen_addresses": HOST,
            "unix_socket_directories": "",
            "fsync": "off",
            "max_connections": "200",
        }
        settings = [part for name, value in options.items() for part in ("-c", f"{name}={value}")]
        return [
            *_as_postgres(),
            *(self._program("postgres"), "-D", str(self._data), "-p", str(self.port), *settings),
        ]

    def answers(self) -> bool:
        """Whether it takes connections."""
        return self._run("pg_isready", "-q").returncode == 0

    def add_database(self) -> str:
        """Make an empty database and give its name."""
        name = f"t{new_id()[:8]}"
        done = self._run("createdb", "-U", "umbel", name)
        assert done.returncode == 0, done.stderr
        return name

    def url(self, database: str = "postgres", driver: str = "psycopg") -> str:
        """A database's address, as SQLAlchemy writes it."""
        return f"postgresql+{driver}://umbel@{HOST}:{self.port}/{database}"

    def _run(self, program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [self._program(program), "-h", HOST, "-p", str(self.port), *arguments]
        return subprocess.run(command, check=False, capture_output=True, text=True, timeout=20)

    @property
    def _data(self) -> Path:
        return self.directory / "data"

    @staticmethod
    def _programs() -> list[Path]:
        """The folders of the installed versions' programs, the newest last."""
        return sorted(_POSTGRES.glob("*/bin"), key=lambda path: float(path.parent.name))

    def _program(self, name: str) -> str:
        return str(self._programs()[-1] / name)


def _as_postgres() -> list[str]:
    """What stands before a command that must not run as root."""
    if os.getuid() != 0:
        return []
    return ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"]


class MariaDbServer(ServerProcess):
    """A MariaDB server, for what is meant for MySQL; who connects is root, without a password."""

    program = "mariadbd"
    package = "mariadb-server"

    def find_program(self) -> str | None:
        """The server's path; Debian keeps it where a user's path does not look."""
        return _sbin(self.program)

    def restart(self) -> Self:
        """Start with the data there is; the first time, with none."""
        if not self._data.exists():
            self._make_data()
        return super().restart()

    def _make_data(self) -> None:
        done = subprocess.run(
            [
                "mariadb-install-db",
                *("--no-defaults", f"--datadir={self._data}", *_as_root()),
                *("--auth-root-authentication-method=normal", "--skip-test-db", "--skip-name-resolve"),
            ],
            cwd=self.directory,
            check=False,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stdout + done.stderr

    def command(self) -> Sequence[str]:
        """The command line."""
        return [
            str(self.find_program()),
            *("--no-defaults", f"--datadir={self._data}", *_as_root()),
            *(f"--bind-address={HOST}", f"--port={self.port}", f"--socket={self.directory / 'socket'}"),
            *(f"--pid-file={self.directory / 'pid'}", "--innodb-flush-log-at-trx-commit=0"),
        ]

    def answers(self) -> bool:
        """Whether it takes connections."""
        return self._run("mariadb-admin", "ping").returncode == 0

    def add_database(self) -> str:
        """Make an empty database and give its name."""
        name = f"t{new_id()[:8]}"
        done = self._run("mariadb-admin", "create", name)
        assert done.returncode == 0, done.stderr
        return name

    def url(self, database: str, driver: str = "pymysql") -> str:
        """A database's address, as SQLAlchemy writes it."""
        return f"mysql+{driver}://root@{HOST}:{self.port}/{database}"

    def _run(self, program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        place = ["--no-defaults", "--protocol=tcp", "--user=root", f"--host={HOST}", f"--port={self.port}"]
        return subprocess.run(
            [program, *place, *arguments], check=False, capture_output=True, text=True, timeout=20
        )

    @property
    def _data(self) -> Path:
        return self.directory / "data"


def _as_root() -> list[str]:
    """What MariaDB has to be told before it runs as root."""
    return ["--user=root"] if os.getuid() == 0 else []


def _sbin(program: str) -> str | None:
    return shutil.which(program, path=os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin"]))


class MemcachedServer(ServerProcess):
    """A memcached server that takes items of up to 16 MB."""

    program = "memcached"
    package = "memcached"

    def command(self) -> Sequence[str]:
        """The command line."""
        user = ["-u", "nobody"] if os.getuid() == 0 else []
        return [self.program, "-l", HOST, "-p", str(self.port), "-m", "64", "-I", "16m", *user]

    def answers(self) -> bool:
        """Whether it tells its version."""
        try:
            return self.ask(b"version\r\n", b"\r\n").startswith(b"VERSION")
        except OSError:
            return False

    def ask(self, command: bytes, end: bytes) -> bytes:
        """The answer to a command of memcached's text protocol, up to ``end``."""
        with socket.create_connection((HOST, self.port), timeout=2) as connection:
            connection.sendall(command)
            answer = b""
            while not answer.endswith(end):
                part = connection.recv(65536)
                if not part:
                    break
                answer += part
            return answer

    def flush(self) -> None:
        """Forget everything."""
        assert self.ask(b"flush_all\r\n", b"\r\n") == b"OK\r\n"

    @property
    def address(self) -> str:
        """``host:port``."""
        return f"{HOST}:{self.port}"

    def url(self, client: str = "memcached") -> str:
        """Its address as a result backend."""
        return f"cache+{client}://{self.address}/"
