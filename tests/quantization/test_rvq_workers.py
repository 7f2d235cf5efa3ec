import runpy
from pathlib import Path

import pytest
import torch
from forked import Forked

pytestmark = pytest.mark.slow

WORKER = Path(__file__).with_name('rvq_worker.py')


@pytest.fixture(scope='module')
def single_worker():
    return runpy.run_path(str(WORKER))['train']()


@pytest.mark.parametrize('world_size', [2, pytest.param(4, marks=pytest.mark.slow)])
def test_workers_train_exactly_like_one_with_the_whole_batch(single_worker, world_size, tmp_path):
    outputs = [tmp_path / f'{rank}.pt' for rank in range(world_size)]
    workers = [
        Forked([WORKER, str(rank), str(world_size), str(tmp_path / 'rendezvous'), str(output)])
        for rank, output in enumerate(outputs)
    ]
    try:
        assert [worker.wait(timeout=120) for worker in workers] == [0] * world_size
    finally:
        for worker in workers:
            worker.kill()
    assert single_worker['revived'].min() > 0, 'the case must have dead codes at every level'
    active = single_worker['active'].unique().tolist()
    assert active == [1, 2, 3], 'the case must have dropped codebooks'
    states = [torch.load(output, weights_only=True) for output in outputs]
    for name, expected in single_worker.items():
        for state in states:
            torch.testing.assert_close(
                state[name], expected, rtol=1e-4, atol=1e-5, msg=lambda m, n=name: f'{n}: {m}'
            )
            assert torch.equal(state[name], states[0][name]), f'{name} differs between the workers'
