import math

import pytest
import torch

from audiocodec.quantization import CodeUsage


def test_usage_and_perplexity_of_each_level_over_batches():
    usage = CodeUsage(levels=3, bins=4)
    usage.add(torch.tensor([[[0, 0, 1], [2, 2, 2], [0, 1, 2]], [[0, 0, 1], [2, 2, 2], [3, 0, 1]]]))
    usage.add(torch.tensor([[[1, 1]]]))  # the first level only
    assert usage.counts.tolist() == [[4, 4, 0, 0], [0, 0, 6, 0], [2, 2, 1, 1]]
    found = usage.compute()
    assert found['usage'].tolist() == [0.5, 0.25, 1.0]
    assert found['frames'].tolist() == [8, 6, 6]
    entropy = math.log(3) * 2 / 3 + math.log(6) / 3
    assert found['perplexity'].tolist() == pytest.approx([2, 1, math.exp(entropy)])


def test_without_codes_all_statistics_are_zero():
    found = CodeUsage(2, 4).compute(over_workers=True)
    assert {name: values.tolist() for name, values in found.items()} == {
        'usage': [0, 0],
        'perplexity': [0, 0],
        'frames': [0, 0],
    }


@pytest.mark.parametrize(
    'kind', [torch.uint8, torch.int32, torch.uint16, torch.uint32, torch.uint64]
)
def test_codes_of_other_integer_types(kind):
    usage = CodeUsage(levels=2, bins=4)
    usage.add(torch.tensor([[[0, 3, 1], [2, 2, 2]]]).to(kind))
    assert usage.counts.tolist() == [[1, 1, 0, 1], [0, 0, 3, 0]]
