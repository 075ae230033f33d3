"""A line and its checksum."""

from __future__ import annotations

import pytest

from vectorizer_engine.storage.checked_text import decode_checked, encode_checked


def test_a_line_comes_back() -> None:
    assert decode_checked(encode_checked(b'{"a":1}')) == b'{"a":1}'


def test_every_flipped_bit_and_every_missing_end_is_noticed() -> None:
    content = encode_checked(b'{"a":1}')
    broken = [content[:end] for end in range(len(content))]
    for position in range(len(content)):
        for bit in range(8):
            changed = bytearray(content)
            changed[position] ^= 1 << bit
            broken.append(bytes(changed))
    for each in broken:
        with pytest.raises(ValueError, match="fails its checksum"):
            decode_checked(each)
