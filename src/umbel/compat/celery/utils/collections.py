"""Collections."""

from __future__ import annotations

import heapq
import time
from collections import ChainMap as _ChainMap
from collections import OrderedDict as _OrderedDict
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping
from queue import Empty
from typing import Any

__all__ = (
    "AttributeDict",
    "AttributeDictMixin",
    "BufferMap",
    "ChainMap",
    "ConfigurationView",
    "DictAttribute",
    "Evictable",
    "LimitedSet",
    "Messagebuffer",
    "OrderedDict",
    "force_mapping",
    "lpmerge",
)


def force_mapping(m: Any) -> Any:
    """A mapping as it is; an object as one of its attributes."""
    return m if isinstance(m, Mapping) else DictAttribute(m)


def lpmerge(L: dict[Any, Any], R: dict[Any, Any]) -> dict[Any, Any]:
    """Put into the first mapping what the second has that is not None."""
    L.update({key: value for key, value in R.items() if value is not None})
    return L


class OrderedDict(_OrderedDict[Any, Any]):
    """A mapping in the order of its keys."""

    @property
    def _keys(self) -> list[Any]:
        return list(self)

    def _LRUkey(self) -> Any:
        return next(iter(self.keys()))


class AttributeDictMixin:
    """Items as attributes."""

    def __getattr__(self, k: str) -> Any:
        try:
            return self[k]  # type: ignore[index]
        except KeyError:
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {k!r}") from None

    def __setattr__(self, key: str, value: Any) -> None:
        self[key] = value


class AttributeDict(dict[Any, Any], AttributeDictMixin):
    """A dict whose items are attributes too."""


class DictAttribute:
    """The attributes of an object as a mapping."""

    def __init__(self, obj: Any) -> None:
        object.__setattr__(self, "obj", obj)

    def __getattr__(self, key: str) -> Any:
        return getattr(self.obj, key)

    def __setattr__(self, key: str, value: Any) -> None:
        setattr(self.obj, key, value)

    def __getitem__(self, key: Any) -> Any:
        try:
            return getattr(self.obj, key)
        except AttributeError:
            raise KeyError(key) from None

    def __setitem__(self, key: Any, value: Any) -> None:
        setattr(self.obj, key, value)

    def __contains__(self, key: Any) -> bool:
        return key in dir(self.obj)

    def get(self, key: Any, default: Any = None) -> Any:
        """An attribute, or ``default``."""
        try:
            return self[key]
        except KeyError:
            return default

    def setdefault(self, key: Any, default: Any = None) -> Any:
        """An attribute, set first where there is none."""
        if key not in self:
            self[key] = default
        return self[key]

    def keys(self) -> Iterator[Any]:
        """The names."""
        return iter(dir(self.obj))

    __iter__ = _iterate_keys = iterkeys = keys

    def values(self) -> Iterator[Any]:
        """The values."""
        return (self[key] for key in dir(self.obj))

    def items(self) -> Iterator[tuple[Any, Any]]:
        """Names and values."""
        return ((key, self[key]) for key in dir(self.obj))


MutableMapping.register(DictAttribute)


class ChainMap(MutableMapping[Any, Any]):
    """Several mappings as one; the first is written to."""

    def __init__(self, *maps: Any, **kwargs: Any) -> None:
        vars(self).update(
            key_t=kwargs.get("key_t"), maps=list(maps or ({},)), changes=None, defaults=None, _observers=[]
        )
        vars(self)["changes"], vars(self)["defaults"] = self.maps[0], self.maps[-1]

    maps: list[Any]

    def _key(self, key: Any) -> Any:
        key_t = vars(self)["key_t"]
        return key if key_t is None else key_t(key)

    def add_defaults(self, d: Any) -> None:
        """Put a mapping behind the changes."""
        d = force_mapping(d)
        self.maps.insert(1, d)

    def pop(self, key: Any, *default: Any) -> Any:
        """Take a key out of the changes."""
        try:
            return self.maps[0].pop(key, *default)
        except KeyError:
            raise KeyError(f"Key not found in the first mapping: {key!r}") from None

    def __missing__(self, key: Any) -> Any:
        raise KeyError(key)

    def __getitem__(self, key: Any) -> Any:
        key = self._key(key)
        for each in self.maps:
            try:
                return each[key]
            except KeyError:
                continue
        return self.__missing__(key)

    def __setitem__(self, key: Any, value: Any) -> None:
        self.maps[0][self._key(key)] = value

    def __delitem__(self, key: Any) -> None:
        try:
            del self.maps[0][self._key(key)]
        except KeyError:
            raise KeyError(f"Key not found in first mapping: {key!r}") from None

    def clear(self) -> None:
        """Forget the changes."""
        self.maps[0].clear()

    def get(self, key: Any, default: Any = None) -> Any:
        """A value, or ``default``."""
        try:
            return self[self._key(key)]
        except KeyError:
            return default

    def __len__(self) -> int:
        return len(set().union(*self.maps))

    def __contains__(self, key: Any) -> bool:
        return any(self._key(key) in each for each in self.maps)

    def __bool__(self) -> bool:
        return any(self.maps)

    def setdefault(self, key: Any, default: Any = None) -> Any:
        """A value, set first where there is none."""
        key = self._key(key)
        if key not in self:
            self[key] = default
        return self[key]

    def update(self, *args: Any, **kwargs: Any) -> None:
        """Change several keys."""
        self.maps[0].update(*args, **kwargs)
        for observer in vars(self)["_observers"]:
            observer(*args, **kwargs)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(map(repr, self.maps))})"

    @classmethod
    def fromkeys(cls, iterable: Iterable[Any], *args: Any) -> ChainMap:
        """One of these keys."""
        return cls(dict.fromkeys(iterable, *args))

    def copy(self) -> ChainMap:
        """Another with changes of its own."""
        return type(self)(self.maps[0].copy(), *self.maps[1:])

    __copy__ = copy

    def __iter__(self) -> Iterator[Any]:
        return iter(_ChainMap(*self.maps))

    iterkeys = __iter__

    def bind_to(self, callback: Callable[..., Any]) -> None:
        """Have ``callback`` called with what ``update`` is."""
        vars(self)["_observers"].append(callback)


class ConfigurationView(ChainMap, AttributeDictMixin):
    """Settings: changes over defaults, under several spellings of their names."""

    def __init__(
        self, changes: Any, defaults: Any = None, keys: Any = None, prefix: str | None = None
    ) -> None:
        super().__init__(changes, *(defaults or ()))
        vars(self).update(prefix=prefix.rstrip("_") + "_" if prefix else prefix, _keys=keys)

    def _spellings(self, key: str) -> Iterator[str]:
        prefix = vars(self)["prefix"]
        if prefix:
            yield prefix + key if not key.startswith(prefix) else key
        yield key
        for spelling in vars(self)["_keys"] or ():
            yield spelling(key)

    def __getitem__(self, key: Any) -> Any:
        for each in self.maps:
            for spelling in self._spellings(key):
                if spelling in each:
                    return each[spelling]
        raise KeyError(key)

    def __contains__(self, key: Any) -> bool:
        return any(spelling in each for each in self.maps for spelling in self._spellings(key))

    def first(self, *keys: str) -> Any:
        """The first of these settings that is not None."""
        return next((value for value in map(self.get, keys) if value is not None), None)

    def get(self, key: Any, default: Any = None) -> Any:
        """A value, or ``default``."""
        return self[key] if key in self else default  # noqa: SIM401 - this is get

    def clear(self) -> None:
        """Forget the changes."""
        self.maps[0].clear()

    def swap_with(self, other: ConfigurationView) -> None:
        """Become another."""
        vars(self).update(vars(other))


class LimitedSet:
    """A set that keeps its ``maxlen`` newest members for ``expires`` seconds, ``minlen`` of them for longer."""

    max_heap_percent_overload = 15

    def __init__(self, maxlen: int = 0, expires: float = 0, data: Any = None, minlen: int = 0) -> None:
        self.maxlen, self.minlen = maxlen or 0, minlen or 0
        self.expires = expires or 0
        if self.maxlen < 0 or self.minlen < 0 or (self.maxlen and self.minlen > self.maxlen):
            raise ValueError("minlen and maxlen must be positive, and minlen no more than maxlen")
        if self.expires < 0:
            raise ValueError("expires cannot be negative!")
        self._data: dict[Any, tuple[float, Any]] = {}
        self._heap: list[tuple[float, Any]] = []
        if data:
            self.update(data)

    def _refresh_heap(self) -> None:
        self._heap = list(self._data.values())
        heapq.heapify(self._heap)

    def _maybe_refresh_heap(self) -> None:
        if self._heap_overload >= self.max_heap_percent_overload:
            self._refresh_heap()

    def clear(self) -> None:
        """Forget all members."""
        self._data.clear()
        self._heap.clear()

    def add(self, item: Any, now: float | None = None) -> None:
        """Add a member, or renew it."""
        now = now or time.time()
        self._data[item] = entry = (now, item)
        heapq.heappush(self._heap, entry)
        self._maybe_refresh_heap()
        if self.maxlen and len(self._data) >= self.maxlen:
            self.purge()

    def update(self, other: Any) -> None:
        """Add the members of another set, a mapping to instants, or any iterable."""
        if not other:
            return
        if isinstance(other, LimitedSet):
            self._data.update(other._data)
            self._refresh_heap()
            self.purge()
        elif isinstance(other, dict):
            for item, inserted in other.items():
                self.add(item, inserted[0] if isinstance(inserted, (tuple, list)) else inserted)
        else:
            for item in other:
                self.add(item)

    def discard(self, item: Any) -> None:
        """Forget a member, if it is one."""
        self._data.pop(item, None)
        self._maybe_refresh_heap()

    pop_value = discard

    def purge(self, now: float | None = None) -> None:
        """Forget what is too old or too much."""
        now = now or time.time()
        while self.maxlen and len(self._data) > self.maxlen:
            self.pop()
        while self.expires and len(self._data) > self.minlen >= 0:
            inserted = self._oldest()
            if inserted is None or inserted + self.expires > now:
                return
            self.pop()

    def _oldest(self) -> float | None:
        while self._heap:
            inserted, item = self._heap[0]
            if self._data.get(item, (None,))[0] == inserted:
                return inserted
            heapq.heappop(self._heap)
        return None

    def pop(self, default: Any = None) -> Any:
        """Take out the oldest member."""
        if self._oldest() is None:
            return default
        _, item = heapq.heappop(self._heap)
        del self._data[item]
        return item

    def as_dict(self) -> dict[Any, float]:
        """Members and the instants they were added at."""
        return {item: inserted for inserted, item in self._data.values()}

    def __eq__(self, other: object) -> bool:
        return isinstance(other, LimitedSet) and self._data == other._data

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return (
            f"<LimitedSet(maxlen={self.maxlen}, expires={self.expires}, minlen={self.minlen})"
            f" Current size:{len(self._data)}>"
        )

    def __iter__(self) -> Iterator[Any]:
        return (item for _, item in sorted(self._data.values(), key=lambda entry: entry[0]))

    def __len__(self) -> int:
        return len(self._data)

    def __contains__(self, key: Any) -> bool:
        return key in self._data

    def __reduce__(self) -> Any:
        return self.__class__, (self.maxlen, self.expires, self.as_dict(), self.minlen)

    def __bool__(self) -> bool:
        return bool(self._data)

    @property
    def _heap_overload(self) -> float:
        return len(self._heap) * 100 / max(len(self._data), 1) - 100


class Evictable:
    """Something that can make room."""

    Empty = Empty

    def evict(self) -> None:
        """Make room."""
        self._evict()

    def _evict(self, limit: int = 100, range: Any = range) -> None:
        try:
            for _ in range(limit):
                self._evict1()
        except IndexError:
            return

    def _evict1(self) -> None:
        if self._evictcount <= self.maxsize:  # type: ignore[attr-defined]
            raise IndexError
        try:
            self._pop_to_evict()  # type: ignore[attr-defined]
        except self.Empty:
            raise IndexError from None


class Messagebuffer(Evictable):
    """The newest ``maxsize`` messages."""

    def __init__(self, maxsize: int | None, iterable: Any = None, deque: Any = deque) -> None:
        self.maxsize = maxsize
        self.data: Any = deque(iterable or [])

    def put(self, item: Any) -> None:
        """Add one."""
        self.data.append(item)
        if self.maxsize and len(self.data) > self.maxsize:
            self.evict()

    def extend(self, it: Iterable[Any]) -> None:
        """Add several."""
        self.data.extend(it)
        if self.maxsize:
            self.evict()

    def take(self, *default: Any) -> Any:
        """The oldest, taken out. Raises ``Empty`` without a default."""
        try:
            return self.data.popleft()
        except IndexError:
            if default:
                return default[0]
            raise self.Empty from None

    _pop_to_evict = take

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {len(self)}/{self.maxsize}>"

    def __iter__(self) -> Iterator[Any]:
        while self.data:
            yield self.data.popleft()

    def __len__(self) -> int:
        return len(self.data)

    def __contains__(self, item: Any) -> bool:
        return item in self.data

    def __reversed__(self) -> Iterator[Any]:
        return iter(reversed(self.data))

    def __getitem__(self, index: int) -> Any:
        return self.data[index]

    @property
    def _evictcount(self) -> int:
        return len(self)


class BufferMap(OrderedDict, Evictable):
    """Buffers by key, ``maxsize`` messages in all."""

    Buffer = Messagebuffer
    maxsize: int | None = None
    total = 0
    bufmaxsize: int | None = None

    def __init__(self, maxsize: int | None, iterable: Any = None, bufmaxsize: int | None = 1000) -> None:
        super().__init__()
        self.maxsize = maxsize
        self.bufmaxsize = bufmaxsize
        if iterable:
            self.update(iterable)
        self.total = sum(len(buffer) for buffer in self.items())

    def put(self, key: Any, item: Any) -> None:
        """Add a message to a key's buffer."""
        self._get_or_create_buffer(key).put(item)
        self.total += 1
        self.move_to_end(key)
        if self.maxsize:
            self.evict()

    def extend(self, key: Any, it: Iterable[Any]) -> None:
        """Add messages to a key's buffer."""
        messages = list(it)
        self._get_or_create_buffer(key).extend(messages)
        self.total += len(messages)
        if self.maxsize:
            self.evict()

    def take(self, key: Any, *default: Any) -> Any:
        """The oldest message of a key."""
        buffer = self.get(key)
        if buffer is not None and len(buffer):
            item = buffer.take()
            self.total -= 1
            if not len(buffer):
                self.pop(key)
            return item
        if default:
            return default[0]
        raise self.Empty

    def _get_or_create_buffer(self, key: Any) -> Any:
        if key not in self:
            self[key] = self._new_buffer()
        return self[key]

    def _new_buffer(self) -> Any:
        return self.Buffer(maxsize=self.bufmaxsize)

    def _pop_to_evict(self, *default: Any) -> Any:
        for key in list(self):
            buffer = self[key]
            if len(buffer):
                self.total -= 1
                return buffer.take()
        raise self.Empty

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {self.total}/{self.maxsize}>"

    @property
    def _evictcount(self) -> int:
        return self.total
