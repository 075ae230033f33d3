"""A line of text and its checksum: for small files that people may want to read.

the line \\n CRC32C of the line, 8 hexadecimal digits \\n
"""

from __future__ import annotations

import google_crc32c


def encode_checked(line: bytes) -> bytes:
    """A file's content that holds *line*, which has no line break."""
    return b"%b\n%08x\n" % (line, google_crc32c.value(line))


def decode_checked(content: bytes) -> bytes:
    """The line that *content* holds. Raises ValueError unless it is as it was encoded."""
    line = content.partition(b"\n")[0]
    if content != encode_checked(line):
        raise ValueError("it fails its checksum")
    return line
