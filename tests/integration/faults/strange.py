"""Messages as no client would write them: seeded changes to good ones, and bytes that were never a message."""

from __future__ import annotations

import base64
import copy
import json
import random
from collections.abc import Callable, Iterator
from typing import Any

import msgspec

#: What may stand where something else was expected.
_VALUES: tuple[Any, ...] = (
    None,
    True,
    0,
    -1,
    2**63,
    -(10**40),
    1e308,
    0.5,
    "",
    "text",
    "ä\x00\ud800",
    "9999-12-31T23:59:59",
    "1970-01-01T00:00:00+00:00",
    "x" * 5000,
    [],
    [None, None],
    ["a", 1, {}],
    {},
    {"a": {"b": []}},
    {"__type__": "datetime", "__value__": 3},
    {"__type__": [], "__value__": None},
    [[[[[[[[[[]]]]]]]]]],
)
_CONTENT_TYPES = (
    "application/x-python-serialize",
    "application/x-msgpack",
    "application/x-yaml",
    "application/data",
    "text/plain",
    "application/JSON",
    "no/such",
    "",
)


class Strange:
    """Makes strange messages out of good payloads in kombu's form."""

    def __init__(self, good: list[bytes], seed: int) -> None:
        self._good = good
        self._dice = random.Random(seed)
        self._ways: list[Callable[[bytes], bytes]] = [
            self._cut,
            self._flip,
            self._retyped,
            self._stripped,
            self._other_content,
            self._other_body,
            self._bad_base64,
            self._protocol_1,
            self._native,
            self._no_json,
            self._binary,
            self._deep,
        ]

    def __iter__(self) -> Iterator[bytes]:
        while True:
            yield self._dice.choice(self._ways)(self._dice.choice(self._good))

    def _value(self) -> Any:
        return copy.deepcopy(self._dice.choice(_VALUES))

    def _cut(self, good: bytes) -> bytes:
        return good[: self._dice.randrange(len(good))]

    def _flip(self, good: bytes) -> bytes:
        changed = bytearray(good)
        for _ in range(self._dice.choice((1, 1, 2, 5, 30))):
            changed[self._dice.randrange(len(changed))] ^= 1 << self._dice.randrange(8)
        return bytes(changed)

    def _place(self, document: Any) -> tuple[Any, Any]:
        """Somewhere in a document: a container and one of its keys."""
        container, key = document, self._dice.choice(list(document))
        while isinstance(container[key], dict) and container[key] and self._dice.random() < 0.85:
            container = container[key]
            key = self._dice.choice(list(container))
        return container, key

    def _retyped(self, good: bytes) -> bytes:
        document = json.loads(good)
        for _ in range(self._dice.choice((1, 1, 1, 2, 4))):
            container, key = self._place(document)
            container[key] = self._value()
        return json.dumps(document).encode()

    def _stripped(self, good: bytes) -> bytes:
        document = json.loads(good)
        for _ in range(self._dice.choice((1, 1, 3))):
            if document:
                container, key = self._place(document)
                del container[key]
        return json.dumps(document).encode()

    def _other_content(self, good: bytes) -> bytes:
        document = json.loads(good)
        name = self._dice.choice(("content-type", "content-encoding"))
        document[name] = self._dice.choice(_CONTENT_TYPES)
        if self._dice.random() < 0.3:
            document["headers"]["compression"] = self._dice.choice(("application/x-gzip", "bzip9", 7))
        return json.dumps(document).encode()

    def _other_body(self, good: bytes) -> bytes:
        document = json.loads(good)
        body: Any = [self._value() for _ in range(self._dice.randrange(5))]
        text = json.dumps(self._dice.choice((body, self._value())))
        document["body"] = base64.b64encode(text.encode()[: self._dice.choice((3, 10_000, 10_000))]).decode()
        return json.dumps(document).encode()

    def _bad_base64(self, good: bytes) -> bytes:
        document = json.loads(good)
        body = document["body"]
        document["body"] = self._dice.choice((body[:-3], body + "=", "?" + body[1:], "ä", body[::-1]))
        return json.dumps(document).encode()

    def _protocol_1(self, good: bytes) -> bytes:
        document = json.loads(good)
        headers = document["headers"]
        old = {"task": headers["task"], "id": headers["id"], "args": [1], "kwargs": {}, "retries": 0}
        old |= {"eta": None, "expires": None, "utc": True, "taskset": None, "callbacks": None}
        for _ in range(self._dice.randrange(3)):
            old[self._dice.choice(list(old))] = self._value()
        document["headers"] = self._dice.choice(({}, None, {"lang": "py"}))
        document["body"] = base64.b64encode(json.dumps(old).encode()).decode()
        return json.dumps(document).encode()

    def _native(self, good: bytes) -> bytes:
        document = json.loads(good)
        body = base64.b64decode(document["body"])
        parts = [document["headers"], document["properties"], "application/json", "utf-8", body]
        if self._dice.random() < 0.7:
            parts[self._dice.randrange(5)] = self._dice.choice((None, 7, "text", [], {}, b"\x00"))
        packed = msgspec.msgpack.encode(parts)
        return packed if self._dice.random() < 0.5 else self._flip(packed)

    def _no_json(self, good: bytes) -> bytes:
        texts = (
            "",
            "{",
            "[]",
            "null",
            "{}",
            "NaN",
            '{"headers": NaN}',
            "hello",
            " ",
            "\n\n[CRITICAL]\n",
            "\ufeff{}",
        )
        return self._dice.choice(texts).encode()

    def _binary(self, good: bytes) -> bytes:
        return self._dice.randbytes(self._dice.randrange(1, 300))

    def _deep(self, good: bytes) -> bytes:
        depth = self._dice.choice((100, 2000))
        nested = "[" * depth + "]" * depth
        return f'{{"headers": {{"task": "echo", "id": "deep", "stamps": {nested}}}, "body": ""}}'.encode()
