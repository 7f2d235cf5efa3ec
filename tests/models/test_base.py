import copy
import io
import pickle
from concurrent.futures import ProcessPoolExecutor

import numpy as np
import pytest
import torch

from audiocodec.models import EncodecModel
from audiocodec.models.formats import hub
from audiocodec.modules import SEANetDecoder, SEANetEncoder
from audiocodec.quantization import NoQuantizer, ResidualVectorQuantizer

BINS = 16  # of the models of `form`
INTEGERS = ('int8', 'int16', 'int32', 'int64', 'uint8', 'uint16', 'uint32', 'uint64')


def audio(model, frames=13, items=2):
    """Return a waveform that is not a whole number of frames long."""
    torch.manual_seed(1)
    return 0.3 * torch.randn(items, model.channels, frames * model.hop_length - 3)


def train(model):
    """Make one update."""
    model.train().zero_grad()
    out = model(audio(model))
    (out.wav.square().mean() + out.losses['commitment']).backward()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.grad is not None:
                parameter -= 0.01 * parameter.grad


def saved(model):
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


COPIES = {
    'deepcopy': copy.deepcopy,
    'pickle': lambda model: pickle.loads(pickle.dumps(model)),
    'torch.save': saved,
}


def tensors(model):
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


def assert_same_model(model, other):
    assert type(other) is type(model)
    state, found = model.state_dict(), other.state_dict()
    assert list(found) == list(state)
    for name, value in state.items():
        assert (found[name].dtype, found[name].device) == (value.dtype, value.device), name
        assert torch.equal(found[name], value), name
    for one, two in zip(model.modules(), other.modules(), strict=True):
        assert one.training == two.training
        assert repr(one) == repr(two)
    for name, parameter in model.named_parameters():
        assert other.get_parameter(name).requires_grad == parameter.requires_grad, name
    assert (other.num_codebooks, other.built_from) == (model.num_codebooks, model.built_from)


@torch.no_grad()
def assert_same_results(model, other):
    wav = audio(model)
    model, other = copy.deepcopy(model).eval(), other.eval()
    (codes, scale), (found, found_scale) = model.encode(wav), other.encode(wav)
    assert torch.equal(found, codes)
    assert len(codes.unique()) > 1
    assert torch.equal(other.decode(found, found_scale), model.decode(codes, scale))
    assert torch.equal(other(wav).wav, model(wav).wav)


@pytest.mark.slow
@pytest.mark.parametrize('copied', COPIES.values(), ids=COPIES)
def test_copies_are_the_same_model(form, copied):
    model = form.make()
    assert_same_model(model, copied(model))
    if form.trainable:
        train(model)
    next(model.parameters()).requires_grad_(False)
    model.set_num_codebooks(2)
    other = copied(model)
    assert_same_model(model, other)
    places = {value.data_ptr() for value in tensors(model).values()}
    assert not places & {value.data_ptr() for value in tensors(other).values()}
    assert_same_results(model, other)


@pytest.mark.slow
def test_copies_after_a_move_that_follows_a_use(form):
    model = form.make().eval()
    before = model.encode(audio(model))[0]
    model.double()
    model.encode(audio(model).double())
    for copied in COPIES.values():
        other = copied(model)
        assert_same_model(model, other)
        assert torch.equal(other.float().encode(audio(model))[0], before)
    assert_same_model(
        form.make().eval().bfloat16(), pickle.loads(pickle.dumps(form.make().eval().bfloat16()))
    )


@pytest.mark.slow
def test_copies_train_alike(form):
    if not form.trainable:
        return
    model = form.make()
    train(model)
    others = [copied(model) for copied in COPIES.values()]
    before = {key: value.clone() for key, value in model.state_dict().items()}
    for other in others:
        train(other)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    train(model)
    for other in others:
        assert_same_model(model, other)
    changed = [
        key for key, value in model.state_dict().items() if not torch.equal(value, before[key])
    ]
    assert len(changed) > 10


@pytest.mark.slow
def test_copies_of_copies_and_models_for_inference_of_copies(form):
    model = form.make().eval()
    other = pickle.loads(pickle.dumps(copy.deepcopy(pickle.loads(pickle.dumps(model)))))
    assert_same_model(model, other)
    wav = audio(model)
    made = pickle.loads(pickle.dumps(other.for_inference()))
    assert torch.equal(made.encode(wav)[0], model.for_inference().encode(wav)[0])
    assert_same_results(model, other)  # for_inference did not change it


@pytest.mark.slow
def test_compiled_models_are_copied_as_they_are_not_compiled(make):
    model = make('weight_norm')
    model.encoder.compile(dynamic=False)
    for copied in COPIES.values():
        other = copied(model)
        assert other.encoder._compiled_call_impl is None
        assert_same_model(model, other)


@pytest.fixture(scope='module')
def process():
    """A spawned process, which shares no state with this one."""
    # a torchaudio that cannot be loaded must not keep the pickle of a foreign model from its
    # classes
    with ProcessPoolExecutor(
        1, torch.multiprocessing.get_context('spawn'), hub.import_transformers
    ) as pool:
        yield pool


@pytest.mark.slow
def test_models_run_in_a_process_that_is_spawned(form, process):
    model = form.make().eval()
    model.set_num_codebooks(2)
    wav = audio(model)
    codes, scale = process.submit(model.encode, wav).result()
    expected, expected_scale = model.encode(wav)
    assert torch.equal(codes, expected)
    assert scale is expected_scale is None or torch.equal(scale, expected_scale)


@pytest.mark.slow
@torch.no_grad()
def test_codes_of_every_integer_type(form):
    model = form.make().eval()
    codes, scale = model.encode(audio(model))
    wav, latents = model.decode(codes, scale), model.decode_latent(codes)
    read_only = codes.numpy().copy()
    read_only.flags.writeable = False
    kept = [codes.to(getattr(torch, kind)) for kind in INTEGERS]
    kept += [codes.numpy().astype(kind) for kind in (*INTEGERS, '>u2', '>i8')]
    kept += [read_only, codes.flip(2).numpy()[..., ::-1]]
    for stored in kept:
        assert torch.equal(model.decode(stored, scale), wav), stored.dtype
        assert torch.equal(model.decode_latent(stored), latents), stored.dtype


def test_codes_out_of_range_of_every_integer_type(form):
    model = form.make()
    wrong = [(kind, BINS) for kind in INTEGERS] + [
        (kind, -1) for kind in INTEGERS if kind[0] == 'i'
    ]
    wrong += [
        ('uint16', 2**16 - 1),
        ('uint32', 2**32 - 1),
        ('uint64', 2**63),
        ('uint64', 2**64 - 1),
    ]
    for kind, code in wrong:
        array = np.zeros((1, 2, 4), dtype=kind)
        array[0, 1, 2] = code
        for codes in (array, torch.from_numpy(array)):
            for method in (model.decode, model.decode_latent):
                with pytest.raises(
                    ValueError,
                    match=f'codes range from {min(code, 0)} to {max(code, 0)}: '
                    f'expected 0 to {BINS - 1}',
                ):
                    method(codes)


@pytest.mark.parametrize(
    ('codes', 'message'),
    [
        (
            [[[1, 2]]],
            r'codes are a list: expected a tensor or numpy array of integers \[B, K, T\]; convert '
            r'lists with torch.tensor',
        ),
        (np.zeros((1, 2, 4)), 'codes have type float64: expected integers'),
        (np.zeros((1, 2, 4), dtype=bool), 'codes have type bool: expected integers'),
        (np.zeros((2, 4), dtype=np.uint16), r'codes have shape \[2, 4\]: expected \[B, K, T\]'),
        (np.zeros((1, 5, 4), dtype=np.uint16), 'K from 1 to 4'),
        (np.array('x'), 'codes have type <U1: expected integers'),
    ],
)
def test_arrays_and_lists_that_are_not_codes(make, codes, message):
    model = make('built')
    for method in (model.decode, model.decode_latent, model.quantizer.decode):
        with pytest.raises(ValueError, match=message):
            method(codes)


@pytest.mark.slow
@torch.no_grad()
def test_waveforms_and_scales_as_arrays(form):
    model = form.make().eval()
    wav = audio(model).half().float()
    codes, scale = model.encode(wav)
    latents, wav_hat = model.encode_latent(wav)[0], model.decode(codes, scale)
    read_only = wav.numpy().copy()
    read_only.flags.writeable = False
    arrays = [wav.numpy().astype(kind) for kind in ('float16', 'float32', 'float64', '>f4', '>f8')]
    for array in (*arrays, read_only, wav.flip(2).numpy()[..., ::-1]):
        found, found_scale = model.encode(array)
        assert torch.equal(found, codes)
        assert torch.equal(model.encode_latent(array)[0], latents)
        torch.testing.assert_close(
            model(array).wav, wav_hat[..., : wav.shape[-1]], rtol=0, atol=1e-5
        )
        if scale is not None:
            assert torch.equal(found_scale, scale)
            for kind in (np.float32, np.float64):
                assert torch.equal(model.decode(codes, scale.numpy().astype(kind)), wav_hat)


def test_arrays_become_what_the_model_computes_with(make):
    model = make('weight_norm').eval().bfloat16()
    wav = audio(model).numpy()
    assert torch.equal(model.encode(wav)[0], model.encode(torch.from_numpy(wav).bfloat16())[0])
    assert make('weight_norm').to('meta').encode_latent(wav)[0].device.type == 'meta'


@pytest.mark.parametrize(
    ('wav', 'message'),
    [
        ([[[0.1]]], r'wav is a list: expected a tensor or NumPy array of floats in \[-1, 1\]'),
        (
            np.zeros((1, 1, 64), dtype=np.int16),
            r'wav has type int16: expected floats in \[-1, 1\]. Divide integers by',
        ),
        (np.zeros((1, 1, 64), dtype=np.longdouble), 'wav has type .*: expected floats'),
        (np.zeros((1, 1, 64), dtype=bool), 'wav has type bool: expected floats'),
        (np.zeros((1, 64), dtype=np.float32), r'wav has shape \[1, 64\]: expected \[B, 1, T\]'),
    ],
)
def test_arrays_and_lists_that_are_not_waveforms(make, wav, message):
    model = make('built')
    for method in (model, model.encode, model.encode_latent):
        with pytest.raises(ValueError, match=message):
            method(wav)


@pytest.mark.parametrize(('name', 'each'), [('segments', 3), ('stereo per timestep', 2)])
def test_invalid_scales(make, name, each):
    model = make(name).eval()
    codes, scale = model.encode(audio(model))
    assert scale.shape == (2, each)
    for wrong, message in (
        (scale.tolist(), 'scale is a list: expected a tensor or NumPy array of floats'),
        (scale.long(), 'scale has type torch.int64: expected floats as returned by encode'),
        (scale.to('meta'), 'scale is on meta but the model is on cpu'),
        (scale.numpy()[:1], rf'scale has shape \[1, {each}\]'),
    ):
        with pytest.raises(ValueError, match=message):
            model.decode(codes, wrong)


def test_latents_before_the_quantizer_have_the_shape_of_those_behind_it(form):
    model = form.make().eval()
    wav = audio(model)
    latents, scale = model.encode_latent(wav)
    codes, expected = model.encode(wav)
    assert latents.shape == model.decode_latent(codes).shape
    assert latents.is_floating_point()
    assert latents.requires_grad == (form.name not in ('for_inference', 'for_cpu'))
    if expected is None:
        assert scale is None
    else:
        assert torch.equal(scale, expected)
    torch.testing.assert_close(model.encode_latent(wav[:1])[0], latents[:1], rtol=0, atol=1e-5)


def model_at(rate, ratios, bins, n_q):
    """Return a model with the smallest possible parts."""
    quantizer = ResidualVectorQuantizer(dimension=6, n_q=n_q, bins=bins, kmeans_init=False)
    seanet = {'dimension': 6, 'n_filters': 1, 'ratios': ratios, 'compress': 1}
    return EncodecModel(SEANetEncoder(**seanet), SEANetDecoder(**seanet), quantizer, rate, 1)


@pytest.mark.parametrize(
    ('rate', 'numbers'),
    [
        (24000, {1.5: 2, 3.0: 4, 6.0: 8, 12.0: 16, 24.0: 32}),
        (48000, {3.0: 2, 6.0: 4, 12.0: 8, 24.0: 16}),
    ],
)
def test_bandwidths_of_encodec(rate, numbers):
    model = model_at(rate, [8, 5, 4, 2], 1024, max(numbers.values()))
    for kbps, number in numbers.items():
        model.set_bandwidth(kbps)
        assert (model.num_codebooks, model.bandwidth) == (number, kbps)
    model.set_num_codebooks(1)
    model.set_bandwidth(float('inf'))
    assert model.num_codebooks == max(numbers.values())


@pytest.mark.parametrize(
    ('kbps', 'number'),
    [
        (0.75, 1),
        (0.76, 1),
        (1.49, 1),
        (1.5, 2),
        (2.24, 2),
        (2.25, 3),
        (5.99, 7),
        (6, 8),
        (6.01, 8),
        (24, 32),
        (99, 32),
    ],
)
def test_a_bandwidth_is_not_exceeded(kbps, number):
    model = model_at(24000, [8, 5, 4, 2], 1024, 32)
    model.set_num_codebooks(5)
    model.set_bandwidth(kbps)
    assert model.num_codebooks == number


@pytest.mark.parametrize('digits', [4, 5, 6, 9])
def test_rounded_bandwidths_are_taken_for_the_exact_ones(digits):
    models = [
        model_at(44100, [8, 8, 8], 1024, 9),
        model_at(32000, [8, 5, 4, 4], 2048, 4),
        model_at(24000, [8, 5, 4, 2], 1000, 32),
        model_at(16001, [7, 5, 3], 3, 12),
    ]
    assert [round(model.bandwidth, 4) for model in models[:2]] == [7.752, 2.2]
    for model in models:
        for number in range(1, model.total_codebooks + 1):
            model.set_num_codebooks(number)
            shown = float(f'{model.bandwidth:.{digits}g}')
            model.set_num_codebooks(1)
            model.set_bandwidth(shown)
            assert model.num_codebooks == number


def test_bandwidths_that_are_impossible():
    model = model_at(24000, [8, 5, 4, 2], 1024, 4)
    model.set_num_codebooks(3)
    for kbps in (0.74, 0, -1, float('nan')):
        with pytest.raises(
            ValueError, match=rf'{kbps} kbps is below .*: use one of 0\.75, 1\.5, 2\.25, 3$'
        ):
            model.set_bandwidth(kbps)
    assert model.num_codebooks == 3
    with pytest.raises(ValueError, match='to 6 kbps: this model does not quantize'):
        EncodecModel(model.encoder, model.decoder, NoQuantizer(6), 24000, 1).set_bandwidth(6)


def test_bandwidths_of_every_form(form):
    model = form.make().eval()
    numbers = list(model.possible_num_codebooks)
    assert numbers[-1] == model.total_codebooks
    for number in numbers:
        model.set_num_codebooks(number)
        bandwidth = model.bandwidth
        model.set_num_codebooks(numbers[0])
        model.set_bandwidth(bandwidth)
        assert model.num_codebooks == number
        codes, _ = model.encode(audio(model))
        assert codes.shape[1] == number
    for number in {*range(model.total_codebooks + 2)} - {*numbers}:
        with pytest.raises(ValueError, match=f'{number} codebooks|can use 1 to 4'):
            model.set_num_codebooks(number)
    model.set_num_codebooks(numbers[0])
    with pytest.raises(ValueError, match=f'use one of {model.bandwidth:g}, '):
        model.set_bandwidth(0.9 * model.bandwidth)
