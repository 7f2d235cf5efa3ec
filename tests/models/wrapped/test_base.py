"""What all wrapped codecs share, on a codec that is as small as can be."""

from types import SimpleNamespace

import pytest
import torch

from audiocodec.models.wrapped.base import TransformersCodec


class Tiny(TransformersCodec):
    MODEL_CLASS = 'TinyModel'
    channels, hop_length, total_codebooks = 1, 4, 3

    def forward(self, wav):
        raise AssertionError

    def _encode_batch(self, wav):
        raise AssertionError

    def encode_latent(self, wav):
        raise AssertionError

    def decode_latent(self, codes):
        raise AssertionError

    def _decode_codes(self, codes):
        return codes.double().sum(1, keepdim=True)


@pytest.fixture
def codec():
    model = torch.nn.Identity()
    model.config = SimpleNamespace(sampling_rate=8000, codebook_size=16)
    return Tiny(model)


def test_figures_are_those_of_the_configuration(codec):
    assert (codec.sample_rate, codec.cardinality, codec.num_codebooks) == (8000, 16, 3)
    assert codec.frame_rate == 2000


def test_codebooks_in_use_are_possible_ones(codec):
    codec.set_num_codebooks(2)
    assert codec.num_codebooks == 2
    for number in (0, 4):
        with pytest.raises(ValueError, match=f'cannot use {number} codebooks: .* can use 1 to 3$'):
            codec.set_num_codebooks(number)
    assert codec.num_codebooks == 2


def test_codes_are_checked_before_they_are_decoded(codec):
    codes = torch.tensor([[[1, 2], [3, 4]]])
    assert codec.decode(codes).tolist() == [[[4.0, 6.0]]]
    with pytest.raises(ValueError, match='codes'):
        codec.decode(codes + 16)
    with pytest.raises(ValueError, match='does not renormalize, but got a scale'):
        codec.decode(codes, torch.ones(1, 1))


def test_the_named_class_is_loaded(monkeypatch, codec, tmp_path):
    asked = []
    monkeypatch.setattr(
        'audiocodec.models.formats.hub.build_with_transformers',
        lambda *arguments: asked.append(arguments) or codec.model,
    )
    assert isinstance(Tiny.load(tmp_path), Tiny)
    assert asked == [('TinyModel', tmp_path)]
