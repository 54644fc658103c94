"""Commands of an application's own, under whichever library the interpreter has."""

from __future__ import annotations

try:
    from celery.worker.control import control_command, inspect_command
except ImportError:
    from umbel.worker.commands import control_command, inspect_command

LEVEL = [0]


@control_command(args=[("n", int)], signature="[N=1]")
def raise_level(state, n=1):
    """Raise the level."""
    LEVEL[0] += n
    return {"ok": f"the level is {LEVEL[0]}"}


@inspect_command(alias="how_high", default_timeout=5.0)
def current_level(state):
    """Tell the level."""
    return {"level": LEVEL[0], "node": state.hostname}


@inspect_command(variadic="words", signature="[word1 [word2 …]]")
def spell(state, words=()):
    """Tell words backwards."""
    return {word: word[::-1] for word in words}


@control_command()
def fall(state):
    """Fail."""
    raise RuntimeError("the ladder is gone")
