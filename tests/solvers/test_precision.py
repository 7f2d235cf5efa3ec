"""Precision options, and fast paths that compute the same."""

import shutil

import pytest
import torch
from tiny import TINY
from torch import nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from audiocodec import train
from audiocodec.adversarial import AdversarialTrainer, FeatureMatchingLoss
from audiocodec.adversarial import losses as adversarial_losses
from audiocodec.kernels import conv as fast_conv
from audiocodec.kernels import winograd
from audiocodec.losses import SISNR, MelSpectrogramL1Loss, MRSTFTLoss, MultiScaleMelSpectrogramLoss
from audiocodec.modules import activation, conv, lstm
from audiocodec.solvers import precision
from audiocodec.utils.config import ConfigError

pytestmark = pytest.mark.slow

NAMES = ['l1', 'msspec', 'feat_msstftd', 'd_msstftd', 'commitment']
PLAIN = ['channels_last=false', 'optim.optimizer.fused=false', 'adversarial.optimizer.fused=false']
SMALL_ADVERSARY = [
    'adversarial=msstftd',
    'adversarial.discriminators.msstftd.filters=2',
    'adversarial.discriminators.msstftd.n_ffts=[128]',
    'adversarial.discriminators.msstftd.hop_lengths=[32]',
    'adversarial.discriminators.msstftd.win_lengths=[128]',
]
FULL = ['seanet.lstm=1', 'seanet.n_residual_layers=1', 'seanet.causal=false']


def batch(index=0, size=4, length=4000):
    """Return gliding tones in noise: something to learn."""
    generator = torch.Generator().manual_seed(index)
    time = torch.arange(length) / 16000
    pitch = 200 + 800 * torch.rand(size, 1, 1, generator=generator)
    tone = 0.3 * torch.sin(2 * torch.pi * pitch * time * (1 + time))
    return tone + 0.01 * torch.randn(size, 1, length, generator=generator)


def curve(solver, updates):
    """Return the training losses, [updates, NAMES]."""
    solver.model.train()
    history = [solver.run_step(batch(index)) for index in range(updates)]
    return torch.tensor(
        [[metrics[name].item() for name in NAMES if name in metrics] for metrics in history]
    )


def gradients(solver):
    """Return gradients of discriminators and model in one update."""
    found = []
    for optimizer in (solver.adversaries.optimizer, solver.optimizer):
        optimizer.register_step_pre_hook(
            lambda optimizer, *_: found.append(
                torch.cat(
                    [
                        parameter.grad.flatten()
                        for group in optimizer.param_groups
                        for parameter in group['params']
                    ]
                )
            )
        )
    solver.model.train()
    solver.run_step(batch())
    return found


def plainly(monkeypatch):
    """Undo everything that only saves time or memory."""
    monkeypatch.setattr('audiocodec.kernels.is_enabled', lambda: False)
    monkeypatch.setattr(activation.ELU, 'forward', nn.ELU.forward)
    monkeypatch.setattr(conv.Layers, 'forward', nn.Sequential.forward)
    monkeypatch.setattr(lstm.StreamableLSTM, '_run', without_onednn)
    monkeypatch.setattr(
        FeatureMatchingLoss,
        'forward',
        lambda self, fake, real: sum(map(F.l1_loss, fake, real)) / len(fake),
    )
    monkeypatch.setattr(AdversarialTrainer, '_generator_losses', all_at_once)


def without_onednn(self, x):
    torch._C._set_mkldnn_enabled(False)
    try:
        return self.lstm(x)[0]
    finally:
        torch._C._set_mkldnn_enabled(True)


def all_at_once(self, name, discriminator, fake, real, weights):
    logits, features = discriminator(fake)
    references = discriminator(real)[1]
    return {
        f'adv_{name}': self._mean([self.criterion.generator(logit) for logit in logits]),
        f'feat_{name}': self._mean(
            [self.feature_loss(*maps) for maps in zip(features, references)]
        ),
    }


# ---- same mathematics ----------------------------------------------------------------------------


@pytest.mark.parametrize('is_winograd', [False, True])
def test_fast_paths_give_the_gradients_of_plain_ones(make_solver, monkeypatch, is_winograd):
    # discriminators that do not move: Adam's first step is of a fixed size, in whatever direction
    # rounding says
    overrides = [
        *FULL,
        'adversarial.lr_ratio=1e-9',
        'adversarial.discriminators.msstftd.filters=16',
    ]
    monkeypatch.setattr(winograd, 'IS_FASTER', is_winograd)
    fast = gradients(make_solver(*overrides))
    plainly(monkeypatch)
    plain = gradients(make_solver(*overrides, *PLAIN))
    for actual, expected in zip(fast, plain, strict=True):
        torch.testing.assert_close(
            actual, expected, rtol=1e-4, atol=1e-4 * expected.abs().max().item()
        )
        # rounding puts some of a million values near zero on the other side of a leaky ReLU's
        # corner
        assert (actual - expected).norm() < 3e-4 * expected.norm()


def test_fast_paths_give_the_curve_of_plain_ones(make_solver, monkeypatch):
    # Slowly: at 3e-4 the adversary lets rounding grow to tens of percents within 50 updates,
    # whatever the path.
    overrides = [*FULL, 'optim.lr=1e-4']
    fast = curve(make_solver(*overrides), 50)
    plainly(monkeypatch)
    plain = curve(make_solver(*overrides, *PLAIN), 50)
    torch.testing.assert_close(fast[:5], plain[:5], rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(fast, plain, rtol=2e-2, atol=1e-4)
    msspec = plain[:, NAMES.index('msspec')]
    assert msspec[-1] < 0.8 * msspec[0], 'little was learnt: the curves say nothing'


@pytest.mark.parametrize(
    'options',
    [
        [],
        ['optim.accumulate=2'],
        [
            'precision.autocast=float16',
            'seanet.lstm=0',
            *(option for option in SMALL_ADVERSARY if 'msstftd.' in option),
        ],
    ],
    ids=['plain', 'accumulate', 'float16'],
)
def test_an_update_never_waits_for_the_device(make_solver, monkeypatch, options):
    # the number of codebooks is drawn on the host, and read there
    solver = make_solver(*FULL, 'rvq.q_dropout=false', *options)
    solver.model.train()
    solver.run_step(batch())  # initializes the codebooks, which reads
    reads = []

    class Reads(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            if function.overloadpacket in (
                torch.ops.aten._local_scalar_dense,
                torch.ops.aten.nonzero,
                torch.ops.aten.masked_select,
                torch.ops.aten.equal,
            ):
                reads.append(str(function))
            return function(*args, **(kwargs or {}))

    for name in ('item', 'tolist', 'numpy', 'cpu', '__bool__', '__float__', '__int__'):
        method = getattr(torch.Tensor, name)
        monkeypatch.setattr(
            torch.Tensor,
            name,
            lambda self, *args, name=name, method=method: (reads.append(name), method(self, *args))[
                1
            ],
        )
    with Reads():
        metrics = solver.run_step(batch(1))
    assert reads == []
    with Reads():
        assert metrics['g_loss'].item() > 0
    assert set(reads) == {'item', 'aten._local_scalar_dense.default'}, 'the counting does not count'


# ---- options -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ('override', 'changes'),
    [
        ('compile=true', False),
        ('channels_last=false', False),
        ('precision.autocast=bfloat16', True),
    ],
)
def test_what_changes_the_result_is_in_the_signature(override, changes):
    plain, other = (
        train.main.get_xp(['solver=compression/encodec_base_24khz', *more])
        for more in ([], [override])
    )
    assert (plain.sig != other.sig) == changes


@pytest.mark.parametrize(
    ('override', 'message'),
    [
        ('precision.autocast=half', 'precision.autocast=half: expected null, bfloat16 or float16'),
        ('compile=maybe', 'compile=maybe: expected true or false'),
        ('channels_last=1', 'channels_last=1: expected true or false'),
    ],
)
def test_other_values_are_refused(make_solver, override, message):
    with pytest.raises(ConfigError, match=message):
        make_solver(override)


def test_a_gpu_without_bfloat16_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, 'is_bf16_supported', lambda including_emulation: False)
    monkeypatch.setattr(torch.cuda, 'get_device_name', lambda device: 'Old Card')
    with pytest.raises(
        ConfigError, match=r'precision\.autocast=bfloat16: Old Card does not compute in bfloat16'
    ):
        precision.autocast('bfloat16', torch.device('cuda'))


@pytest.fixture
def switches():
    """Restore PyTorch's switches at the end of the test."""

    def read():
        return (
            torch.backends.cudnn.allow_tf32,
            torch.get_float32_matmul_precision(),
            torch.backends.cudnn.benchmark,
        )

    before = read()
    yield read
    torch.backends.cudnn.allow_tf32, _, torch.backends.cudnn.benchmark = before
    torch.set_float32_matmul_precision(before[1])


@pytest.mark.parametrize(
    ('overrides', 'expected'),
    [
        ([], (True, 'highest', True)),
        (
            ['precision.conv=float32', 'precision.matmul=tf32', 'precision.cudnn_benchmark=false'],
            (False, 'high', False),
        ),
    ],
)
def test_precision_of_a_gpu(make_solver, switches, overrides, expected):
    options = make_solver(*overrides).cfg.precision
    precision.set_up(options, torch.device('cuda', 0))
    assert switches() == expected
    with precision.for_any_length():
        assert switches() == (*expected[:2], False)
    assert switches() == expected


def test_precision_of_a_gpu_changes_nothing_on_a_cpu(make_solver, switches):
    before = switches()
    plain = curve(make_solver(), 3)
    assert torch.equal(
        curve(make_solver('precision.conv=float32', 'precision.matmul=tf32'), 3), plain
    )
    assert switches() == before


def test_under_autocast_the_generator_meets_discriminators_as_they_are_after_their_step(
    make_solver,
):
    # weights in themselves, which autocast could keep a copy of
    name = 'adversarial.discriminators.msstftd.norm=none'
    solver = make_solver(name, 'precision.autocast=bfloat16', 'adversarial.optimizer.lr=0.1')
    fake, real = batch(0), batch(1)
    with solver.autocast():
        solver.adversaries.train_step(fake, real)
        within = solver.adversaries.generator_losses(fake, real)
        first = next(iter(solver.adversaries.discriminators.values()))
        output = first(fake)
    with solver.autocast():
        after = solver.adversaries.generator_losses(fake, real)
        again = first(fake)
    assert all(torch.equal(within[key], after[key]) for key in after)
    torch.testing.assert_close(output, again, rtol=0, atol=0)


def test_channels_last_is_what_the_discriminators_get(make_solver):
    for wanted in (True, False):
        solver = make_solver(f'channels_last={str(wanted).lower()}')
        scale = solver.adversaries.discriminators['msstftd'].discriminators[0]
        spectrum = scale.spectrum(batch())
        assert spectrum.is_contiguous(memory_format=torch.channels_last) == wanted
        assert spectrum.is_contiguous() == (not wanted)


def test_under_autocast_losses_quantizer_spectra_and_balancer_see_float32(make_solver, monkeypatch):
    solver = make_solver(*FULL, 'precision.autocast=bfloat16', 'losses.mrstft.weight=1.0')
    solver.model.train()
    seen = {}

    def watch(owner, name, key, pick=lambda args: args[0]):
        method = getattr(owner, name)

        def call(*args, **kwargs):
            out = method(*args, **kwargs)
            tensors = [out] if isinstance(out, torch.Tensor) else []
            seen.setdefault(key, set()).update(
                tensor.dtype for tensor in [pick(args), *tensors] if tensor.is_floating_point()
            )
            return out

        monkeypatch.setattr(owner, name, call)

    watch(fast_conv.FastConv1d, '_conv_forward', 'convolution', lambda args: args[1])
    watch(torch.Tensor, 'float', 'upcast')
    watch(solver.model.quantizer.codebooks, 'learn', 'quantizer')
    watch(torch.fft, 'rfft', 'spectra')
    watch(torch, 'stft', 'discriminators')
    watch(solver.balancer, '_averaged_norms', 'balancer', lambda args: args[1][0])
    for name, loss in solver.losses.items():
        watch(loss, 'forward', f'loss {name}')
    monkeypatch.setattr(
        adversarial_losses,
        '_to_float',
        lambda values, wide=adversarial_losses._to_float: (
            seen.setdefault('features', set()).add(wide(values).dtype),
            wide(values),
        )[1],
    )
    metrics = solver.run_step(batch())
    half, full = {torch.bfloat16}, {torch.float32}
    convolutions = seen.pop('convolution')
    assert convolutions & half
    del seen['upcast']
    assert seen == dict.fromkeys(
        [
            'quantizer',
            'spectra',
            'discriminators',
            'balancer',
            'features',
            'loss l1',
            'loss msspec',
            'loss mel',
            'loss mrstft',
            'loss sisnr',
        ],
        full,
    )
    assert all(value.dtype != torch.bfloat16 for value in metrics.values())
    assert all(parameter.dtype == torch.float32 for parameter in solver.model.parameters())


@pytest.mark.parametrize(
    'loss',
    [
        MelSpectrogramL1Loss(16000),
        MultiScaleMelSpectrogramLoss(16000),
        MRSTFTLoss(),
        SISNR(16000),
        lambda wav_hat, wav: FeatureMatchingLoss()([wav_hat], [wav]),
        lambda wav_hat, wav: adversarial_losses.get_criterion('hinge').fake(wav_hat),
        lambda wav_hat, wav: adversarial_losses.get_criterion('mse').real(wav_hat),
    ],
)
def test_under_autocast_losses_have_the_values_and_gradients_of_float32(loss):
    def measure(enabled):
        wav_hat = batch(0).requires_grad_()
        with torch.autocast('cpu', dtype=torch.bfloat16, enabled=enabled):
            value = loss(wav_hat, batch(1))
        return value.detach(), *torch.autograd.grad(
            value, wav_hat
        )  # the balancer leaves autocast, too

    for actual, expected in zip(measure(True), measure(False), strict=True):
        assert actual.dtype == torch.float32
        assert torch.equal(actual, expected)


def test_training_in_bfloat16_follows_float32(make_solver):
    overrides = [
        *FULL,
        'optim.lr=3e-4',
    ]  # at 1e-3 the adversary lets rounding grow to a fifth within 30 updates
    full, half = (
        curve(make_solver(*overrides), 30),
        curve(make_solver(*overrides, 'precision.autocast=bfloat16'), 30),
    )
    assert not torch.equal(full, half)
    torch.testing.assert_close(half[:5], full[:5], rtol=0.1, atol=1e-3)
    torch.testing.assert_close(half[-10:].mean(0), full[-10:].mean(0), rtol=0.05, atol=1e-3)


@pytest.mark.filterwarnings('ignore::UserWarning', 'ignore::FutureWarning')
@pytest.mark.parametrize(
    ('backend', 'least', 'overrides'),
    [
        # encoder, decoder; the discriminator's training, and audio with and without gradient
        ('aot_eager', 5, SMALL_ADVERSARY),
        # the C++ compiler takes ten seconds for each graph
        ('inductor', 2, ['adversarial=none', 'seanet.ratios=[8]']),
    ],
)
def test_compiled_updates_are_those_of_eager_ones(
    make_solver, monkeypatch, backend, least, overrides
):
    from torch._dynamo.utils import counters
    from torch._inductor import config as inductor

    if shutil.which('g++') is None and shutil.which('clang++') is None:
        pytest.skip('compiling for a CPU needs a C++ compiler')
    if backend != 'inductor':
        compiled = torch.compile
        monkeypatch.setattr(torch, 'compile', lambda part, **_: compiled(part, backend=backend))
    base = [option for option in TINY if not option.startswith('adversarial')]
    options = [*overrides, 'optim.lr=1e-3']
    eager = curve(make_solver(*options, base=base), 4)
    solver = make_solver(*options, 'compile=true', base=base)
    names = list(solver.state_dict()['model'])
    counters.clear()
    with inductor.patch(compile_threads=1):
        found = curve(solver, 4)
    # a nearly tied code may be another
    torch.testing.assert_close(found, eager, rtol=1e-2, atol=1e-4)
    graphs = counters['stats']['unique_graphs']
    assert graphs >= least
    curve(solver, 2)
    assert list(solver.state_dict()['model']) == names
    with solver.averaged_model():  # of any length: without being compiled for
        solver.valid_step(batch(length=1234))
    assert counters['stats']['unique_graphs'] == graphs
