"""Payloads of packets: values that no encoder writes are taken as damage."""

import numpy as np
import pytest
from streams import CARDINALITY, LEVELS, describe

from audiocodec.bitstream.header import DamagedError
from audiocodec.bitstream.packets import Packet, from_payload, to_payload


def test_codes_out_of_range_are_damage():
    """24 entries have 5 bits, which can hold more."""
    codes = np.full((LEVELS, 10), CARDINALITY - 1)
    payload = to_payload(Packet(3, codes), describe(), None)
    packet = from_payload(3, payload, describe(), None)
    assert packet.number == 3
    assert (packet.codes == codes).all()
    codes[1, 4] = CARDINALITY
    payload = to_payload(Packet(3, codes), describe(cardinality=CARDINALITY + 1), None)
    with pytest.raises(DamagedError, match='a code of 24'):
        from_payload(3, payload, describe(), None)


@pytest.mark.parametrize('scale', [float('inf'), float('nan'), -1.0])
def test_impossible_scales_are_damage(scale):
    header = describe(renormalized=True)
    codes = np.zeros((LEVELS, 10), np.int64)
    good = to_payload(Packet(0, codes, 0.5), header, None)
    assert from_payload(0, good, header, None).scale == 0.5
    with pytest.raises(DamagedError, match=f'a scale of {scale}'):
        from_payload(0, to_payload(Packet(0, codes, scale), header, None), header, None)
