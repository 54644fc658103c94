"""``celery.apps.multi``, ``celery.bin.multi`` and ``celery.worker.state.Persistent`` under their own names."""

from __future__ import annotations

import socket
from pathlib import Path

from tests.unit.test_compat_alias import output

HERE = socket.gethostname()
BEFORE = "import umbel; umbel.install_as_celery()\nimport io, os, sys\n"

#: Stands for a worker that detaches: leaves its child's process id in the file and ends.
DAEMON = """
import os, signal, sys
path = next(word for word in sys.argv if word.startswith("--pidfile=")).partition("=")[2]
read, write = os.pipe()
if os.fork() == 0:
    os.setsid()
    with open(path, "w") as file:
        file.write(str(os.getpid()))
    os.write(write, b".")
    null = os.open(os.devnull, os.O_RDWR)
    for number in range(3):
        os.dup2(null, number)
    signal.pause()
os.read(read, 1)
"""


def test_a_cluster_is_started_restarted_and_stopped(tmp_path: Path) -> None:
    (tmp_path / "daemon.py").write_text(DAEMON)
    source = f"""
from celery.apps.multi import Cluster, MultiParser, NamespacedOptionParser
parser = NamespacedOptionParser(["2", "--pidfile={tmp_path}/%n.pid", "--logfile={tmp_path}/%n.log", "-c:2", "7"])
parser.parse()
told = []
nodes = list(MultiParser(cmd="{tmp_path}/daemon.py").parse(parser))
cluster = Cluster(
    nodes,
    on_node_start=lambda node: told.append(("start", node.name.partition("@")[0])),
    on_node_down=lambda node: told.append(("down", node.name.partition("@")[0])),
    on_node_status=lambda node, status: told.append(("status", status)),
    on_send_signal=lambda node, name: told.append(("signal", name)),
)
print([node.options.get("-c") for node in cluster], cluster.find("celery1@{HERE}") is nodes[0])
print(cluster.start(), all(node.alive() for node in cluster))
first = [node.pid for node in cluster]
print(cluster.restart(), [node.pid in first for node in cluster], told)
cluster.stopwait(retry=0.02)
print([node.alive() for node in cluster], sorted(told[-2:]))
"""
    found = output(BEFORE + source)
    assert found == [
        "[None, '7'] True",
        "[0, 0] True",
        (
            "[0, 0] [False, False] [('start', 'celery1'), ('status', 0), ('start', 'celery2'), ('status', 0), "
            "('signal', 'TERM'), ('signal', 'TERM'), ('status', 0), ('status', 0)]"
        ),
        "[False, False] [('down', 'celery1'), ('down', 'celery2')]",
    ]


def test_a_node_is_made_of_options_by_their_names_in_python() -> None:
    source = """
from celery.apps.multi import Node
node = Node.from_kwargs("w@there", A="proj", pidfile="/run/%n.pid", loglevel="INFO")
print(node.argv)
print(node.pidfile, node.logfile, node.executable == sys.executable, node.pid, node)
"""
    assert output(BEFORE + source) == [
        (
            "('-m', 'umbel', '-A', 'proj', 'worker', '--detach', '--pidfile=/run/w.pid', '--loglevel=INFO', "
            "'-n', 'w@there', '--logfile=/var/log/celery/w%I.log')"
        ),
        "/run/w.pid /var/log/celery/w.log True None <Node: w@there>",
    ]


def test_the_tool_does_what_its_command_line_says() -> None:
    source = """
from celery.bin.multi import MultiTool
out, err = io.StringIO(), io.StringIO()
tool = MultiTool(stdout=out, stderr=err)
print(tool.execute_from_commandline(["celery multi", "names", "a", "b"]), out.getvalue().split())
print(tool.show("1", "-c", "3"), "-c 3" in out.getvalue())
print(tool.execute_from_commandline(["celery multi", "dance", "1"]), err.getvalue().strip())
print([node.name for node in tool.cluster_from_argv(["x", "y@z"])])
print(tool.help(), "stopwait" in out.getvalue())
"""
    assert output(BEFORE + source) == [
        f"0 ['a@{HERE}', 'b@{HERE}']",
        "0 True",
        "1 Error: Invalid command: dance",
        f"['x@{HERE}', 'y@z']",
        "0 True",
    ]


def test_a_worker_s_state_file_is_read_and_written(tmp_path: Path) -> None:
    source = f"""
from celery.worker import state
from kombu.clocks import LamportClock
state.revoked.add("one")
clock = LamportClock(7)
kept = state.Persistent(state, "{tmp_path}/state", clock)
kept.close()
state.revoked.clear()
again = LamportClock()
state.Persistent(state, "{tmp_path}/state", again)
print(list(state.revoked), again.value >= 8)
"""
    assert output(BEFORE + source) == ["['one'] True"]
