"""Training on a GPU. AUDIOCODEC_TEST_GPU=cpu runs the tests on a CPU, to test them."""

import os

import pytest
import torch

from audiocodec.quantization import ResidualVectorQuantizer
from audiocodec.quantization.kmeans import kmeans

DEVICE = os.environ.get('AUDIOCODEC_TEST_GPU', 'cuda')
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(DEVICE == 'cuda' and not torch.cuda.is_available(), reason='no GPU'),
]
ON_GPU = [f'device={DEVICE}', 'seanet.lstm=1', 'optim.lr=3e-4']
NAMES = ['l1', 'msspec', 'feat_msstftd', 'd_msstftd']


@pytest.fixture
def ieee(monkeypatch):
    """Convolutions in float32 instead of TF32, PyTorch's default."""
    monkeypatch.setattr(torch.backends.cudnn, 'allow_tf32', False)


def batch(index=0, size=4, length=4000):
    generator = torch.Generator().manual_seed(index)
    pitch = 200 + 800 * torch.rand(size, 1, 1, generator=generator)
    tone = 0.3 * torch.sin(2 * torch.pi * pitch * torch.arange(length) / 16000)
    return tone + 0.01 * torch.randn(size, 1, length, generator=generator)


def curve(solver, updates):
    solver.model.train()
    history = [solver.run_step(batch(index).to(solver.device)) for index in range(updates)]
    return torch.tensor([[metrics[name].item() for name in NAMES] for metrics in history])


@pytest.mark.usefixtures('ieee')
def test_float32_is_that_of_a_cpu(make_solver):
    on_gpu = curve(make_solver(*ON_GPU), 20)
    on_cpu = curve(make_solver(*ON_GPU, 'device=cpu'), 20)
    torch.testing.assert_close(on_gpu[:3], on_cpu[:3], rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(on_gpu, on_cpu, rtol=0.1, atol=1e-2)


def test_bfloat16_follows_float32(make_solver):
    full, half = (
        curve(make_solver(*ON_GPU), 30),
        curve(make_solver(*ON_GPU, 'precision.autocast=bfloat16'), 30),
    )
    assert not torch.equal(full, half)
    torch.testing.assert_close(half[-10:].mean(0), full[-10:].mean(0), rtol=0.15, atol=1e-2)


@pytest.mark.slow
@pytest.mark.filterwarnings('ignore::UserWarning', 'ignore::FutureWarning')
@pytest.mark.parametrize('autocast', ['null', 'bfloat16'])
def test_compiled_updates_are_those_of_eager_ones(make_solver, autocast):
    overrides = [*ON_GPU, f'precision.autocast={autocast}']
    eager, compiled = (
        curve(make_solver(*overrides), 4),
        curve(make_solver(*overrides, 'compile=true'), 4),
    )
    torch.testing.assert_close(
        compiled, eager, rtol=0.05 if autocast == 'bfloat16' else 1e-2, atol=1e-3
    )


@pytest.mark.parametrize('autocast', ['null', 'bfloat16'])
def test_an_update_never_waits_for_the_device(make_solver, autocast):
    solver = make_solver(*ON_GPU, f'precision.autocast={autocast}', 'rvq.q_dropout=true')
    solver.model.train()
    wavs = [batch(index).to(solver.device) for index in range(5)]
    for wav in wavs[:2]:  # k-means reads from the device, and libraries initialize
        solver.run_step(wav)
    mode = torch.cuda.get_sync_debug_mode() if DEVICE == 'cuda' else 0
    try:
        if DEVICE == 'cuda':
            torch.cuda.set_sync_debug_mode('error')
        for wav in wavs[2:]:
            solver.run_step(wav)
    finally:
        if DEVICE == 'cuda':
            torch.cuda.set_sync_debug_mode(mode)
    assert solver.updates == len(wavs)


def test_kmeans_is_that_of_a_cpu():
    torch.manual_seed(0)
    samples = torch.randn(8, 16)[torch.randint(0, 8, (400,))] + 0.01 * torch.randn(400, 16)
    expected, codes = kmeans(samples, 8, 20, torch.Generator().manual_seed(1))
    means, found = kmeans(samples.to(DEVICE), 8, 20, torch.Generator().manual_seed(1))
    assert torch.equal(found.cpu(), codes)
    torch.testing.assert_close(means.cpu(), expected, rtol=1e-4, atol=1e-5)


def test_the_quantizer_learns_what_it_learns_on_a_cpu():
    torch.manual_seed(0)
    latents = torch.randn(4, 8, 100)
    quantizers = [
        ResidualVectorQuantizer(8, 3, bins=16).to(device).train() for device in ('cpu', DEVICE)
    ]
    for _ in range(5):
        expected, found = (
            quantizer(latents.to(quantizer.codebooks.embed.device), 50.0)
            for quantizer in quantizers
        )
        assert (
            found.codes.cpu() == expected.codes
        ).float().mean() > 0.99  # ties may fall otherwise
    torch.testing.assert_close(
        found.losses['commitment'].cpu(), expected.losses['commitment'], rtol=1e-2, atol=1e-3
    )


def test_memory_of_an_update_does_not_grow(make_solver):
    solver = make_solver(*ON_GPU)
    curve(solver, 3)
    before = torch.cuda.memory_allocated() if DEVICE == 'cuda' else 0
    curve(solver, 5)
    after = torch.cuda.memory_allocated() if DEVICE == 'cuda' else 0
    assert after <= before
