"""A decoder of streams after docs/bitstream.md alone: Python integers, no arrays, no floats.

It shares no code with the package, so that both agree only if the page is right.
"""

import struct
import zlib
from math import isqrt


def records(data):
    """Yield kind, number and payload of the records of an undamaged stream."""
    assert data[:8] == b'\x89ACS\r\n\x1a\n'
    place = 8
    while place < len(data):
        marker, kind, size, number, crc = struct.unpack_from('<BcHII', data, place)
        payload = data[place + 12 : place + 12 + size]
        assert marker == 0xC5
        assert crc == zlib.crc32(data[place : place + 8] + payload)
        yield kind, number, payload
        place += 12 + size


def decode(data, levels):
    """Return frames of codes, and the length in samples.

    Args:
        data: the stream.
        levels: (codes, bias, contexts) of each level, as nested lists.
    """
    frames, samples, header = [], None, None
    for kind, number, payload in records(data):
        if kind == b'H':
            header = struct.unpack_from('<BBBBIIIHHI8s8s', payload)
        elif kind == b'P':
            assert number * header[7] == len(frames)
            frames += packet(payload, header, levels)
        else:
            samples = int.from_bytes(payload[:8], 'little')
    return frames, samples


def packet(payload, header, levels):
    """Return the frames of a packet."""
    scaled, codebooks, cardinality = header[2], header[8], header[9]
    word = int.from_bytes(payload[:2], 'little')
    count, packed = word & 0x7FFF, word >> 15
    content = payload[2 + 4 * scaled :]
    if not packed:
        return Message(content).frames(count, levels[:codebooks], cardinality)
    bits = max(1, (cardinality - 1).bit_length())
    number = int.from_bytes(content, 'big') >> (-count * codebooks * bits) % 8
    codes = []
    for _ in range(count * codebooks):
        codes.append(number & (1 << bits) - 1)
        number >>= bits
    codes.reverse()
    return [codes[one * codebooks : (one + 1) * codebooks] for one in range(count)]


def frequency(step):
    """floor(2^(20 - step / 64))."""
    value = 2 ** (1280 - step)
    for _ in range(6):
        value = isqrt(value)
    return value


class Message:
    """A message of the range coder."""

    def __init__(self, content):
        self.content = list(content)
        self.offset, self.width = 0, 2**64
        for _ in range(8):
            self.offset = self.offset * 256 + self.byte()

    def byte(self):
        return self.content.pop(0) if self.content else 0

    def symbol(self, counts):
        total = sum(counts)
        self.width //= total
        target = min(self.offset // self.width, total - 1)
        code = first = 0
        while target >= first + counts[code]:
            first += counts[code]
            code += 1
        self.offset -= first * self.width
        self.width *= counts[code]
        while self.width < 2**48:
            self.offset = (self.offset * 256 + self.byte()) * 256 + self.byte()
            self.width *= 2**16
        return code

    def frames(self, count, levels, cardinality):
        absent = [cardinality] * len(levels)
        found = []
        for _ in range(count):
            one, two = ([absent, absent, *found][-1 - back] for back in range(2))
            frame = []
            for k, (codes, bias, contexts) in enumerate(levels):
                values = [one[k], two[k], *frame[-8:]]
                rows = [context[value] for context, value in zip(contexts, values)]
                sums = [sum(column) for column in zip(*rows)]
                products = [
                    sum(a * b for a, b in zip(code, sums)) + extra
                    for code, extra in zip(codes, bias)
                ]
                highest = max(products)
                steps = [min(1280, (highest - product) >> 6) for product in products]
                frame.append(self.symbol([frequency(step) for step in steps]))
            found.append(frame)
        return found
