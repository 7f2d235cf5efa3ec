from functools import partial

import pytest
import torch

from audiocodec.quantization import (
    FiniteScalarQuantizer,
    GroupedQuantizer,
    LookupFreeQuantizer,
    NoQuantizer,
    ResidualVectorQuantizer,
)
from audiocodec.utils.config import ConfigError, build

RVQ = partial(ResidualVectorQuantizer, n_q=3, bins=8, kmeans_iters=2)


def draw(seed=0):
    return torch.randn(4, 8, 30, generator=torch.Generator().manual_seed(seed))


def test_each_group_is_quantized_by_itself():
    grouped = GroupedQuantizer(8, 2, RVQ).train()
    alone = [RVQ(dimension=4).train() for _ in range(2)]
    for seed in range(3):
        result = grouped(draw(seed), 75.0)
        parts = [one(part, 75.0) for one, part in zip(alone, draw(seed).chunk(2, 1))]
    assert torch.equal(result.latents, torch.cat([part.latents for part in parts], 1))
    for group, part in enumerate(parts):
        assert torch.equal(result.codes[:, group::2], part.codes)
        assert torch.equal(result.metrics['usage'][group::2], part.metrics['usage'])
    losses = [part.losses['commitment'] for part in parts]
    torch.testing.assert_close(result.losses['commitment'], sum(losses) / 2)
    torch.testing.assert_close(result.bandwidth, torch.tensor(6 * 3 * 75 / 1000))
    lowest = min(part.metrics['codebook_usage_min'] for part in parts)
    assert result.metrics['codebook_usage_min'] == lowest
    torch.testing.assert_close(
        result.metrics['codebook_usage'], sum(part.metrics['codebook_usage'] for part in parts) / 2
    )


def test_numbers_of_codebooks_are_multiples_of_the_groups():
    grouped = GroupedQuantizer(8, 2, RVQ)
    assert list(grouped.possible_num_codebooks) == [2, 4, 6]
    assert (grouped.total_codebooks, grouped.num_codebooks, grouped.cardinality) == (6, 6, 8)
    grouped.set_num_codebooks(4)
    assert [one.num_codebooks for one in grouped.groups] == [2, 2]
    for n in (0, 1, 3, 5, 8):
        with pytest.raises(ValueError, match=f'cannot use {n} codebooks: .* can use 2, 4, 6'):
            grouped.set_num_codebooks(n)
    with pytest.raises(ValueError, match=r'\[1, 3, 5\]: expected .* multiple of the 2 groups'):
        grouped.decode(torch.zeros(1, 3, 5, dtype=torch.int64))


def test_a_configuration_gives_a_factory():
    node = {
        '_target_': 'audiocodec.quantization.GroupedQuantizer',
        'dimension': 8,
        'groups': 4,
        'quantizer': {
            '_target_': 'audiocodec.quantization.LookupFreeQuantizer',
            '_partial_': True,
            'bits': 3,
        },
    }
    grouped = build(node)
    assert [one.dimension for one in grouped.groups] == [2] * 4
    assert grouped.loss_terms == LookupFreeQuantizer.loss_terms
    assert '{section}.quantizer.bits' in grouped.unused_codes_advice
    weights = [one.project_in.weight for one in grouped.groups]
    assert not torch.equal(weights[0], weights[1])
    node['quantizer'] |= {'_partial_': False, 'dimension': 2}
    with pytest.raises(ConfigError, match='add _partial_: true to its node'):
        build(node)


def test_statistics_of_every_group():
    grouped = GroupedQuantizer(8, 2, RVQ).train()
    grouped(draw(), 75.0)
    grouped.settle_statistics()
    assert all(int(one.codebooks.updates) >= 2**20 for one in grouped.groups)


def test_unsuitable_arguments_are_refused():
    for groups in (0, 3):
        with pytest.raises(ValueError, match=f'groups={groups}: expected a divisor of dimension=8'):
            GroupedQuantizer(8, groups, RVQ)
    with pytest.raises(ValueError, match='quantizer=NoQuantizer has no codes to group'):
        GroupedQuantizer(8, 2, NoQuantizer)
    with pytest.raises(ValueError, match='levels='):
        GroupedQuantizer(8, 2, partial(FiniteScalarQuantizer, levels=[1]))
