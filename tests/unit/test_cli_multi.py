"""Nodes of ``umbel multi``: names, ranges, and options for all or for some."""

from __future__ import annotations

import socket
import sys
from pathlib import Path

import pytest

from umbel.cli.nodes import Node, nodes_of, read_arguments

HERE = socket.gethostname()


def made(*words: str) -> list[Node]:
    return nodes_of(read_arguments(words))


def value(node: Node, option: str) -> str | None:
    return node.options.get(option)


def test_a_number_is_that_many_nodes() -> None:
    nodes = made("3", "-c", "3", "-c:1", "10")
    assert [node.name for node in nodes] == [f"celery{number}@{HERE}" for number in (1, 2, 3)]
    assert [value(node, "-c") for node in nodes] == ["10", "3", "3"]


def test_ranges_and_lists() -> None:
    nodes = made("5", "-c", "3", "-c:1-3", "10", "-Q:4,5", "data", "--range-prefix=worker")
    assert [value(node, "-c") for node in nodes] == ["10", "10", "10", "3", "3"]
    assert [value(node, "-Q") for node in nodes] == [None, None, None, "data", "data"]
    assert nodes[0].name == f"worker1@{HERE}"


def test_names_hosts_and_places() -> None:
    nodes = made("image", "video@here", "data@%h", "-c", "3", "-c:2", "9", "-c:image,data", "7")
    assert [node.name for node in nodes] == [f"image@{HERE}", "video@here", f"data@{HERE}"]
    assert value(nodes[0], "-c") == "7"
    assert value(made("a", "b", "-c:2", "9")[1], "-c") == "9"
    assert made("foo", "--hostname=there")[0].name == "foo@there"
    assert made("foo", '--suffix=""')[0].name == "foo@"


def test_a_place_that_nobody_has_is_refused() -> None:
    with pytest.raises(ValueError, match="no node 3"):
        made("a", "b", "-c:3", "1")


def test_the_command_has_options_where_they_belong(tmp_path: Path) -> None:
    [node] = made(
        "w",
        "-A",
        "proj",
        "-l",
        "INFO",
        f"--pidfile={tmp_path}/%n.pid",
        f"--logfile={tmp_path}/%n%I.log",
        "--",
        "x=1",
    )
    assert node.argv == [
        sys.executable,
        *("-m", "umbel", "-A", "proj", "worker", "--detach"),
        *("-l", "INFO", f"--pidfile={tmp_path}/w.pid", f"--logfile={tmp_path}/w%I.log", "-n", f"w@{HERE}"),
        "x=1",
    ]
    assert node.pidfile == tmp_path / "w.pid"
    assert node.logfile == tmp_path / "w.log"


def test_where_files_are_when_nothing_is_said() -> None:
    [node] = made("w")
    assert (str(node.pidfile), str(node.logfile)) == ("/var/run/celery/w.pid", "/var/log/celery/w.log")
    assert node.expand("%n at %h, %i") == f"w at {HERE}, %i"


def test_percent_signs_are_escaped_for_the_worker_too() -> None:
    [node] = made("w", "--logfile=/tmp/%%%%i-%i%%%%n.log")
    assert "--logfile=/tmp/%%i-%i%%n.log" in node.argv
    assert str(node.logfile) == "/tmp/%i-0%n.log"


def test_another_command_and_what_is_appended() -> None:
    [node] = made("w", "--cmd=-m celery worker --detach", "--append=--purge -O fair", "-b", "redis://x")
    assert node.argv[1:6] == ["-m", "celery", "-b", "redis://x", "worker"]
    assert node.argv[-3:] == ["--purge", "-O", "fair"]
