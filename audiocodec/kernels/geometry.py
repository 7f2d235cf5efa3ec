"""The geometry of a convolution."""

from typing import NamedTuple


class Geometry(NamedTuple):
    """How a convolution goes over its input; one number for each dimension besides items and
    channels.

    Attributes:
        stride: in samples.
        padding: zeros on each side.
        dilation: samples between taps.
        transposed: whether it is the transpose.
    """

    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    transposed: bool = False
