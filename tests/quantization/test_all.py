"""What holds for every quantizer."""

import copy
import io
import math
import pickle

import pytest
import torch
from quantizers import ALL, CONTINUOUS, DIMENSION, DISCRETE, latents, make, train
from torch.utils._python_dispatch import TorchDispatchMode

EVERY = pytest.mark.parametrize('name', ALL)
WITH_CODES = pytest.mark.parametrize('name', DISCRETE)


def trained(name, updates=2):
    quantizer = make(name)
    train(quantizer, 0, updates)
    return quantizer


def assert_same(ours, theirs):
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        assert torch.equal(value, theirs[name]), name


@WITH_CODES
def test_forward_encode_and_decode_agree_exactly(name):
    quantizer = trained(name).eval()
    values = latents(9)
    result = quantizer(values, 75.0)
    assert result.codes.dtype == torch.int64
    assert result.codes.shape == (4, quantizer.num_codebooks, 12)
    assert 0 <= result.codes.min() <= result.codes.max() < quantizer.cardinality
    assert len(result.codes.unique()) > 1
    assert torch.equal(quantizer.encode(values), result.codes)
    assert torch.equal(quantizer.decode(result.codes), result.latents)
    # an item and a frame are coded alike in any batch
    assert torch.equal(quantizer.encode(values[1:2, :, 3:5]), result.codes[1:2, :, 3:5])


@WITH_CODES
def test_fewer_codebooks_are_the_first_ones(name):
    quantizer = trained(name).eval()
    values = latents(9)
    codes = quantizer.encode(values)
    for n in quantizer.possible_num_codebooks:
        quantizer.set_num_codebooks(n)
        assert quantizer.num_codebooks == n
        result = quantizer(values, 75.0)
        assert torch.equal(result.codes, codes[:, :n])
        assert torch.equal(quantizer.decode(codes[:, :n]), result.latents)
        expected = n * math.log2(quantizer.cardinality) * 75 / 1000
        assert quantizer.bandwidth(75.0) == pytest.approx(expected)
        assert result.bandwidth.item() == pytest.approx(expected)
        assert quantizer.bandwidth(75.0, codes.shape[1]) == pytest.approx(
            codes.shape[1] / n * expected
        )
    for n in (0, quantizer.total_codebooks + 1):
        with pytest.raises(ValueError, match=f'cannot use {n} codebooks'):
            quantizer.set_num_codebooks(n)
    assert quantizer.num_codebooks == quantizer.total_codebooks


@EVERY
def test_gradients_reach_the_latents_and_every_parameter(name):
    quantizer = make(name)
    ((result, grad),) = train(quantizer, 0, 1)
    assert grad.isfinite().all()
    assert (grad != 0).any(1).all()  # every frame
    for parameter, value in quantizer.named_parameters():
        unused = parameter == 'transform' and value.shape[0] > result.codes.shape[1]
        assert unused or value.grad.abs().sum() > 0, parameter
    assert set(result.losses) == set(quantizer.loss_terms)
    assert all(loss.dim() == 0 and loss.isfinite() for loss in result.losses.values())
    quantizer.eval()
    result = quantizer(latents(), 75.0)
    assert set(result.losses) == set(quantizer.loss_terms)


@EVERY
def test_resuming_is_exact(name):
    whole = make(name)
    expected = train(whole, 0, 5)
    interrupted = make(name)
    train(interrupted, 0, 3)
    file = io.BytesIO()
    torch.save(interrupted.state_dict(), file)
    file.seek(0)
    torch.manual_seed(1)
    resumed = ALL[name](dimension=DIMENSION).train()
    resumed.load_state_dict(torch.load(file, weights_only=True))
    found = train(resumed, 3, 5)
    for (ours, our_grad), (theirs, their_grad) in zip(found, expected[3:]):
        assert torch.equal(ours.latents, theirs.latents)
        assert torch.equal(ours.codes, theirs.codes)
        assert torch.equal(our_grad, their_grad)
        assert_same(ours.losses, theirs.losses)
        assert_same(ours.metrics, theirs.metrics)
    assert_same(resumed.state_dict(), whole.state_dict())


@EVERY
def test_float32_under_autocast(name):
    plain, cast = trained(name), trained(name)
    expected = plain(latents(9), 75.0)
    with torch.autocast('cpu', torch.bfloat16):
        found = cast(latents(9), 75.0)
        half = cast(latents(9).bfloat16(), 75.0)
    assert torch.equal(found.latents, expected.latents)
    assert torch.equal(found.codes, expected.codes)
    assert_same(found.losses, expected.losses)
    assert found.latents.dtype == torch.float32
    assert half.latents.dtype == (torch.bfloat16 if name == 'none' else torch.float32)
    with torch.autocast('cpu', torch.bfloat16):
        found = cast.eval().encode_latent(latents(9))
    assert torch.equal(found, trained(name).eval().encode_latent(latents(9)))


@WITH_CODES
def test_a_model_in_double_precision(name):
    quantizer = trained(name).eval().double()
    result = quantizer(latents(9).double(), 75.0)
    assert result.latents.dtype == torch.float64
    assert torch.equal(quantizer.decode(result.codes), result.latents)
    assert (result.codes == trained(name).eval().encode(latents(9))).float().mean() > 0.95


@EVERY
def test_copies_train_alike(name):
    quantizer = trained(name)
    copies = [copy.deepcopy(quantizer), pickle.loads(pickle.dumps(quantizer))]
    train(quantizer, 2, 4)
    for each in copies:
        train(each, 2, 4)
        assert_same(each.state_dict(), quantizer.state_dict())


@EVERY
def test_unsuitable_latents_are_refused(name):
    quantizer = trained(name)
    for mode in (True, False):
        quantizer.train(mode)
        for shape in [(4, DIMENSION - 1, 5), (DIMENSION, 5), (1, 4, DIMENSION, 5)]:
            with pytest.raises(ValueError, match=f'dimension={DIMENSION}'):
                quantizer(torch.zeros(shape), 75.0)
        with pytest.raises(ValueError, match='floating point'):
            quantizer(torch.zeros(4, DIMENSION, 5, dtype=torch.int64), 75.0)
        if name != 'none':
            with pytest.raises(ValueError, match='at least one item and one frame'):
                quantizer(torch.zeros(4, DIMENSION, 0), 75.0)


@WITH_CODES
def test_codes_of_no_frames_and_unsuitable_codes(name):
    quantizer = trained(name)
    number = quantizer.num_codebooks
    shapes = [(4, DIMENSION, 0), (0, DIMENSION, 5)]
    for shape in shapes[:1] if 'rvq' in name else shapes:
        codes = quantizer.encode(torch.zeros(shape))
        assert codes.shape == (shape[0], number, shape[2])
        assert quantizer.decode(codes).shape == shape
    with pytest.raises(ValueError, match=f'dimension={DIMENSION}'):
        quantizer.encode(torch.zeros(4, DIMENSION - 1, 5))
    with pytest.raises(ValueError, match=f'K from 1 to {number}'):
        quantizer.decode(torch.zeros(4, number + 1, 5, dtype=torch.int64))
    with pytest.raises(ValueError, match=f'expected 0 to {quantizer.cardinality - 1}'):
        quantizer.decode(torch.full((1, number, 3), quantizer.cardinality))


@WITH_CODES
def test_metrics(name):
    quantizer = make(name)
    metrics = train(quantizer, 0, 12)[-1][0].metrics
    number = quantizer.num_codebooks
    assert metrics['usage'].shape == metrics['perplexity'].shape == (number,)
    assert (metrics['usage'] > 0).all()
    assert (metrics['usage'] <= 1).all()
    assert (metrics['perplexity'] >= 1).all()
    assert (metrics['perplexity'] <= quantizer.cardinality * (1 + 1e-5)).all()
    torch.testing.assert_close(metrics['codebook_usage'], metrics['usage'].mean())
    torch.testing.assert_close(metrics['codebook_perplexity'], metrics['perplexity'].mean())
    assert metrics['codebook_usage_min'] == metrics['usage'].min()
    assert quantizer.unused_codes_advice


@EVERY
def test_dropping_statistics_keeps_encoding(name):
    quantizer = trained(name).eval()
    expected = quantizer(latents(9), 75.0)
    quantizer.drop_statistics()
    found = quantizer(latents(9), 75.0)
    assert torch.equal(found.latents, expected.latents)
    assert found.metrics.keys() <= {'sample_entropy', 'batch_entropy'}
    if quantizer.total_codebooks:
        assert torch.equal(quantizer.encode(latents(9)), expected.codes)
        assert torch.equal(quantizer.decode(expected.codes), expected.latents)
        with pytest.raises(ValueError, match='cannot be trained: train the original model'):
            quantizer.train()(latents(), 75.0)
    assert not any('statistics' in key for key in quantizer.state_dict())


@EVERY
def test_training_never_synchronizes_with_the_device(name):
    class Reads(TorchDispatchMode):
        number = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            self.number += func.overloadpacket in (
                torch.ops.aten._local_scalar_dense,
                torch.ops.aten.nonzero,
            )
            return func(*args, **(kwargs or {}))

    quantizer = trained(name)
    values = latents(9)
    with Reads() as reads:
        quantizer(values, 75.0)
    # The number of codebooks is drawn on the host.
    drops = getattr(quantizer, 'q_dropout', False) or name == 'grouped_rfsq'
    assert reads.number == (2 if name == 'grouped_rfsq' else 1 if drops else 0)


@WITH_CODES
def test_not_finite_latents_show_in_the_result(name):
    quantizer = trained(name)
    values = latents(9)
    values[0, :, 3] = float('nan')
    result = quantizer(values, 75.0)
    assert 0 <= result.codes.min() <= result.codes.max() < quantizer.cardinality
    assert not sum(result.losses.values(), result.latents.sum()).isfinite()
    quantizer.eval().encode(values)


@pytest.mark.parametrize('name', CONTINUOUS)
def test_continuous_bottlenecks_have_no_codes(name):
    quantizer = trained(name)
    result = quantizer(latents(), 75.0)
    assert result.codes.shape == (4, 0, 12)
    assert result.codes.dtype == torch.int64
    assert result.bandwidth == quantizer.bandwidth(75.0) == 0
    assert quantizer.total_codebooks == quantizer.num_codebooks == quantizer.cardinality == 0
    assert list(quantizer.possible_num_codebooks) == []
    quantizer.set_num_codebooks(0)
    kind = type(quantizer).__name__
    message = f'{kind}.* a continuous autoencoder: it has latents but no codes'
    with pytest.raises(ValueError, match=message):
        quantizer.encode(latents())
    with pytest.raises(ValueError, match=message):
        quantizer.decode(torch.zeros(4, 0, 12, dtype=torch.int64))
    with pytest.raises(ValueError, match=f'continuous autoencoder .{kind}'):
        quantizer.set_num_codebooks(2)
    # stored latents are decoded as in eval mode
    quantizer.eval()
    stored = quantizer.encode_latent(latents(9))
    assert torch.equal(quantizer.decode_latent(stored), quantizer(latents(9), 75.0).latents)


TRACEABLE = [name for name in DISCRETE if make(name).is_traceable]


def test_which_quantizers_can_be_exported():
    assert set(DISCRETE) - set(TRACEABLE) == {'grouped_rvq', 'grouped_rfsq'}


@pytest.mark.slow
@pytest.mark.parametrize('name', TRACEABLE)
def test_traced_programs_code_alike_for_any_batch_and_length(name):
    quantizer = trained(name).eval()
    batch, frames = torch.export.Dim('batch', min=1), torch.export.Dim('frames', min=2)
    values = latents(8, batch=2, frames=9)
    codes = quantizer.encode(values)
    shapes = {0: batch, 2: frames}
    encoder = export(Traced(quantizer.traced_encode, quantizer), values, shapes)
    if codes.shape[1] > 1:
        shapes = {**shapes, 1: torch.export.Dim('codebooks', min=1, max=codes.shape[1])}
    decoder = export(Traced(quantizer.traced_decode, quantizer), codes, shapes)
    for size in (1, 3):
        values = latents(9, batch=size, frames=10 * size)
        codes = quantizer.encode(values)
        assert torch.equal(encoder(values), codes)
        for n in quantizer.possible_num_codebooks:
            torch.testing.assert_close(decoder(codes[:, :n]), quantizer.decode(codes[:, :n]))


class Traced(torch.nn.Module):
    def __init__(self, function, quantizer):
        super().__init__()
        self.quantizer = quantizer
        self.function = function

    def forward(self, values):
        return self.function(values)


def export(module, values, shapes):
    with torch.no_grad():
        return torch.export.export(module, (values,), dynamic_shapes=(shapes,)).module()
