"""Compression by kombu's names."""

from __future__ import annotations

import bz2
import lzma
import zlib
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from umbel.core.compression import METHODS, compress, decompress
from umbel.errors import DecodeError, ImproperlyConfigured

NAMES = [name for method in METHODS for name in (*method.aliases, method.content_type)]


@pytest.mark.parametrize("name", NAMES)
def test_every_name_compresses_and_decompresses(name: str) -> None:
    data = b"a stalk of celery " * 100
    header, squeezed = compress(data, name)
    assert header.startswith("application/")
    assert len(squeezed) < len(data)
    assert decompress(squeezed, header) == decompress(squeezed, name) == data


@given(st.binary(max_size=200), st.sampled_from(NAMES))
def test_any_bytes_survive(data: bytes, name: str) -> None:
    assert decompress(compress(data, name)[1], name) == data


def test_the_formats_are_the_ones_kombu_reads() -> None:
    assert zlib.decompress(compress(b"x", "gzip")[1]) == b"x"
    assert bz2.decompress(compress(b"x", "bzip2")[1]) == b"x"
    assert lzma.decompress(compress(b"x", "xz")[1]) == b"x"


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(ImproperlyConfigured, match="unknown compression 'zipp'; known are gzip"):
        compress(b"x", "zipp")
    with pytest.raises(DecodeError, match="unknown compression 'zipp'"):
        decompress(b"x", "zipp")


@pytest.mark.parametrize("name", NAMES)
def test_bytes_of_another_kind_are_a_decode_error(name: str) -> None:
    with pytest.raises(DecodeError, match="-compressed data"):
        decompress(b"\x01plainly not compressed", name)


@given(st.binary(max_size=60), st.sampled_from(NAMES))
def test_garbage_is_read_or_refused(data: bytes, name: str) -> None:
    with suppress(DecodeError):
        decompress(data, name)
