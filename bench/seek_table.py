"""The seek table of an archive, read by docs/format.md alone."""

import struct


class SeekTable:
    """`size`: bytes of the table. `layers`: by digest, the spans as pairs of ranges (compressed, plain)."""

    def __init__(self, archive):
        with open(archive, "rb") as file:
            data = file.read()
        trailer = data[-88:]
        if trailer[80:] != b"CWSEEKTE":
            raise ValueError(f"{archive} has no seek table")
        self.size, directory_length, _version = struct.unpack_from("<QII", trailer, 32)
        end = len(data) - 88
        directory = data[end - directory_length : end]
        records = [directory[at : at + 108] for at in range(0, len(directory), 108)]
        at = end - directory_length - sum(struct.unpack_from("<Q", record, 68)[0] for record in records)
        self.layers = {}
        for record in records:
            (length,) = struct.unpack_from("<Q", record, 68)
            self.layers["sha256:" + record[:32].hex()] = list(spans(data[at : at + length]))
            at += length


def spans(entries):
    """The spans that a layer's entries tell of."""
    at = bit = plain = 0

    def varint():
        nonlocal at
        value = shift = 0
        while True:
            byte = entries[at]
            at += 1
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value

    while at < len(entries):
        bits, length = varint(), varint()
        at += 1  # what the span begins with
        window = varint()
        at += (32 if window else 0) + 32  # the digests of its window and of its bytes
        yield range(bit // 8, (bit + bits + 7) // 8), range(plain, plain + length)
        bit, plain = bit + bits, plain + length
