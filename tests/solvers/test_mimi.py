"""The recipe of Mimi, tiny: with a teacher, and with adversarial and feature losses only."""

import copy

import pytest
import torch
from tiny import TINY

pytestmark = pytest.mark.slow

MIMI = [
    'solver=compression/mimi_24khz',
    'dset=audio/example',
    *(key for key in TINY[1:] if not key.startswith(('rvq.', 'adversarial=', 'dataset.segment'))),
    'seanet.ratios=[4,2]',
    'seanet.init=lecun_normal',
    'transformer.num_layers=1',
    'transformer.num_heads=2',
    'transformer.hidden_dimension=16',
    'quantizer.n_q=3',
    'quantizer.bins=16',
    'quantizer.codebook_dimension=6',
]
ONLY_ADVERSARIAL = ['losses.l1.weight=null', 'losses.msspec.weight=null']


def batch(seed=0):
    generator = torch.Generator().manual_seed(seed)
    return 0.1 * torch.randn(4, 1, 4800, generator=generator)


def changed_parts(solver, updates=2):
    """Run updates; return the metrics of the last, and the parts of the model that changed."""
    before = {name: p.detach().clone() for name, p in solver.model.named_parameters()}
    for seed in range(updates):
        metrics = solver.run_step(batch(seed))
    assert not metrics['skipped']
    return metrics, {
        '.'.join(name.split('.')[:2])
        for name, parameter in solver.model.named_parameters()
        if not torch.equal(parameter, before[name])
    }


ALL_PARTS = {
    'encoder.encoder',
    'encoder.transformer',
    'encoder.downsample',
    'decoder.upsample',
    'decoder.transformer',
    'decoder.decoder',
    'quantizer.semantic',
    'quantizer.acoustic',
}


def test_adversarial_and_feature_losses_alone_train_every_part(make_solver):
    solver = make_solver(*ONLY_ADVERSARIAL, base=MIMI)
    solver.model.train()
    assert solver.balancer.weights == {'adv_msstftd': 4.0, 'feat_msstftd': 4.0}
    assert not solver.trained
    metrics, changed = changed_parts(solver)
    assert changed == ALL_PARTS
    assert 'msspec' not in metrics
    assert solver.model.frame_rate == 24000 / 16
    assert solver.optimizer.param_groups[1]['weight_decay'] == 0.05
    assert {p.dim() for p in solver.optimizer.param_groups[1]['params']} == {2}


def test_distillation_trains_its_projection_and_is_resumed(make_solver, tmp_path):
    pytest.importorskip('transformers')
    from teachers import save_teacher

    save_teacher(tmp_path / 'teacher')
    teacher = ['losses.distill.weight=1', f'losses.distill.teacher={tmp_path}/teacher']
    solver = make_solver(*teacher, base=MIMI)
    solver.model.train()
    projection = solver.trained_on_output['distill'].projection.weight
    before = projection.detach().clone()
    metrics, changed = changed_parts(solver)
    assert changed == ALL_PARTS
    assert 0 < metrics['distill'] < 2
    assert not torch.equal(projection, before)
    state = copy.deepcopy(solver.state_dict())  # optimizers share what they load
    other = make_solver(*teacher, base=MIMI)
    other.load_state_dict(state)
    other.model.train()
    found = [each.run_step(batch(7)) for each in (solver, other)]
    assert torch.equal(found[0]['g_loss'], found[1]['g_loss'])
    assert torch.equal(found[0]['distill'], found[1]['distill'])
    for ours, theirs in zip(solver.parameters, other.parameters):
        assert torch.equal(ours, theirs)


def test_a_weight_without_a_teacher_is_reported(make_solver):
    with pytest.raises(ValueError, match=r'distill.teacher=null: expected a folder'):
        make_solver('losses.distill.weight=1', base=MIMI)
