import copy

import pytest
import torch
from torch import nn

from audiocodec import kernels
from audiocodec.kernels import conv as kernel_conv
from audiocodec.kernels import narrow, winograd
from audiocodec.kernels.conv import FastConv1d, FastConv2d, FastConvTranspose1d, Geometry

PLAIN = {FastConv1d: nn.Conv1d, FastConv2d: nn.Conv2d, FastConvTranspose1d: nn.ConvTranspose1d}


@pytest.fixture
def ways(monkeypatch):
    """Which of the faster ways were gone."""
    gone = set()

    def watch(module, name):
        function = getattr(module, name)
        monkeypatch.setattr(module, name, lambda *args: gone.add(name) or function(*args))

    for module, name in (
        (narrow, 'input_gradient'),
        (kernel_conv, '_product_of_frames'),
        (winograd, 'convolve'),
        (winograd, 'gradients'),
    ):
        watch(module, name)
    monkeypatch.setattr(winograd, 'IS_FASTER', False)
    return gone


def pair(kind, *args, **kwargs):
    """A convolution, and PyTorch's own in double precision with the same weights."""
    torch.manual_seed(0)
    fast = kind(*args, **kwargs)
    plain = PLAIN[kind](*args, **kwargs)
    plain.load_state_dict(fast.state_dict())
    return fast, plain.double()


def results(conv, x):
    """Output, and gradients of input and parameters."""
    x = x.detach().clone(memory_format=torch.preserve_format).requires_grad_()
    y = conv(x)
    generator = torch.Generator().manual_seed(1)
    y.backward(torch.randn(y.shape, generator=generator).to(y))
    return [y.detach(), x.grad, *(parameter.grad for parameter in conv.parameters())]


def assert_same(fast, plain, x, tolerance=3e-6):
    """In float32, relative to the largest value: errors of single sums of thousands of terms."""
    for actual, expected in zip(results(fast, x), results(plain, x.double()), strict=True):
        scale = expected.abs().max().item()
        torch.testing.assert_close(actual.double(), expected, rtol=0, atol=tolerance * scale)


def images(channels, height=21, width=33, items=2):
    torch.manual_seed(2)
    return torch.randn(items, channels, height, width).contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize(
    ('kind', 'args', 'kwargs', 'shape'),
    [
        (FastConv1d, (6, 9, 5), {'stride': 2, 'padding': 3}, (2, 6, 40)),
        (FastConv1d, (6, 9, 3), {'dilation': 4, 'bias': False}, (2, 6, 40)),
        (FastConv1d, (6, 9, 3), {'groups': 3}, (2, 6, 40)),
        (FastConv1d, (6, 9, 3), {'padding': 'same', 'padding_mode': 'reflect'}, (2, 6, 40)),
        (FastConv1d, (6, 9, 3), {}, (6, 40)),
        (FastConvTranspose1d, (6, 9, 8), {'stride': 4, 'padding': 2}, (2, 6, 20)),
        (FastConvTranspose1d, (6, 9, 8), {'stride': 4, 'output_padding': 1}, (2, 6, 20)),
        (
            FastConv2d,
            (32, 16, (3, 9)),
            {'stride': (1, 2), 'dilation': (2, 1), 'padding': (2, 4)},
            (2, 32, 20, 30),
        ),
    ],
)
def test_values_and_gradients_are_those_of_pytorch(kind, args, kwargs, shape, ways):
    torch.manual_seed(3)
    assert_same(*pair(kind, *args, **kwargs), torch.randn(shape))
    assert not ways


def test_zeros_stand_for_the_padding_of_the_module():
    fast, plain = pair(FastConv1d, 3, 4, 5)
    x = torch.randn(2, 3, 20)
    padded = plain(nn.functional.pad(x.double(), (2, 2)))
    torch.testing.assert_close(fast(x, 2).double(), padded, rtol=1e-5, atol=1e-5)
    with torch.no_grad():
        torch.testing.assert_close(fast(x, 2).double(), padded, rtol=1e-5, atol=1e-5)


# ---- few channels --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ('channels', 'kernel', 'width'),
    [
        (2, (3, 9), 65),
        (2, (3, 9), 64),
        (2, (3, 9), 7),
        (2, (3, 9), 8),
        (1, (5, 3), 33),
        (4, (3, 9), 30),
        (8, (1, 5), 21),
    ],
)
def test_input_gradient_of_few_channels(channels, kernel, width, ways):
    padding = (kernel[0] // 2, kernel[1] // 2)
    for image in (images(channels, 6, width), images(channels, 6, width).contiguous()):
        assert_same(*pair(FastConv2d, channels, 32, kernel, padding=padding), image)
    assert ways == {'input_gradient'}


@pytest.mark.parametrize(
    'options',
    [
        {'in_channels': 16},
        {'in_channels': 3},
        {'stride': (1, 2)},
        {'dilation': (2, 1)},
        {'padding': 0},
        {'padding': 'same'},
        {'in_channels': 4, 'groups': 2},
        {'padding_mode': 'reflect'},
        {'kernel_size': (2, 9)},
    ],
)
def test_others_go_the_ordinary_way(options, ways):
    options = {
        'in_channels': 2,
        'out_channels': 4,
        'kernel_size': (3, 9),
        'padding': (1, 4),
        **options,
    }
    assert_same(*pair(FastConv2d, **options), images(options['in_channels']))
    assert not ways


def test_inference_autocast_and_other_types_go_the_ordinary_way(ways, monkeypatch):
    monkeypatch.setattr(winograd, 'IS_FASTER', True)
    conv, x = FastConv2d(32, 32, (3, 9), padding=(1, 4)), images(32)
    results(conv.double(), x.double())
    conv.float()
    with torch.autocast('cpu', dtype=torch.bfloat16):
        results(conv, x)
    assert not ways
    results(conv, x)
    assert ways == {'convolve', 'gradients'}


def test_constant_parameters_have_no_gradient(ways):
    conv, x = FastConv2d(2, 4, (3, 9), padding=(1, 4)).requires_grad_(False), images(2, 12, 12)
    assert results(conv, x)[1] is not None
    assert ways == {'input_gradient'}
    assert conv.weight.grad is None
    assert conv.bias.grad is None


# ---- few frames ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ('kind', 'args', 'kwargs', 'length'),
    [
        (FastConv1d, (20, 128, 16), {'stride': 8}, 40),
        (FastConv1d, (20, 128, 16), {'stride': 8, 'padding': 4}, 37),
        (FastConv1d, (20, 128, 3), {'padding': 1}, 5),
        (FastConvTranspose1d, (128, 20, 16), {'stride': 8}, 5),
        (FastConvTranspose1d, (128, 20, 16), {'stride': 8, 'padding': 3}, 5),
        (FastConvTranspose1d, (20, 128, 5), {'stride': 3}, 5),
    ],
)
def test_weight_gradient_of_few_frames(kind, args, kwargs, length, ways):
    torch.manual_seed(3)
    assert_same(*pair(kind, *args, **kwargs), torch.randn(3, args[0], length))
    assert ways == {'_product_of_frames'}


# ---- Winograd ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    'options',
    [
        {},
        {'dilation': (2, 1)},
        {'dilation': (4, 1)},
        {'stride': 1},
        {'dilation': (1, 2)},
        {'padding': (0, 4)},
        {'padding': (3, 0)},
        {'bias': False},
    ],
)
@pytest.mark.parametrize('height', [9, 16, 22])
def test_winograd(options, height, ways, monkeypatch):
    monkeypatch.setattr(winograd, 'IS_FASTER', True)
    options = {'stride': (1, 2), 'padding': (options.get('dilation', (1, 1))[0], 4), **options}
    assert_same(*pair(FastConv2d, 16, 32, (3, 9), **options), images(16, height, items=3))
    assert ways == {'convolve', 'gradients'}


def test_winograd_in_parts_of_a_batch(ways, monkeypatch):
    monkeypatch.setattr(winograd, 'IS_FASTER', True)
    x = images(16, items=5)
    monkeypatch.setattr(
        winograd, '_CHUNK', 2 * x[0].numel() * 6 + 1
    )  # two items, and in the end one
    assert [part for part, _ in winograd._chunks(x, Geometry((1, 2), (1, 4), (1, 1)))] == [
        slice(0, 2),
        slice(2, 4),
        slice(4, 5),
    ]
    assert_same(*pair(FastConv2d, 16, 32, (3, 9), stride=(1, 2), padding=(1, 4)), x)
    assert ways == {'convolve', 'gradients'}


@pytest.mark.parametrize('frozen', ['input', 'weight'])
def test_winograd_computes_only_what_is_wanted(frozen, monkeypatch):
    monkeypatch.setattr(winograd, 'IS_FASTER', True)
    fast, plain = pair(FastConv2d, 16, 32, (3, 9), padding=(1, 4))
    x = images(16)
    made = []
    monkeypatch.setattr(
        winograd, 'gradients', lambda *args, f=winograd.gradients: made.append(f(*args)) or made[-1]
    )
    for conv, image in ((fast, x), (plain, x.double())):
        conv.weight.requires_grad_(frozen != 'weight')
        image.requires_grad_(frozen != 'input')
        conv(image).square().sum().backward()
        wanted = image if frozen == 'weight' else conv.weight
        if conv is fast:
            grad = wanted.grad.double()
    torch.testing.assert_close(
        grad, wanted.grad, rtol=0, atol=3e-6 * wanted.grad.abs().max().item()
    )
    ((of_x, of_weight),) = made
    assert (of_x is None, of_weight is None) == (frozen == 'input', frozen == 'weight')


@pytest.mark.parametrize(
    'change',
    [
        {'stride': (2, 2)},
        {'kernel_size': (5, 9), 'padding': (2, 4)},
        {'kernel_size': (3, 3), 'padding': 1},
        {'in_channels': 8},
        {'out_channels': 1},
    ],
)
def test_winograd_is_left_where_it_does_not_fit(change, ways, monkeypatch):
    monkeypatch.setattr(winograd, 'IS_FASTER', True)
    options = {
        'in_channels': 16,
        'out_channels': 16,
        'kernel_size': (3, 9),
        'padding': (1, 4),
        **change,
    }
    assert_same(*pair(FastConv2d, **options), images(options['in_channels']))
    assert 'convolve' not in ways
    for x in (images(16).contiguous(), images(16, items=0)):
        assert not winograd.suits(x, torch.zeros(16, 16, 3, 9), Geometry((1, 1), (1, 4), (1, 1)))


# ---- as a part of larger things ------------------------------------------------------------------


@pytest.mark.parametrize('is_winograd', [False, True])
@pytest.mark.parametrize('channels', [2, 16])
def test_gradients_have_gradients(channels, is_winograd, monkeypatch):
    monkeypatch.setattr(winograd, 'IS_FASTER', is_winograd)
    fast, plain = pair(FastConv2d, channels, 16, (3, 9), padding=(1, 4))
    found = []
    for conv, x in ((fast, images(channels)), (plain, images(channels).double())):
        x.requires_grad_()
        (slope,) = torch.autograd.grad(conv(x).square().sum(), x, create_graph=True)
        slope.square().sum().backward()
        found.append([conv.weight.grad.double(), x.grad.double()])
    for actual, expected in zip(*found, strict=True):
        torch.testing.assert_close(
            actual, expected, rtol=0, atol=1e-5 * expected.abs().max().item()
        )


def test_copies_and_states_are_pytorchs_own():
    conv = FastConv2d(2, 4, (3, 9))
    assert copy.deepcopy(conv).state_dict().keys() == nn.Conv2d(2, 4, (3, 9)).state_dict().keys()


def test_the_switch_leaves_convolutions_to_pytorch(monkeypatch):
    conv, x = FastConv2d(32, 32, (3, 9), padding=(1, 4)), images(32)
    expected = results(conv, x)
    calls = []
    monkeypatch.setattr(kernel_conv, 'convolve', lambda *arguments: calls.append(1))
    kernels.use(False)
    try:
        found = results(conv, x)
    finally:
        kernels.use(True)
    assert not calls
    for one, other in zip(found, expected):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)
    assert conv(x) is None
    assert calls == [1]
