import copy
import pickle

import pytest
import torch
from torch import nn

from audiocodec.modules import SNACDecoder, SNACEncoder
from audiocodec.modules.networks.snac import NOISE_PERIOD, LocalAttention, NoiseBlock
from audiocodec.utils import distrib


def encoder(**options):
    torch.manual_seed(0)
    return SNACEncoder(**{'dimension': 16, 'n_filters': 4, 'ratios': (3, 2), **options}).eval()


def decoder(**options):
    torch.manual_seed(0)
    return SNACDecoder(**{'dimension': 16, 'n_filters': 3, 'ratios': (3, 2), **options}).eval()


# Lengths


@pytest.mark.parametrize('depthwise', [False, True])
@pytest.mark.parametrize('length', [1, 5, 6, 7, 100])
@torch.no_grad()
def test_encoder_has_a_frame_per_hop(length, depthwise):
    model = encoder(depthwise=depthwise, channels=2)
    assert (model.channels, model.dimension, model.hop_length, model.causal) == (2, 16, 6, False)
    assert model(torch.randn(2, 2, length)).shape == (2, 16, -(-length // 6))


@torch.no_grad()
def test_frames_are_a_multiple_and_end_with_encoded_zeros():
    model = encoder(frame_multiple=4)
    wav = torch.randn(1, 1, 26)
    found = model(wav)
    assert found.shape[-1] == 8
    assert torch.equal(found, model(torch.nn.functional.pad(wav, (0, 22))))
    torch.testing.assert_close(
        found[..., :5], encoder()(torch.nn.functional.pad(wav, (0, 22)))[..., :5]
    )


@pytest.mark.parametrize(
    'options', [{}, {'depthwise': False}, {'noise': False}, {'channels': 2, 'ratios': (1, 2)}]
)
@torch.no_grad()
def test_decoder_has_a_hop_per_frame(options):
    model = decoder(**options)
    wav = model(3 * torch.randn(2, 16, 5))
    assert wav.shape == (2, model.channels, 5 * model.hop_length)
    assert wav.abs().max() <= 1


def test_depthwise_convolutions_have_one_filter_per_channel():
    for model in (encoder(), decoder()):
        convs = [part for part in model.modules() if type(part).__name__.endswith('FastConv1d')]
        wide = [c for c in convs if c.kernel_size == (7,)]
        assert sum(c.groups == c.in_channels > 1 for c in wide) == len(wide) - 1
    grouped = [part for part in encoder(depthwise=False).modules() if isinstance(part, nn.Conv1d)]
    assert all(conv.groups == 1 for conv in grouped)


@pytest.mark.parametrize(
    ('build', 'options', 'expected'),
    [
        (encoder, {'dimension': 8}, 'dimension=8: a depthwise encoder with n_filters=4 and 2'),
        (encoder, {'frame_multiple': 0}, 'frame_multiple=0'),
        (encoder, {'ratios': (2, 0)}, 'ratios='),
        (encoder, {'attention_window': 4}, 'a multiple of 64 channels at the latents, got 16'),
        (decoder, {'attention_window': 0}, 'attention_window=0'),
        (decoder, {'n_filters': 0}, 'n_filters=0'),
        (decoder, {'init': 'zeros'}, "init='zeros' is unknown"),
    ],
)
def test_arguments_out_of_range_are_refused(build, options, expected):
    with pytest.raises(ValueError, match=expected):
        build(**options)


@pytest.mark.parametrize('options', [{}, {'n_filters': 16, 'attention_window': 4}])
def test_reads_are_those_of_the_gradient(options):
    for model, shape in (
        (encoder(**options, dimension=4 * options.get('n_filters', 4)), (1, 1, 1200)),
        (decoder(**options), (1, 16, 60)),
    ):
        x = torch.randn(shape, requires_grad=True)
        y = model.model(x)
        output = y.shape[-1] // 2
        (grad,) = torch.autograd.grad(y[0, :, output].square().sum(), x)
        found = grad[0].abs().sum(0).nonzero()[:, 0].tolist()
        assert model.reads(output, output) == (found[0], found[-1])


# Noise


def whitened(block):
    """Make the gain of the noise 1 for an input of ones."""
    for part in block.modules():
        if isinstance(part, nn.Conv1d):
            part.weight = torch.eye(part.in_channels)[..., None]
    return block


@torch.no_grad()
def test_noise_is_white_and_equal_in_all_channels():
    block = whitened(NoiseBlock(2)).eval()
    noise = block(torch.ones(1, 2, 20000)) - 1
    assert torch.equal(noise[:, 0], noise[:, 1])
    noise = noise[0, 0]
    assert abs(noise.mean()) < 0.03
    assert noise.std() == pytest.approx(1, abs=0.03)
    for lag in (1, 2, 100):
        assert abs((noise[lag:] * noise[:-lag]).mean()) < 0.03
    other = whitened(NoiseBlock(2, index=1)).eval()(torch.ones(1, 2, 20000))[0, 0] - 1
    assert abs((noise * other).mean()) < 0.03


@torch.no_grad()
def test_noise_of_inference_is_reproducible_and_independent_of_other_items():
    model = decoder()
    latents = torch.randn(3, 16, 8)
    assert torch.equal(model(latents), model(latents))
    torch.testing.assert_close(model(latents)[1:2], model(latents[1:2]), rtol=0, atol=1e-6)
    assert not torch.allclose(model(latents), decoder(seed=1)(latents), atol=1e-4)
    assert not torch.allclose(model(latents), decoder(noise=False)(latents), atol=1e-4)


@torch.no_grad()
def test_noise_of_training_differs_by_item_and_batch_and_continues_after_a_resume():
    block = whitened(NoiseBlock(1)).train()
    x = torch.ones(2, 1, 50)
    batches = [block(x) for _ in range(3)]
    assert not torch.equal(batches[0][0], batches[0][1])
    assert not torch.equal(batches[0], batches[1])
    resumed = NoiseBlock(1).train()
    block = whitened(NoiseBlock(1)).train()
    for _ in range(2):
        block(x)
    resumed.load_state_dict(block.state_dict())
    assert resumed.draws == 2
    assert torch.equal(resumed(x), batches[2])


@torch.no_grad()
def test_workers_draw_the_noise_of_one_with_the_whole_batch(monkeypatch):
    block = whitened(NoiseBlock(1)).train()
    expected = copy.deepcopy(block)(torch.ones(4, 1, 50))
    monkeypatch.setattr(distrib, 'world_size', lambda: 2)
    for rank in (0, 1):
        monkeypatch.setattr(distrib, 'rank', lambda rank=rank: rank)
        found = copy.deepcopy(block)(torch.ones(2, 1, 50))
        assert torch.equal(found, expected[2 * rank : 2 * rank + 2])


@torch.no_grad()
def test_noise_repeats_after_its_period():
    block = whitened(NoiseBlock(1)).eval()
    noise = block(torch.ones(1, 1, NOISE_PERIOD + 10))
    assert torch.equal(noise[..., :10], noise[..., NOISE_PERIOD:])


def test_noise_reaches_the_gain_by_the_gradient():
    model = decoder().train()
    model(torch.randn(2, 16, 4)).square().sum().backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in model.parameters())


# Attention


def attention(window=4, channels=128):
    torch.manual_seed(0)
    return LocalAttention(channels, window).eval()


@pytest.mark.parametrize('frames', [1, 4, 6, 11])
@torch.no_grad()
def test_windows_are_independent_and_the_last_may_be_shorter(frames):
    model, x = attention(), torch.randn(2, 128, frames)
    expected = torch.cat([model(part) for part in x.split(4, dim=-1)], dim=-1)
    torch.testing.assert_close(model(x), expected, rtol=0, atol=1e-5)


@torch.no_grad()
def test_attention_depends_on_the_order_in_the_window_by_distance_only():
    """Position and order matter through rotations: a reference in complex numbers."""
    model, x = attention(), torch.randn(1, 128, 4)
    qkv = model.to_qkv(model.norm(x.transpose(1, 2)))[0]  # [4, 3 * 128]
    query, key, value = (part.view(4, 2, 64) for part in qkv.split(128, dim=-1))
    rates = 10000 ** (-torch.arange(32) / 32)
    turned = [torch.complex(part[..., :32], part[..., 32:]) for part in (query, key)]
    heads = []
    for head in range(2):
        scores = torch.empty(4, 4)
        for i in range(4):
            for j in range(4):
                turn = torch.polar(torch.ones(32), (i - j) * rates)
                scores[i, j] = (turned[0][i, head] * turn * turned[1][j, head].conj()).real.sum()
        heads.append((scores / 8).softmax(-1) @ value[:, head])
    expected = x + model.to_out(torch.cat(heads, dim=-1)).t()[None]
    torch.testing.assert_close(model(x), expected, rtol=0, atol=1e-5)


@torch.no_grad()
def test_models_with_attention_take_any_length():
    model = encoder(n_filters=16, dimension=64, attention_window=4)
    assert model(torch.randn(1, 1, 31)).shape == (1, 64, 6)
    assert decoder(n_filters=16, attention_window=4)(torch.randn(1, 16, 6)).shape == (1, 1, 36)


def test_copies_and_pickles_compute_the_same():
    model, latents = decoder(n_filters=16, attention_window=4), torch.randn(1, 16, 6)
    expected = model(latents)
    assert torch.equal(copy.deepcopy(model)(latents), expected)
    assert torch.equal(pickle.loads(pickle.dumps(model))(latents), expected)
