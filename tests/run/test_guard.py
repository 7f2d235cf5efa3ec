"""Non-finite updates: skipped without side effects, saved for inspection, and limited in number."""

import copy
import json

import numpy as np
import pytest
import soundfile
import torch

from audiocodec.utils.errors import RunError


def poison(solver, updates, value=float('nan')):
    """Put a NaN sample into the batches of the given updates."""
    plain = solver.run_step

    def run_step(wav):
        if solver.updates in updates:
            wav = wav.clone()
            wav[0, 0, 100] = value
        return plain(wav)

    solver.run_step = run_step


def weights(solver):
    return copy.deepcopy(
        [
            solver.model.state_dict(),
            solver.adversaries.discriminators.state_dict(),
            solver.optimizer.state_dict(),
            solver.adversaries.optimizer.state_dict(),
            solver.balancer.state_dict(),
        ]
    )


def tensors(state):
    if isinstance(state, torch.Tensor):
        return [state]
    values = state.values() if isinstance(state, dict) else state if isinstance(state, list) else []
    return [tensor for value in values for tensor in tensors(value)]


@pytest.mark.slow
@pytest.mark.parametrize('fused', ['true', 'false'])
@pytest.mark.parametrize('value', [float('nan'), float('inf')])
def test_a_skipped_update_changes_nothing(make_solver, fused, value):
    solver = make_solver(f'optim.optimizer.fused={fused}', f'adversarial.optimizer.fused={fused}')
    solver.model.train()
    wav = 0.1 * torch.randn(4, 1, 4000)
    assert not solver.run_step(wav)['skipped']
    before = weights(solver)
    bad = wav.clone()
    bad[1, 0, 7] = value
    metrics = solver.run_step(bad)
    assert metrics['skipped']
    after = weights(solver)
    names = [
        'codebooks.updates',
        'codebooks.cluster_size',
        'codebooks.embed',
        'codebooks.usage',
        'codebooks.dead',
    ]
    for name, tensor in before[0].items():  # codebooks learn from the finite vectors of the batch
        if not any(part in name for part in names):
            assert torch.equal(after[0][name], tensor), name
    for one, other in zip(tensors(before[1:]), tensors(after[1:])):
        assert torch.equal(one, other)
    assert all(tensor.isfinite().all() for tensor in tensors(after) if tensor.is_floating_point())
    assert not solver.run_step(wav)['skipped']


def test_discriminators_that_are_not_finite_skip_the_whole_update(make_solver, monkeypatch):
    solver = make_solver()
    solver.model.train()
    wav = 0.1 * torch.randn(4, 1, 4000)
    solver.run_step(wav)
    before = weights(solver)
    plain = solver.adversaries.criterion
    broken = plain._replace(real=lambda logits: plain.real(logits) * float('inf'))
    monkeypatch.setattr(solver.adversaries, 'criterion', broken)
    metrics = solver.run_step(wav)
    assert metrics['grad_norm'].isfinite()
    assert not metrics['d_grad_norm'].isfinite()
    assert metrics['skipped']
    for one, other in zip(tensors(before[1:4]), tensors(weights(solver)[1:4])):
        assert torch.equal(one, other)
    learnt = [
        name
        for name, tensor in before[0].items()
        if 'codebooks' not in name and not torch.equal(tensor, solver.model.state_dict()[name])
    ]
    assert learnt == []


@pytest.mark.slow
def test_the_batch_is_saved_and_the_means_are_finite(make_solver):
    solver = make_solver()
    poison(solver, {2})
    solver.run()
    (epoch,) = solver.history
    assert epoch['train']['skipped'] == 0.25
    assert all(np.isfinite(value) for value in epoch['train'].values())
    (path,) = (solver.folder / 'nonfinite').glob('*.json')
    assert path.name == 'update_3.rank_0.json'
    kept = json.loads(path.read_text())
    assert kept['metrics']['l1'] == 'nan'
    assert len(kept['items']) == 4
    solver.dataloaders['train'].set_epoch(1)
    wav, infos = list(solver.dataloaders['train'])[2]
    for item, reference, info in zip(kept['items'], wav, infos):
        assert (item['meta']['path'], item['seek_time'], item['index']) == (
            str(info.meta.path),
            info.seek_time,
            info.index,
        )
        audio, rate = soundfile.read(path.parent / item['audio'], dtype='float32')
        assert rate == 16000
        assert np.array_equal(audio, reference[0].numpy())


def test_too_many_in_a_row_end_the_run(make_solver):
    solver = make_solver('optim.max_skipped=2', 'optim.updates_per_epoch=8')
    poison(solver, {1, 3, 4, 5})
    with pytest.raises(RunError, match=r'3 updates in a row .*l1.* more than optim.max_skipped=2'):
        solver.run()
    assert solver.updates == 6
    assert len(list((solver.folder / 'nonfinite').glob('*.json'))) == 4


def test_updates_skipped_in_a_row_are_counted_across_an_interruption(make_solver):
    solver = make_solver('optim.max_skipped=2', 'checkpoint.every_updates=1')
    solver.guard.in_row = 2
    solver.save_checkpoint()
    other = make_solver('optim.max_skipped=2', 'checkpoint.every_updates=1')
    assert other.restore()
    assert other.guard.in_row == 2


def test_ratios_and_norms_are_metrics(make_solver):
    solver = make_solver()
    solver.run()
    train = solver.history[0]['train']
    ratios = [value for name, value in train.items() if name.startswith('ratio_')]
    assert len(ratios) == 4
    assert sum(ratios) == pytest.approx(1, abs=1e-5)
    assert {
        'grad_norm',
        'd_grad_norm',
        'd_msstftd_real_acc',
        'd_msstftd_fake_acc',
        'data_wait',
        'skipped',
    } <= set(train)
    assert 0 <= train['data_wait'] <= 1
