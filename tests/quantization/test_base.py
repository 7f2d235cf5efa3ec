import pytest
import torch

from audiocodec.quantization import BaseQuantizer


class Constant(BaseQuantizer):
    """Three codebooks of 1024 entries, of which only the first entry is used."""

    cardinality = 1024
    total_codebooks = 3
    num_codebooks = 3

    def forward(self, latents, frame_rate):
        raise NotImplementedError

    def encode(self, latents):
        self._check_latents(latents)
        return torch.zeros(len(latents), self.num_codebooks, latents.shape[2], dtype=torch.int64)

    def decode(self, codes):
        return torch.zeros(len(codes), self.dimension, codes.shape[2])

    def set_num_codebooks(self, n):
        self.num_codebooks = n


def test_bandwidth_counts_the_codebooks_in_use():
    quantizer = Constant(8)
    assert quantizer.bandwidth(75.0) == pytest.approx(3 * 10 * 75 / 1000)
    quantizer.set_num_codebooks(1)
    assert quantizer.bandwidth(50.0) == pytest.approx(0.5)


def test_statistics_are_optional():
    quantizer = Constant(8)
    quantizer.settle_statistics()
    quantizer.drop_statistics()
    assert quantizer.decode(quantizer.encode(torch.zeros(2, 8, 5))).shape == (2, 8, 5)


@pytest.mark.parametrize('shape', [(4, 7, 50), (8, 50), (1, 4, 8, 50)])
def test_latents_of_other_shapes_are_refused(shape):
    with pytest.raises(ValueError, match=r'expected \[batch, 8, frames\] .* dimension=8'):
        Constant(8).encode(torch.zeros(shape))


def test_integer_latents_are_refused():
    with pytest.raises(ValueError, match=r'type torch.int64: expected floating point'):
        Constant(8).encode(torch.zeros(4, 8, 50, dtype=torch.int64))


def test_dimension_must_be_positive():
    with pytest.raises(ValueError, match=r'^dimension=0: '):
        Constant(0)
