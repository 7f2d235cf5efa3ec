import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, spectral_norm, weight_norm

from audiocodec.models.formats.common.weight_norm import hook_names, parametrized_names


@pytest.mark.parametrize(
    ('older', 'newer'),
    [(weight_norm, parametrizations.weight_norm), (spectral_norm, parametrizations.spectral_norm)],
)
@pytest.mark.filterwarnings('ignore:.*weight_norm.* is deprecated:FutureWarning')
def test_older_names_load_into_parametrized_modules_and_give_the_same_weight(older, newer):
    torch.manual_seed(0)
    old = nn.Sequential(older(nn.Conv1d(3, 4, 5)), nn.Linear(2, 2))
    new = nn.Sequential(newer(nn.Conv1d(3, 4, 5)), nn.Linear(2, 2))
    old(torch.zeros(1, 3, 6))
    state = parametrized_names(old.state_dict())
    assert set(state) == set(new.state_dict())
    new.load_state_dict(state)
    new.eval()
    torch.testing.assert_close(new[0].weight, old.eval()[0].weight, rtol=1e-4, atol=1e-6)
    single = newer(nn.Conv1d(3, 4, 5))
    single.load_state_dict(parametrized_names(old[0].state_dict()))


def test_parametrized_and_other_names_stay():
    module = nn.Sequential(parametrizations.weight_norm(nn.Linear(2, 3)), nn.BatchNorm1d(3))
    state = module.state_dict()
    renamed = parametrized_names(state)
    assert list(renamed) == list(state)
    assert all(renamed[name] is state[name] for name in state)


@pytest.mark.parametrize('older', [weight_norm, spectral_norm])
@pytest.mark.filterwarnings('ignore:.*weight_norm.* is deprecated:FutureWarning')
def test_older_names_come_back_after_newer_ones(older):
    state = nn.Sequential(older(nn.Conv1d(3, 4, 5)), nn.Linear(2, 2)).state_dict()
    back = hook_names(parametrized_names(state))
    assert list(back) == list(state)
    assert all(back[name] is state[name] for name in state)
    single = older(nn.Conv1d(3, 4, 5)).state_dict()
    assert list(hook_names(parametrized_names(single))) == list(single)
