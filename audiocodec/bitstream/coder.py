"""Range coder with integers only (Martin 1979).

A message is one number inside an interval, which every symbol narrows to its part. Encoder and
decoder do the same integer operations, so any machine decodes what any other encoded.
"""

from collections.abc import Iterable

MAX_TOTAL = 1 << 36  # of the frequencies of a symbol: keeps the rounding below 2^-12 of a bit
_WORD = 16  # bits that move at a time
_LEAST = 1 << 48  # of the width: below it, another word moves
_START = 1 << 64
_START_BYTES = 8


def encode(intervals: Iterable[tuple[int, int, int]]) -> bytes:
    """Encode symbols.

    Args:
        intervals: of each symbol: the sum of the frequencies of those before it in the alphabet,
            its own frequency (at least 1), and the sum of all.

    Returns:
        The shortest message that decodes to them; zeros may follow it.
    """
    low, width, bits = 0, _START, 64  # the interval [low, low + width) of numbers of `bits` bits
    for first, count, total in intervals:
        width //= total
        low += first * width
        width *= count
        while width < _LEAST:
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

    def target(self, total: int) -> int:
        """Return a number below `total`, in the interval of the next symbol; `use` must follow."""
        self._width //= total
        return min(self._offset // self._width, total - 1)

    def use(self, first: int, count: int) -> None:
        """Remove the symbol of this interval."""
        self._offset -= first * self._width
        self._width *= count
        while self._width < _LEAST:
            word = self._message[self._position : self._position + 2]
            self._offset = self._offset << _WORD | int.from_bytes(word.ljust(2, b'\0'), 'big')
            self._position += 2
            self._width <<= _WORD
