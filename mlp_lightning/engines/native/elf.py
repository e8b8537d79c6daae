"""Whether a library's file is whole: a missing end would kill the process at the first access to it (SIGBUS)."""

import struct
from pathlib import Path

MAGIC = b"\x7fELF"
# Of ELF's header for 64 bits, after its 16 bytes of identification: where the tables of segments and sections begin,
# then the size of an entry and how many there are, of each.
_HEADER = struct.Struct("16xHHIQQQIHHHHHH")
# Of a segment: its offset and its size in the file.
_SEGMENT = struct.Struct("IIQQQQQQ")


def is_whole(path: Path) -> bool:
    """Whether every segment and the table of sections, which ends the file, lie within an ELF file of 64 bits.

    Files of other kinds count as whole, for their loaders look at this themselves; a missing or empty file does not.
    """
    try:
        content = path.read_bytes()
    except OSError:
        return False
    # The fifth byte tells 64 bits by 2, the sixth the order of the bytes: 1 for the least significant first.
    if not content.startswith((MAGIC + b"\x02\x01", MAGIC + b"\x02\x02")):
        return bool(content)
    order = "<" if content[5] == 1 else ">"
    header, segment = (struct.Struct(order + each.format) for each in (_HEADER, _SEGMENT))
    if len(content) < header.size:
        return False
    *_, segments, sections, _, _, segment_size, n_segments, section_size, n_sections, _ = header.unpack_from(content)
    if segments + n_segments * segment_size > len(content) or sections + n_sections * section_size > len(content):
        return False
    entries = [segment.unpack_from(content, segments + k * segment_size) for k in range(n_segments)]
    return all(offset + size <= len(content) for _, _, offset, _, _, size, _, _ in entries)
