import numpy as np
import pytest

from audiocodec.bitstream.packing import pack, unpack


def test_codes_follow_each_other_frame_by_frame_highest_bit_first():
    codes = np.array([[1, 2], [3, 0], [7, 5]])  # frames (1, 3, 7) and (2, 0, 5)
    assert pack(codes, 3) == bytes([0b00101111, 0b10100001, 0b01000000])
    assert unpack(pack(codes, 3), 3, 3, 2).tolist() == codes.tolist()


@pytest.mark.parametrize('bits', [1, 7, 8, 10, 16, 24])
def test_every_width_returns(bits):
    codes = np.random.default_rng(bits).integers(0, 2**bits, (5, 13))
    data = pack(codes, bits)
    assert len(data) == -(-5 * 13 * bits // 8)
    assert (unpack(data, bits, 5, 13) == codes).all()
