"""Identifiers: version 4 UUIDs that never repeat, in forked processes either."""

from __future__ import annotations

import os
import uuid

from umbel.core.ids import new_id, new_ids


def test_an_id_is_a_version_4_uuid() -> None:
    for text in (*(new_id() for _ in range(200)), *new_ids(200)):
        made = uuid.UUID(text)
        assert str(made) == text
        assert made.version == 4
        assert made.variant == uuid.RFC_4122


def test_ids_do_not_repeat() -> None:
    assert len({new_id() for _ in range(10_000)}) == 10_000
    assert len({*new_ids(10_000), *new_ids(10_000)}) == 20_000
    assert new_ids(0) == []


def test_a_forked_process_makes_other_ids() -> None:
    read, write = os.pipe()
    child = os.fork()
    if not child:
        os.write(write, "\n".join((*(new_id() for _ in range(25)), *new_ids(25))).encode())
        os._exit(0)
    os.close(write)
    ours = {*(new_id() for _ in range(25)), *new_ids(25)}
    with os.fdopen(read) as pipe:
        theirs = set(pipe.read().split("\n"))
    os.waitpid(child, 0)
    assert len(theirs) == 50
    assert not ours & theirs
