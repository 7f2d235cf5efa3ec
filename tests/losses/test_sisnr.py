import pytest
import torch

from audiocodec.dsp.sisnr import si_snr
from audiocodec.losses import SISNR


def test_loss_is_the_negated_mean_si_snr_in_db():
    generator = torch.Generator().manual_seed(0)
    reference = torch.randn(3, 2, 4000, generator=generator)
    estimate = reference + 0.1 * torch.randn(3, 2, 4000, generator=generator)
    loss = SISNR(sample_rate=1000, segment=1.0)(estimate, reference)
    assert loss.item() == pytest.approx(-si_snr(estimate, reference, 1000).mean().item())
    assert -21 < loss.item() < -18


def test_gradient_descent_increases_the_ratio():
    generator = torch.Generator().manual_seed(0)
    reference = torch.randn(1, 1, 1000, generator=generator)
    estimate = torch.randn(1, 1, 1000, generator=generator).requires_grad_()
    before = SISNR(1000, segment=None)(estimate, reference)
    before.backward()
    after = SISNR(1000, segment=None)(estimate - 10 * estimate.grad, reference)
    assert after < before


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        ({'overlap': 1.0}, r'overlap must be in \[0, 1\), got 1'),
        ({'overlap': -0.1}, 'overlap'),
        ({'segment': 0.0}, 'segment must be longer, got 0'),
        ({'segment': 1e-4, 'sample_rate': 16000}, 'segment must be longer'),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        SISNR(**arguments)
