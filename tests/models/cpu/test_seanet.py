import pytest
import torch
from torch import nn

from audiocodec.models import EncodecModel
from audiocodec.models.cpu import kernels as cpu_conv
from audiocodec.models.cpu import layers as cpu_layers
from audiocodec.models.cpu import parts as cpu_parts
from audiocodec.modules import SEANetDecoder, SEANetEncoder
from audiocodec.quantization import NoQuantizer, ResidualVectorQuantizer


def make_model(dtype=torch.float64, quantizer=None, **options):
    torch.manual_seed(0)
    decoder = {
        name: options.pop(name)
        for name in ('trim_right_ratio', 'final_activation')
        if name in options
    }
    options = {
        'dimension': 6,
        'n_filters': 4,
        'n_residual_layers': 2,
        'ratios': [4, 3, 2],
        'lstm': 1,
        'norm': 'weight_norm',
        **options,
    }
    quantizer = quantizer or ResidualVectorQuantizer(dimension=6, n_q=3, bins=8, kmeans_init=False)
    model = EncodecModel(
        SEANetEncoder(**options),
        SEANetDecoder(**options, **decoder),
        quantizer,
        1000,
        options.get('channels', 1),
    )
    return model.to(dtype).eval()


@pytest.fixture(params=['products', 'convolutions'])
def fast(request, monkeypatch):
    """`for_cpu()` as it is for processors with AVX2 and others, and for layers of any size."""
    monkeypatch.setattr(cpu_conv, '_PRODUCTS', request.param == 'products')
    monkeypatch.setattr(cpu_conv, '_PAIRED', 1)
    return lambda model: model.for_cpu()


OPTIONS = {
    'plain': {},
    'causal': {'causal': True},
    'steep': {'activation_params': {'alpha': 2.5}, 'true_skip': False},
    'zeros': {'pad_mode': 'constant', 'causal': True, 'trim_right_ratio': 0.5},
    'replicate': {'pad_mode': 'replicate', 'true_skip': False},
    'circular': {'pad_mode': 'circular', 'activation': 'Softplus'},  # not zero at zero
    'group norm': {'norm': 'time_group_norm', 'lstm': 0},
    'over time': {'activation': 'Softmax', 'activation_params': {'dim': -1}},
    'long padding': {'n_residual_layers': 3, 'dilation_base': 3, 'causal': True},
    'stereo': {'channels': 2, 'norm': 'spectral_norm', 'final_activation': 'Tanh'},
}


@pytest.mark.slow
@pytest.mark.parametrize('name', OPTIONS)
@pytest.mark.parametrize('length', [1, 5, 333])  # shorter than the padding, and not whole frames
def test_it_computes_the_same(fast, name, length):
    model = make_model(**OPTIONS[name])
    fast = fast(model)
    wav = torch.randn(2, model.channels, length, dtype=torch.float64)
    before = wav.clone()
    expected, out = model(wav), fast(wav)
    assert torch.equal(out.codes, expected.codes)
    torch.testing.assert_close(out.wav, expected.wav, rtol=0, atol=1e-10)
    assert torch.equal(wav, before)  # the input is not overwritten
    codes, _ = fast.encode(wav)
    latents = fast.decode_latent(codes)
    torch.testing.assert_close(fast.decoder(latents), model.decoder(latents), rtol=0, atol=1e-10)
    assert torch.equal(latents, model.decode_latent(codes))


@pytest.mark.slow
@pytest.mark.parametrize('name', OPTIONS)
@pytest.mark.parametrize(
    'overlap', [1, 0.3]
)  # parts no longer than what one output reads, and longer ones
def test_parts_make_the_whole(monkeypatch, fast, name, overlap):
    monkeypatch.setattr(cpu_parts, '_PART', 1)
    monkeypatch.setattr(cpu_parts, '_OVERLAP', overlap)
    model = make_model(**OPTIONS[name])
    fast = fast(model)
    parts = {}
    part = cpu_parts.Chain.part

    def counted(chain, x, start, stop, length, owned):
        parts.setdefault(chain, []).append((start, stop))
        return part(chain, x, start, stop, length, owned)

    wav = torch.randn(2, model.channels, 3999, dtype=torch.float64)
    latents = model.encoder(wav)
    before = latents.clone()
    expected = model.decoder(latents)
    monkeypatch.setattr(cpu_parts.Chain, 'part', counted)
    torch.testing.assert_close(fast.encoder(wav), latents, rtol=0, atol=1e-10)
    torch.testing.assert_close(fast.decoder(latents), expected, rtol=0, atol=1e-10)
    assert torch.equal(latents, before)
    chains = {
        name: [
            module for module in getattr(fast, name).model if isinstance(module, cpu_parts.Chain)
        ]
        for name in ('encoder', 'decoder')
    }
    if name in (
        'circular',
        'group norm',
        'over time',
    ):  # only the outer convolutions are local, if at all
        assert all(len(chain.layers) == 1 for some in chains.values() for chain in some)
        return
    for some in chains.values():
        longest = max(some, key=lambda chain: len(chain.layers))
        bounds = parts[longest]
        half = len(bounds) // 2  # one item after the other
        assert bounds[:half] == bounds[half:]
        assert half >= 3
        assert [start for start, _ in bounds[1:half]] == [stop for _, stop in bounds[: half - 1]]


def test_memory_does_not_grow_with_the_length(monkeypatch):
    monkeypatch.setattr(cpu_parts, '_PART', 4000)
    fast = make_model(torch.float32, causal=True, true_skip=False).for_cpu()
    sizes = []
    for module in fast.modules():
        if isinstance(module, cpu_conv.Kernel):
            module.register_forward_hook(lambda module, args, y: sizes.append(y.numel()))
    for length in (10000, 40000):
        sizes.clear()
        fast.decoder(fast.encoder(torch.randn(1, 1, length)))
        assert 1000 < max(sizes) < 1.2 * 4000, length


def test_layers_of_many_weights_are_computed_whole(monkeypatch):
    monkeypatch.setattr(cpu_layers, '_WEIGHTS', 600)
    fast = make_model(n_filters=8).for_cpu()
    layers = [*fast.encoder.model, *fast.decoder.model]
    most = {
        in_parts: [
            max(parameter.numel() for parameter in layer.parameters())
            for layer in layers
            if isinstance(layer, cpu_parts.Chain) == in_parts
        ]
        for in_parts in (True, False)
    }
    assert 100 < max(most[True]) <= 600 < min(most[False])


def test_codes_of_single_precision_are_equal(fast):
    model = make_model(
        torch.float32,
        n_filters=8,
        ratios=[8, 5, 4, 2],
        quantizer=ResidualVectorQuantizer(dimension=6, n_q=8, bins=64, kmeans_init=False),
    )
    wav = 0.3 * torch.randn(2, 1, 16000)
    assert torch.equal(fast(model).encode(wav)[0], model.encode(wav)[0])


def kernels_of(model):
    kernels = [module for module in model.modules() if isinstance(module, cpu_conv.Kernel)]
    return {
        kind: [kernel for kernel in kernels if type(kernel) is kind]
        for kind in (cpu_conv.Kernel, cpu_conv.FewOutputs, cpu_conv.Pairs)
    }


def test_every_convolution_has_its_channels_last(monkeypatch):
    monkeypatch.setattr(cpu_conv, '_PRODUCTS', False)
    fast = make_model(n_filters=8, true_skip=False).for_cpu()
    assert not [
        module for module in fast.modules() if isinstance(module, nn.Conv1d | nn.ConvTranspose1d)
    ]
    kernels = kernels_of(fast)
    assert len(kernels[cpu_conv.Kernel]) == 2 * (2 + 3 + 3 * 2 * 3) - 1
    assert all(
        kernel.weight.is_contiguous(memory_format=torch.channels_last)
        for kernel in kernels[cpu_conv.Kernel]
    )
    assert len(kernels[cpu_conv.FewOutputs]) == 1  # the waveform


@pytest.mark.parametrize('are_fast', [True, False])
@pytest.mark.parametrize('norm', ['weight_norm', 'time_group_norm'])
def test_what_is_computed_by_products(monkeypatch, are_fast, norm):
    monkeypatch.setattr(cpu_conv, '_PRODUCTS', are_fast)
    monkeypatch.setattr(cpu_conv, '_PAIRED', 16 * 32 * 6)  # weights of the layers of stride 3
    model = make_model(n_filters=8, true_skip=False, norm=norm)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    fast = model.for_cpu()
    if norm == 'weight_norm':  # otherwise transposed convolutions are the model's
        strides = [kernel.stride for kernel in kernels_of(fast)[cpu_conv.Pairs]]
        assert strides == ([3, 4, 1, 1] if are_fast else [])
    products = [block.product for block in fast.modules() if isinstance(block, cpu_layers.Block)]
    assert len(products) == 2 * 3 * 2
    assert all(
        (product is not None) == (are_fast and norm == 'weight_norm') for product in products
    )
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_the_model_stays_as_it_was():
    model = make_model(quantizer=NoQuantizer(6))
    names, wav = list(model.state_dict()), torch.randn(1, 1, 100, dtype=torch.float64)
    expected = model(wav).wav
    fast = model.for_cpu()
    assert list(model.state_dict()) == names
    assert torch.equal(model(wav).wav, expected)
    assert not fast(wav).wav.requires_grad
    torch.testing.assert_close(fast(wav).wav, expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize('length', [1, 29, 30, 6007])
def test_snake_and_odd_strides_equal_the_plain_model(monkeypatch, length):
    torch.manual_seed(0)
    options = {
        'dimension': 6,
        'n_filters': 4,
        'ratios': [5, 3, 2],
        'activation': 'audiocodec.modules.Snake',
        'norm': 'weight_norm',
        'pad_mode': 'constant',
        'dilation_base': 3,
        'compress': 1,
    }
    model = EncodecModel(
        SEANetEncoder(**options, pad_input=True),
        SEANetDecoder(**options, trim_odd=True, final_activation='Tanh'),
        NoQuantizer(6),
        sample_rate=16000,
        channels=1,
    ).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith('alpha'):
                parameter.uniform_(0.3, 2)
        monkeypatch.setattr('audiocodec.models.cpu.parts._PART', 500)
        fast = model.for_cpu()
        wav = torch.randn(2, 1, length)
        latents, _ = model.encode_latent(wav)
        torch.testing.assert_close(fast.encode_latent(wav)[0], latents, rtol=0, atol=1e-5)
        torch.testing.assert_close(fast(wav).wav, model(wav).wav, rtol=0, atol=1e-5)
