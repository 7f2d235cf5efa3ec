import os

import pytest
import torch
from noise import noisy
from odd_metrics import Fragile, Process

from audiocodec.evaluation.pool import Pair, ScoringPool
from audiocodec.metrics import SISNR, MelDistance


def pairs(count):
    estimates, references = noisy(10.0, count, 1, 4000)
    return [Pair(*both, 8000) for both in zip(estimates, references)]


def scores_of(pool, items):
    numbered = list(pool.score(enumerate(items)))
    assert [number for number, _ in numbered] == list(range(len(items)))
    return [scores for _, scores in numbered]


def test_one_process_scores_here_and_takes_items_one_by_one():
    taken = []

    def jobs():
        for number, item in enumerate(pairs(3)):
            taken.append(number)
            yield number, item

    with ScoringPool({'process': Process()}) as pool:
        for number, scores in pool.score(jobs()):
            assert scores['process'].value == os.getpid()
            assert taken == list(range(number + 1))
        assert list(pool.score([])) == []


@pytest.mark.slow
def test_processes_score_what_one_scores_and_this_one_helps():
    metrics = {'sisnr': SISNR(), 'mel': MelDistance(), 'process': Process()}
    items = pairs(40)
    with ScoringPool(metrics, 1) as pool:
        expected = scores_of(pool, items)
    with ScoringPool(metrics, 3) as pool:
        found = scores_of(pool, items)
    processes = {scores.pop('process').value for scores in found}
    assert os.getpid() in processes
    assert len(processes) >= 2
    for scores in expected:
        scores.pop('process')
    assert found == expected


@pytest.mark.slow
def test_a_process_that_dies_costs_the_scores_of_its_item_alone():
    values = [-1.0, 3.0, 1.0, 2.0]
    items = [Pair(*torch.full((2, 1, 8), value), 8000) for value in values]
    with ScoringPool({'fragile': Fragile()}, 2) as pool:
        pool._pool.submit(os.getpid).result()  # it has started
        # the first two items wait for the other process, so that this one does not take them
        found = [scores['fragile'] for scores in scores_of(pool, items)]
    assert found[0].is_error
    assert found[0].reason == 'the process of the metrics died on it'
    assert [score.value for score in found[1:]] == [3.0, 1.0, 2.0]
