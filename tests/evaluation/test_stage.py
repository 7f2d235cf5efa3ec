import json

import pytest
import torch
from items import dataset_of, tiny_model, write_items

from audiocodec.data import make_loader
from audiocodec.evaluation import Codec
from audiocodec.evaluation.rows import RowFile
from audiocodec.evaluation.stage import evaluate_batches
from audiocodec.metrics import SISNR, MelDistance, Metric, MetricSuite, UnscorableError


def read(folder):
    return list(RowFile(folder / 'rows.jsonl').rows.values())


def batches(folder, batch_size):
    dataset = dataset_of(folder)
    return make_loader(dataset, batch_size=batch_size, drop_last=False)


@pytest.fixture
def folder(tmp_path):
    return write_items(tmp_path / 'items', [0.1, 0.5, 1.7, 2.9, 0.5])


@pytest.mark.slow
@pytest.mark.parametrize('options', [{}, {'causal': False}, {'norm': 'time_group_norm'}])
def test_results_do_not_depend_on_the_batch_size(tmp_path, folder, options):
    """Padding of one item to the length of another must not reach the model."""
    values = []
    for batch_size in (1, 2, 5):
        suite = MetricSuite({'sisnr': SISNR(), 'mel': MelDistance()})
        codec = Codec('tiny', tiny_model(**options), [0.15, 0.45])
        out = tmp_path / str(batch_size)
        evaluate_batches(codec, batches(folder, batch_size), suite, out, named_rates=True)
        assert len(read(out)) == 10
        values.append(suite.compute())
    assert list(values[0]) == [
        f'{name}{suffix}' for suffix in ('_0.15kbps', '', '_0.45kbps') for name in ('sisnr', 'mel')
    ]
    assert values[0]['mel'] == values[0]['mel_0.45kbps'] != values[0]['mel_0.15kbps']
    for other in values[1:]:
        assert other == pytest.approx(values[0], rel=1e-3)


def test_rows_name_the_items(tmp_path, folder):
    suite = MetricSuite({'mel': MelDistance()})
    out = tmp_path / 'out'
    evaluate_batches(Codec('tiny', tiny_model()), batches(folder, 4), suite, out)
    rows = read(out)
    assert sorted(row['item'] for row in rows) == [0, 1, 2, 3, 4]
    assert all(f'item_{row["item"]}.wav' in row['path'] for row in rows)
    assert len((out / 'rows.csv').read_text().splitlines()) == 6
    assert 'mel' in json.loads((out / 'evaluation.json').read_text())['metrics']
    means = sum(row['mel'] for row in rows) / 5
    assert suite.compute() == {'mel': pytest.approx(means)}


def test_a_batch_that_fails_is_left_out(tmp_path, folder, monkeypatch):
    suite = MetricSuite({'mel': MelDistance()})
    codec = Codec('tiny', tiny_model())
    plain = codec.reconstruct

    def reconstruct(wav, sample_rate):
        if wav.shape[-1] == 800:
            raise torch.OutOfMemoryError('too long')
        return plain(wav, sample_rate)

    monkeypatch.setattr(codec, 'reconstruct', reconstruct)
    evaluate_batches(codec, batches(folder, 1), suite, tmp_path / 'out')
    assert len(read(tmp_path / 'out')) == 4
    assert suite.failures.counts == {'evaluating a batch': 1}


class Counting(Metric):
    """Counts its calls."""

    calls = 0

    def score(self, estimate, reference, sample_rate):
        Counting.calls += 1
        if reference.shape[-1] == 800:
            raise UnscorableError('too short')
        return reference.square().mean()


def interrupted(batches, after):
    for number, batch in enumerate(batches):
        if number == after:
            raise KeyboardInterrupt
        yield batch


def evaluate(folder, out, after=None, seed=0, **options):
    """Return the means, and the number of scores that were computed for them."""
    Counting.calls = 0
    suite = MetricSuite({'power': Counting()})
    found = batches(folder, 2)
    codec = Codec('tiny', tiny_model(seed), [0.15, 0.45])
    if after is not None:
        with pytest.raises(KeyboardInterrupt):
            evaluate_batches(codec, interrupted(found, after), suite, out, **options)
    else:
        evaluate_batches(codec, found, suite, out, named_rates=True, **options)
    return suite.compute(), Counting.calls


def test_an_interrupted_evaluation_goes_on(tmp_path, folder):
    whole, calls = evaluate(folder, tmp_path / 'whole')
    assert calls == 10
    assert whole['power_unscored'] == 1
    out = tmp_path / 'out'
    evaluate(folder, out, after=2)
    assert len(read(out)) == 4  # the second batch waited for the end of its scores
    assert not (out / 'evaluation.json').exists()
    assert evaluate(folder, out) == (whole, 6)
    for name in ('rows.csv', 'evaluation.json'):
        assert (out / name).exists()
    assert sorted(path.name for path in out.iterdir()) == sorted(
        path.name for path in (tmp_path / 'whole').iterdir()
    )


@pytest.mark.slow
@pytest.mark.parametrize('other', [{'seed': 1}, {'settings': {'metrics': {'power': 2}}}])
def test_scores_of_other_weights_or_settings_are_replaced(tmp_path, folder, other):
    out = tmp_path / 'out'
    evaluate(folder, out, after=2)
    (out / 'notes.txt').write_text('mine')
    assert evaluate(folder, out, **other)[1] == 10
    assert len(read(out)) == 10
    assert (out / 'notes.txt').exists()


def test_a_complete_evaluation_is_made_again(tmp_path, folder):
    first = evaluate(folder, tmp_path / 'out')
    assert evaluate(folder, tmp_path / 'out') == first


def test_scores_that_cannot_be_written_do_not_end_the_run(tmp_path, folder):
    out = tmp_path / 'out'
    out.write_text('a file')
    assert evaluate(folder, out) == evaluate(folder, tmp_path / 'whole')
