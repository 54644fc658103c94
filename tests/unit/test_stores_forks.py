"""A program with threads forks: what one of them held at that moment is free in the child."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

#: ``held`` is the owner of the lock and ``use`` what the child does with it; each has a process of its own.
PROGRAM = """
import os, signal, threading, warnings

# Python says since 3.12 that forking a program with threads may go wrong, which is what is tried here.
warnings.simplefilter("ignore", DeprecationWarning)
from umbel import Umbel
from umbel.results.options import ResultOptions

{setting}
holds, released = threading.Event(), threading.Event()

def hold():
    with held._lock:
        holds.set()
        released.wait()

thread = threading.Thread(target=hold)
thread.start()
holds.wait()
child = os.fork()
if not child:
    signal.alarm(10)
    use()
    os._exit(0)
status = os.waitpid(child, 0)[1]
released.set()
thread.join()
use()
assert status == 0, f"the child ended with {{status}}"
"""

SETTINGS = {
    "connections": """
app = Umbel("forks", broker="memory://", backend="cache+memory://")
app.backend
held = app._connections
def use():
    app.send_task("t")
    assert app.AsyncResult("none").state == "PENDING"
""",
    "database": """
from umbel.results.database import DatabaseResultBackend
backend = DatabaseResultBackend.from_url("db+sqlite://", ResultOptions())
held = backend._engines
use = held.own
""",
    "memcached": """
from umbel.results.cache import CacheResultBackend
held = CacheResultBackend.from_url("cache+memcached://127.0.0.1:1/", ResultOptions())
use = held._own_client
""",
    "several servers": """
from umbel.stores.failover import Failover
held = Failover(("a", "b"), "round-robin")
def use():
    held.failed(held.current)
""",
}


@pytest.mark.parametrize("setting", SETTINGS)
def test_a_lock_that_a_thread_of_the_parent_holds_is_free_in_the_child(setting: str) -> None:
    program = PROGRAM.format(setting=SETTINGS[setting])
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=60
    )
    assert (done.returncode, done.stderr) == (0, "")


#: A thread is in the midst of a transaction; what SQLite knows of it in memory must not reach the child.
WRITER = """
import os, signal, sys, threading, warnings

warnings.simplefilter("ignore", DeprecationWarning)
from umbel.stores.sqlite import Database, Location

database = Database(Location(sys.argv[1]))
begun = threading.Event()

def work(connection):
    begun.set()
    threading.Event().wait(0.2)  # a long transaction

def read(connection):
    return connection.execute("SELECT count(*) FROM messages").fetchone()

thread = threading.Thread(target=database.write, args=(work,))
thread.start()
begun.wait()
child = os.fork()
if not child:
    signal.alarm(10)
    database.write(read)
    database.close()
    os._exit(0)
status = os.waitpid(child, 0)[1]
thread.join()
assert database.write(read) == (0,)
assert status == 0, f"the child ended with {status}"
"""


def test_a_child_writes_to_a_file_that_its_parent_was_writing_to(tmp_path: Path) -> None:
    command = [sys.executable, "-c", WRITER, str(tmp_path / "jobs.db")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=100)
    assert (done.returncode, done.stderr) == (0, "")
