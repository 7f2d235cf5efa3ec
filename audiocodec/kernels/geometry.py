"""The geometry of a convolution."""

from typing import NamedTuple


class Geometry(NamedTuple):
    """Geometry of a convolution, with one number for each dimension after batch and channels.

    Attributes:
        stride: in samples.
        padding: zeros on each side.
        dilation: samples between taps.
        transposed: True for a transposed convolution.
    """

    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    transposed: bool = False
