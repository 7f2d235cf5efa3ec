import math

import pytest
import torch

from audiocodec.quantization import CodeUsage
from audiocodec.quantization.usage import CodeStatistics, UpdateCounter


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


# Statistics of training


def test_statistics_are_averages_over_about_ten_updates():
    statistics = CodeStatistics(2, 4)
    first = torch.tensor([[[0, 0, 1, 1], [3, 3, 3, 3]]])
    statistics.add(first)
    metrics = statistics.metrics(2)
    assert metrics['usage'].tolist() == [0.5, 0.25]
    torch.testing.assert_close(metrics['perplexity'], torch.tensor([2.0, 1.0]))
    assert metrics['codebook_usage'] == 0.375
    assert metrics['codebook_usage_min'] == 0.25
    torch.testing.assert_close(metrics['codebook_perplexity'], torch.tensor(1.5))
    second = torch.tensor([[[2, 2, 3, 3]]])
    statistics.add(second)  # the first codebook alone
    fractions = torch.tensor([0.09 * 0.5, 0.09 * 0.5, 0.1 * 0.5, 0.1 * 0.5])
    torch.testing.assert_close(statistics.usage[0], fractions)
    torch.testing.assert_close(statistics.usage[1], torch.tensor([0, 0, 0, 0.1]))
    for _ in range(30):
        statistics.add(second)
    assert statistics.metrics(1)['usage'].tolist() == [0.5]  # what was left behind is unused
    assert statistics.count() == 32


def test_codebooks_that_were_never_drawn_count_neither_as_unused_nor_as_used():
    statistics = CodeStatistics(3, 4)
    statistics.add(torch.tensor([[[0, 0, 1, 1], [3, 3, 3, 3]]]))
    metrics = statistics.metrics(3)
    assert metrics['usage'].tolist() == [0.5, 0.25, 0.375]
    torch.testing.assert_close(metrics['perplexity'], torch.tensor([2.0, 1.0, 1.5]))
    assert metrics['codebook_usage'] == 0.375
    assert metrics['codebook_usage_min'] == 0.25
    torch.testing.assert_close(metrics['codebook_perplexity'], torch.tensor(1.5))
    for _ in range(200):  # drawn again after long: its average vanishes, its fractions remain
        statistics.add(torch.tensor([[[0, 1, 2, 3]]]))
    assert statistics.metrics(3)['usage'].tolist() == [1.0, 0.25, 0.625]


def test_before_the_first_update_nothing_is_used():
    metrics = CodeStatistics(1, 4).metrics(1)
    assert metrics['usage'].tolist() == [0]
    assert metrics['perplexity'].tolist() == [1]


def test_large_codebooks_are_counted_in_classes():
    statistics = CodeStatistics(1, 2**62)
    assert statistics.usage.shape == (1, 2**16)
    generator = torch.Generator().manual_seed(0)
    for step in (1, 2**16, 2**40):  # regular codes spread over the classes, too
        codes = torch.arange(3000)[None, None] * step
        statistics = CodeStatistics(1, 2**62)
        statistics.add(codes)
        assert statistics.metrics(1)['perplexity'] > 2700
    statistics = CodeStatistics(1, 2**17)
    statistics.add(torch.randint(2**17, (1, 1, 3000), generator=generator))
    assert 2700 < statistics.metrics(1)['perplexity'] < 3000


def test_the_counter_survives_saving_and_not_dropping():
    counter = UpdateCounter()
    counter.advance()
    other = UpdateCounter()
    other.load_state_dict(counter.state_dict())
    other.advance()
    assert (counter.count(), other.count(), int(other.updates)) == (1, 2, 2)
    other.drop()
    assert other.state_dict() == {}
    with pytest.raises(ValueError, match='cannot be trained'):
        other.count()
