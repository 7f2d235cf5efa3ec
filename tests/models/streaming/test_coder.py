"""Streams of SEANet codecs give what the whole signal gives, however it is cut."""

import io
from copy import deepcopy

import pytest
import torch

from audiocodec.models import InterleaveStereoCompressionModel
from audiocodec.models.cpu import kernels, products
from audiocodec.quantization import NoQuantizer, StridedResidualQuantizer

# with the samples of latency of encoder and decoder; a frame has 6
OPTIONS = {
    'zeros': ({}, 6, 0),
    'replicate': ({'pad_mode': 'replicate', 'lstm': 2}, 6, 0),
    'reflect': ({'pad_mode': 'reflect', 'lstm': 1, 'true_skip': False}, 6, 0),
    'shortcut': ({'true_skip': False, 'norm': 'none'}, 6, 0),
    'lookahead': ({'decoder': {'trim_right_ratio': 0.5}}, 6, 3),
    'noncausal': ({'causal': False, 'lstm': 1}, 20, 21),
    'noncausal reflect': ({'causal': False, 'pad_mode': 'reflect', 'true_skip': False}, 20, 21),
    'dilated': ({'pad_mode': 'reflect', 'n_residual_layers': 3, 'compress': 1}, 6, 0),
    'stereo': ({'channels': 2, 'causal': False, 'pad_mode': 'replicate'}, 20, 21),
    'snake': (
        {
            'activation': 'audiocodec.modules.Snake',
            'causal': False,
            'encoder': {'pad_input': True},
            'decoder': {'trim_odd': True, 'final_activation': 'Tanh'},
        },
        20,
        21,
    ),
}


@pytest.mark.parametrize('name', OPTIONS)
def test_all_pieces_together_are_the_whole(name, make_stream_codec, stream):
    model = make_stream_codec(**OPTIONS[name][0])
    encoder, decoder = model.streaming_encoder(2), model.streaming_decoder(2)
    for length in (1, 5, 6, 7, 20, 101):
        wav = torch.randn(2, model.channels, length, dtype=torch.float64)
        codes, _ = model.encode(wav)
        expected = model.decode(codes)
        for most in (1, 4, 50):
            assert torch.equal(stream(encoder, wav, most), codes), (length, most)
            found = stream(decoder, codes, most)
            assert found.shape == expected.shape
            assert (found - expected).abs().max() < 1e-12 * expected.abs().max(), (length, most)


@pytest.mark.parametrize('name', ['shortcut', 'noncausal'])
def test_kernels_for_other_processors(name, make_stream_codec, stream, monkeypatch):
    monkeypatch.setattr(kernels, '_PRODUCTS', True)  # with AVX2
    monkeypatch.setattr(kernels, '_PAIRED', 1)
    model = make_stream_codec(**OPTIONS[name][0])
    wav = torch.randn(2, 1, 101, dtype=torch.float64)
    codes, _ = model.encode(wav)
    assert torch.equal(stream(model.streaming_encoder(2), wav, 9), codes)
    found = stream(model.streaming_decoder(2), codes, 3)
    torch.testing.assert_close(found, model.decode(codes), rtol=0, atol=1e-12)


@pytest.mark.parametrize('name', ['zeros', 'reflect'])
def test_packed_weights(name, make_stream_codec, stream, monkeypatch):
    monkeypatch.setattr(products, '_MANY', 1)
    model = make_stream_codec(torch.float32, **OPTIONS[name][0])
    wav = torch.randn(1, 1, 101)
    codes, _ = model.encode(wav)
    assert torch.equal(stream(model.streaming_encoder(), wav, 9), codes)
    found = stream(model.streaming_decoder(), codes, 3)
    torch.testing.assert_close(found, model.decode(codes), rtol=0, atol=1e-6)


@torch.no_grad()
def test_a_quiet_signal_has_the_precision_of_the_kernels(make_stream_codec, stream):
    model = make_stream_codec(torch.float32, **OPTIONS['zeros'][0])
    precise = deepcopy(model).double()
    codes, _ = model.encode(0.03 * torch.randn(1, 1, 101))
    expected = precise.decode(codes)
    found = stream(model.streaming_decoder(), codes, 3)
    # the ELU of `for_cpu` is off by 6e-8, whatever the level of the signal
    bound = 1e-6 * float(expected.abs().max()) + 2e-7
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=bound)


@pytest.mark.parametrize(
    'options', [{}, {'groups': 2}, {'groups': 1, 'ratio': 0.5, 'pad_mode': 'replicate'}]
)
def test_codecs_with_transformers_stream(options, make_stream_mimi, stream):
    model = make_stream_mimi(**options)
    encoder, decoder = model.streaming_encoder(2), model.streaming_decoder(2)
    ahead = 9 if 'ratio' in options else 0  # 6 of the convolution that raises the rate
    assert (encoder.latency_samples, decoder.latency_samples) == (12, ahead)
    for length in (1, 12, 13, 200):  # more than three windows
        wav = torch.randn(2, 1, length, dtype=torch.float64)
        codes, _ = model.encode(wav)
        expected = model.decode(codes)
        for most in (1, 7, 100):
            assert torch.equal(stream(encoder, wav, most), codes), (length, most)
            found = stream(decoder, codes, most)
            torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


def test_the_state_of_a_transformer_is_saved(make_stream_mimi):
    model = make_stream_mimi(torch.float32)
    wav = torch.randn(1, 1, 200)
    encoder, other = model.streaming_encoder(), model.streaming_encoder()
    encoder.push(wav[..., :77])
    other.load_state_dict(encoder.state_dict())
    assert torch.equal(encoder.push(wav[..., 77:]), other.push(wav[..., 77:]))


@pytest.mark.parametrize('name', OPTIONS)
def test_latency(name, make_stream_codec):
    options, at_encoder, at_decoder = OPTIONS[name]
    model = make_stream_codec(**options)
    encoder, decoder = model.streaming_encoder(), model.streaming_decoder()
    assert (encoder.latency_samples, decoder.latency_samples) == (at_encoder, at_decoder)
    assert encoder.latency_ms == at_encoder  # at 1000 Hz
    wav = torch.randn(1, model.channels, 200, dtype=torch.float64)
    pieces = [encoder.push(wav[..., i : i + 1]) for i in range(200)]
    known = torch.tensor([piece.shape[-1] for piece in pieces]).cumsum(0)
    first = int((known > 0).nonzero()[0]) + 1  # samples pushed
    assert first == encoder.startup_samples
    assert first == at_encoder or 'reflect' in name or name == 'dilated'
    for frame in range(20, 28):  # each comes out with the last sample that it needs
        assert known[frame * 6 + at_encoder - 1] == frame + 1
        assert known[frame * 6 + at_encoder - 2] == frame
    codes = torch.cat([*pieces, encoder.flush()], dim=-1)
    samples = sum(decoder.push(codes[..., i : i + 1]).shape[-1] for i in range(30))
    assert samples == 30 * 6 - at_decoder


def test_latency_is_no_longer_than_the_layers_reach(make_stream_codec):
    model = make_stream_codec(causal=False, quantizer=NoQuantizer(4))
    wav = torch.randn(1, 1, 300, dtype=torch.float64)
    changed = wav.clone()
    changed[..., 20 * 6 + 20 - 1] += 1  # the last sample that frame 20 waits for
    different = (model.encode_latent(wav)[0] != model.encode_latent(changed)[0]).any(dim=1)
    assert different.nonzero()[0].tolist() == [0, 20]


@pytest.mark.parametrize('name', ['reflect', 'noncausal', 'lookahead'])
def test_a_saved_state_goes_on_bit_for_bit(name, make_stream_codec):
    model = make_stream_codec(torch.float32, **OPTIONS[name][0])
    wav = torch.randn(2, 1, 200)
    streams = model.streaming_encoder(2), model.streaming_decoder(2)
    codes = streams[0].push(wav[..., :77])
    streams[1].push(codes)
    files = []
    for stream in streams:
        files.append(io.BytesIO())
        torch.save(stream.state_dict(), files[-1])
    rest = streams[0].push(wav[..., 77:])
    expected = rest, streams[0].flush(), streams[1].push(rest), streams[1].flush()
    encoder, decoder = model.streaming_encoder(2), model.streaming_decoder(2)
    for stream, file in zip((encoder, decoder), files):
        file.seek(0)
        stream.load_state_dict(torch.load(file, weights_only=True))
    found = encoder.push(wav[..., 77:]), encoder.flush(), decoder.push(rest), decoder.flush()
    assert all(map(torch.equal, found, expected))


def test_a_fork_is_independent(make_stream_codec):
    model = make_stream_codec(lstm=1)
    wav, other = torch.randn(2, 1, 1, 100, dtype=torch.float64)
    encoder = model.streaming_encoder()
    encoder.push(wav[..., :50])
    fork = encoder.fork()
    fork.push(other)
    fork.flush()
    again = encoder.fork()
    found = [torch.cat([one.push(wav[..., 50:]), one.flush()], -1) for one in (encoder, again)]
    expected = model.encode(wav)[0][..., 8:]
    assert torch.equal(found[0], expected)
    assert torch.equal(found[1], expected)


@pytest.mark.parametrize('name', ['reflect', 'noncausal'])
@pytest.mark.parametrize('when', [60, 61])  # between frames, and within one
def test_items_that_are_reset_equal_new_ones(name, when, make_stream_codec):
    model = make_stream_codec(**OPTIONS[name][0])
    wav = torch.randn(3, 1, 150, dtype=torch.float64)
    codes, _ = model.encode(wav)
    anew, _ = model.encode(wav[1:2, :, when:])
    encoder, decoder = model.streaming_encoder(3), model.streaming_decoder(3)
    found = [[], [], []]
    wavs = [[], [], []]

    def keep(new):
        for item, count in enumerate(encoder.counts):
            found[item].append(new[item, :, :count])
            assert (new[item, :, count:] == -1).all()
        out = decoder.push(new)
        for item, count in enumerate(decoder.counts):
            wavs[item].append(out[item, :, :count])

    keep(encoder.push(wav[..., :when]))
    encoder.reset([1])
    decoder.reset([1])
    found[1], wavs[1] = [], []
    for piece in wav[..., when:].split(7, dim=-1):
        keep(encoder.push(piece))
    groups = [len(one._groups) for one in (encoder, decoder)]
    assert groups == [1 if when == 60 else 2, 1]  # together again, if in the same phase
    keep(encoder.flush())
    out = decoder.flush()
    for item, count in enumerate(decoder.counts):
        wavs[item].append(out[item, :, :count])
    for item, expected in enumerate([codes[:1], anew, codes[2:]]):
        assert torch.equal(torch.cat(found[item], -1)[None], expected)
        torch.testing.assert_close(torch.cat(wavs[item], -1)[None], model.decode(expected))


def test_a_flush_starts_a_new_signal(make_stream_codec):
    model = make_stream_codec()
    encoder, decoder = model.streaming_encoder(), model.streaming_decoder()
    assert encoder.flush().shape == (1, 2, 0)
    assert decoder.flush().shape == (1, 1, 0)
    assert decoder.push(encoder.push(torch.randn(1, 1, 5, dtype=torch.float64))).shape == (1, 1, 0)
    assert encoder.counts == decoder.counts == [0]
    assert encoder.flush().shape == (1, 2, 1)
    assert encoder.flush().shape == (1, 2, 0)


def test_quantizers_with_groups_of_frames(make_stream_codec, stream):
    quantizer = StridedResidualQuantizer(4, strides=(4, 2), bins=8, codebook_dim=2)
    model = make_stream_codec(quantizer=quantizer)
    encoder, decoder = model.streaming_encoder(), model.streaming_decoder()
    assert encoder.latency_samples == 24
    wav = torch.randn(1, 1, 100, dtype=torch.float64)  # 17 frames
    codes, _ = model.encode(wav)
    assert torch.equal(stream(encoder, wav, 9), codes)
    torch.testing.assert_close(stream(decoder, codes, 3), model.decode(codes))


def test_copies_for_inference_stream(make_stream_codec, stream):
    model = make_stream_codec()
    wav = torch.randn(1, 1, 50, dtype=torch.float64)
    codes, _ = model.encode(wav)
    for copy in (model.for_cpu(), model.for_inference()):
        assert torch.equal(stream(copy.streaming_encoder(), wav, 9), codes)


def test_the_input_may_be_overwritten(make_stream_codec):
    model = make_stream_codec(activation='LeakyReLU', activation_params={})
    encoder = model.streaming_encoder()
    wav = torch.randn(1, 1, 100, dtype=torch.float64)
    expected, _ = model.encode(wav)
    found = []
    for piece in wav.split(7, dim=-1):
        buffer = piece.clone()
        found.append(encoder.push(buffer))
        buffer.zero_()
    assert torch.equal(torch.cat([*found, encoder.flush()], -1), expected)


@pytest.mark.parametrize(
    ('options', 'reason'),
    [
        ({'norm': 'time_group_norm', 'causal': False}, 'GroupNorm averages over the whole signal'),
        ({'pad_mode': 'circular', 'causal': False}, 'pad_mode=circular'),
        ({'quantizer': NoQuantizer(4)}, 'no codes'),
    ],
)
def test_models_that_need_the_whole_signal_are_refused(options, reason, make_stream_codec):
    model = make_stream_codec(**options)
    for make in (model.streaming_encoder, model.streaming_decoder):
        with pytest.raises(ValueError, match=f'cannot stream: .*{reason}.* Use encode and decode'):
            make()


def test_wrong_use_is_refused(make_stream_codec):
    model = make_stream_codec()
    with pytest.raises(ValueError, match='InterleaveStereoCompressionModel'):
        InterleaveStereoCompressionModel(model).streaming_encoder()
    with pytest.raises(ValueError, match='batch_size'):
        model.streaming_encoder(0)
    encoder, decoder = model.streaming_encoder(2), model.streaming_decoder(1)
    wav = torch.randn(1, 1, 50, dtype=torch.float64)
    with pytest.raises(ValueError, match=r'wav has 1 items.*batch_size=2'):
        encoder.push(wav)
    with pytest.raises(ValueError, match='codes range from'):
        decoder.push(torch.full((1, 2, 3), 8))
    with pytest.raises(ValueError, match='codes range from -1'):  # not after the others
        decoder.push(torch.tensor([[[-1, 1, 2]] * 2]))
    with pytest.raises(ValueError, match=r'items=\[2\]'):
        encoder.reset([2])
    with pytest.raises(ValueError, match="stream 'encoder' with batch_size=2"):
        decoder.load_state_dict(encoder.state_dict())
    other = make_stream_codec(lstm=1).streaming_encoder(2)
    with pytest.raises(ValueError, match='not of this model'):
        other.load_state_dict(encoder.state_dict())
