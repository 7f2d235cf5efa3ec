"""Range coder with integers only (Martin 1979), for symbols with frequencies that sum to 2^16.

A message is one number inside an interval, which every symbol narrows to its part. Encoder and
decoder do the same integer operations, so any machine decodes what any other encoded.
"""

from collections.abc import Callable, Iterable, Sequence

PRECISION = 16  # bits of a frequency
_WORD = 16  # bits that move at a time
_LEAST = 1 << 32  # of the width: below it, another word moves
_START = 1 << 48
_START_BYTES = 6


def encode(intervals: Iterable[tuple[int, int]]) -> bytes:
    """Encode symbols.

    Args:
        intervals: first slot and number of slots (at least 1) of each symbol, of 2^16 slots.

    Returns:
        The shortest message that decodes to them; zeros may follow it.
    """
    low, width, bits = 0, _START, 48  # the interval [low, low + width) of numbers of `bits` bits
    for first, count in intervals:
        width >>= PRECISION
        low += first * width
        width *= count
        if width < _LEAST:
            low <<= _WORD
            width <<= _WORD
            bits += _WORD
    # the number in the interval that ends with the most zeros
    for zeros in range(bits, -1, -8):
        number = -(-low >> zeros) << zeros
        if number < low + width:
            break
    return number.to_bytes(bits // 8, 'big').rstrip(b'\0')


class Decoder:
    """Decodes a message of `encode`, symbol by symbol.

    Args:
        message: the bytes; zeros follow.
    """

    def __init__(self, message: bytes) -> None:
        self._message = message + bytes(_START_BYTES)
        self._position = _START_BYTES
        self._offset = int.from_bytes(self._message[:_START_BYTES], 'big')
        self._width = _START

    def slot(self) -> int:
        """Return the slot of the next symbol, which `use` must then remove."""
        return min(self._offset // (self._width >> PRECISION), (1 << PRECISION) - 1)

    def use(self, first: int, count: int) -> None:
        """Remove the symbol with these slots."""
        part = self._width >> PRECISION
        self._offset -= first * part
        self._width = count * part
        if self._width < _LEAST:
            word = self._message[self._position : self._position + 2]
            self._offset = self._offset << _WORD | int.from_bytes(word.ljust(2, b'\0'), 'big')
            self._position += 2
            self._width <<= _WORD
