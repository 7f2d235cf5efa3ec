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
    tickets = [pool.submit(item) for item in items]
    return [pool.result(ticket) for ticket in tickets]


def test_one_process_scores_here():
    with ScoringPool({'process': Process()}) as pool:
        (scores,) = scores_of(pool, pairs(1))
    assert scores['process'].value == os.getpid()


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
    values = [1.0, 2.0, -1.0, 3.0, 4.0]
    items = [Pair(*torch.full((2, 1, 8), value), 8000) for value in values]
    with ScoringPool({'fragile': Fragile()}, 2) as pool:
        pool._pool.submit(os.getpid).result()  # it has started
        # the fragile item is scored in the other process, not in this one
        first = [pool.submit(item) for item in items[2:4]]
        found = [pool.result(ticket)['fragile'] for ticket in first]
        later = [pool.result(pool.submit(item))['fragile'] for item in items[:2]]
    assert found[0].is_error
    assert found[0].reason == 'the process of the metrics died on it'
    assert [score.value for score in (found[1], *later)] == [3.0, 1.0, 2.0]
