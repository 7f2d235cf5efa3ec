import pytest
import torch
from items import dataset_of, tiny_model, write_items
from noise import noise

from audiocodec.data import make_loader
from audiocodec.evaluation import Codec
from audiocodec.evaluation.stage import by_length, evaluate_batches
from audiocodec.metrics import SISNR, MelDistance, MetricSuite


def test_batches_are_split_by_length():
    wav = noise(5, 1, 9)
    groups = list(by_length(wav, [9, 4, 0, 4, 9]))
    assert [group.places for group in groups] == [[0, 4], [1, 3]]
    assert torch.equal(groups[0].wav, wav[[0, 4]])
    assert torch.equal(groups[1].wav, wav[[1, 3], :, :4])


def batches(folder, batch_size):
    dataset = dataset_of(folder)
    return make_loader(dataset, batch_size=batch_size, drop_last=False)


@pytest.fixture
def folder(tmp_path):
    return write_items(tmp_path / 'items', [0.1, 0.5, 1.7, 2.9, 0.5])


@pytest.mark.parametrize('options', [{}, {'causal': False}, {'norm': 'time_group_norm'}])
def test_results_do_not_depend_on_the_batch_size(folder, options):
    """Padding of one item to the length of another must not reach the model."""
    values = []
    for batch_size in (1, 2, 5):
        suite = MetricSuite({'sisnr': SISNR(), 'mel': MelDistance()})
        codec = Codec('tiny', tiny_model(**options), [0.15, 0.45])
        rows = evaluate_batches(codec, batches(folder, batch_size), suite, named_rates=True)
        assert len(rows) == 10
        values.append(suite.compute())
    assert list(values[0]) == [
        f'{name}{suffix}' for suffix in ('_0.15kbps', '', '_0.45kbps') for name in ('sisnr', 'mel')
    ]
    assert values[0]['mel'] == values[0]['mel_0.45kbps'] != values[0]['mel_0.15kbps']
    for other in values[1:]:
        assert other == pytest.approx(values[0], rel=1e-3)


def test_rows_name_the_items(folder):
    suite = MetricSuite({'mel': MelDistance()})
    rows = evaluate_batches(Codec('tiny', tiny_model()), batches(folder, 4), suite)
    assert sorted(row['item'] for row in rows) == [0, 1, 2, 3, 4]
    assert all(f'item_{row["item"]}.wav' in row['path'] for row in rows)
    means = sum(row['mel'] for row in rows) / 5
    assert suite.compute() == {'mel': pytest.approx(means)}


def test_a_batch_that_fails_is_left_out(folder, monkeypatch):
    suite = MetricSuite({'mel': MelDistance()})
    codec = Codec('tiny', tiny_model())
    plain = codec.reconstruct

    def reconstruct(wav, sample_rate):
        if wav.shape[-1] == 800:
            raise torch.OutOfMemoryError('too long')
        return plain(wav, sample_rate)

    monkeypatch.setattr(codec, 'reconstruct', reconstruct)
    rows = evaluate_batches(codec, batches(folder, 1), suite)
    assert len(rows) == 4
    assert suite.failures.counts == {'evaluating a batch': 1}
