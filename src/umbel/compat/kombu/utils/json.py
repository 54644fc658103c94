"""JSON, with types of one's own."""

from __future__ import annotations

import json
from typing import Any

from umbel.core.json_types import dumps_json, loads_json, register_type, types

textual_types = ()
EncodedT = T = Any


class JSONEncoder(json.JSONEncoder):
    """Writes the types that were registered."""

    def default(self, o: Any) -> Any:
        """What stands for a value that JSON has no form for."""
        return types.encode(o)


def dumps(s: Any, _dumps: Any = None, cls: Any = None, default_kwargs: Any = None, **kwargs: Any) -> str:
    """A value as JSON."""
    if kwargs or cls is not None:
        return json.dumps(s, cls=cls or JSONEncoder, **kwargs)
    return dumps_json(s).decode()


def loads(s: Any, _loads: Any = None, decode_bytes: bool = True, object_hook: Any = None) -> Any:
    """The value of JSON."""
    return loads_json(s)


def object_hook(o: dict[str, Any]) -> Any:
    """The value that a tagged object stands for."""
    return types.decode(o)
