import runpy
from pathlib import Path

import pytest
import torch
from forked import Forked

pytestmark = pytest.mark.slow

WORKER = Path(__file__).with_name('all_worker.py')


def test_two_workers_train_like_one_with_the_whole_batch(tmp_path):
    outputs = [tmp_path / f'{rank}.pt' for rank in range(2)]
    workers = [
        Forked([WORKER, str(rank), '2', str(tmp_path / 'rendezvous'), str(output)])
        for rank, output in enumerate(outputs)
    ]
    try:
        single = runpy.run_path(str(WORKER))['train_all']()
        assert [worker.wait(timeout=120) for worker in workers] == [0, 0]
    finally:
        for worker in workers:
            worker.kill()
    states = [torch.load(output, weights_only=True) for output in outputs]
    assert states[0].keys() == states[1].keys() == single.keys()
    for name, expected in single.items():
        assert torch.equal(states[0][name], states[1][name]), f'{name} differs between the workers'
        # The commitment gradient of residual levels and the entropy are sums in another order.
        torch.testing.assert_close(
            states[0][name], expected, rtol=1e-4, atol=1e-5, msg=lambda m, n=name: f'{n}: {m}'
        )
