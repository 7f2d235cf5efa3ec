import pytest
import torch

from audiocodec.models.certificate.clicks import clicks


def test_a_step_at_a_border_is_found():
    wav = torch.sin(torch.arange(4000) / 7)[None]
    found = wav + 1e-6
    assert clicks(wav, found, [1000, 2000]) == pytest.approx((-120, -120), abs=0.5)
    found[:, 2000:2016] += 0.1  # half of the samples near one of two borders
    near, far = clicks(wav, found, [1000, 2000])
    assert near == pytest.approx(-20 - 6.02, abs=0.1)
    assert far == pytest.approx(-120, abs=0.5)


def test_no_difference_has_a_finite_level():
    assert clicks(torch.ones(1, 100), torch.ones(1, 100), [50]) == (-300, -300)


@pytest.mark.parametrize('borders', [[], [500], range(0, 120, 20)])
def test_borders_must_leave_samples_on_both_sides(borders):
    with pytest.raises(ValueError, match='borders'):
        clicks(torch.ones(1, 100), torch.ones(1, 100), borders)
