import pytest
import torch

from audiocodec.modules import Transformer, TransformerEncoder
from audiocodec.modules.networks.seanet import SEANetEncoder
from audiocodec.optim import MatrixDecayAdamW


def test_only_the_matrices_of_a_transformer_are_decayed():
    encoder = TransformerEncoder(
        SEANetEncoder(dimension=8, n_filters=2, ratios=[2]), Transformer(8, 1, 2)
    )
    before = {name: parameter.detach().clone() for name, parameter in encoder.named_parameters()}
    optimizer = MatrixDecayAdamW(encoder.parameters(), lr=0.5, weight_decay=0.2)
    for parameter in encoder.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    decayed = set()
    for name, parameter in encoder.named_parameters():
        if not torch.equal(parameter, before[name]):
            torch.testing.assert_close(parameter, 0.9 * before[name])
            decayed.add(name)
    layer = 'transformer.layers.0.'
    inner = ('attention.in_proj', 'attention.out_proj', 'linear1', 'linear2')
    assert decayed == {f'{layer}{name}.weight' for name in inner}


@pytest.mark.parametrize('fused', [None, True])
def test_steps_are_those_of_adamw(fused):
    torch.manual_seed(0)
    shapes = [(3, 4), (4,), (2, 3, 1), (5, 5)]
    ours = [torch.nn.Parameter(torch.randn(shape)) for shape in shapes]
    theirs = [torch.nn.Parameter(parameter.detach().clone()) for parameter in ours]
    options = {'lr': 0.1, 'betas': (0.5, 0.9)}
    first = MatrixDecayAdamW(ours, weight_decay=0.05, fused=fused, **options)
    second = [
        torch.optim.AdamW([p], weight_decay=0.05 if p.dim() == 2 else 0.0, **options)
        for p in theirs
    ]
    for _ in range(3):
        for mine, other in zip(ours, theirs):
            mine.grad = torch.randn_like(mine)
            other.grad = mine.grad.clone()
        first.step()
        for optimizer in second:
            optimizer.step()
    for mine, other in zip(ours, theirs):
        torch.testing.assert_close(mine, other)


def test_state_is_restored():
    parameters = [torch.nn.Parameter(torch.ones(shape)) for shape in ((2,), (2, 2))]
    optimizer = MatrixDecayAdamW(parameters, lr=0.1)
    for parameter in parameters:
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    other = MatrixDecayAdamW(parameters, lr=0.1)
    other.load_state_dict(optimizer.state_dict())
    assert [group['weight_decay'] for group in other.param_groups] == [0.0, 0.01]
    assert len(other.state) == 2
