import json
import logging
import pickle
import stat
import sys
import textwrap

import pytest
import torch

from audiocodec.metrics import MetricSuite, ViSQOL
from audiocodec.utils import failures

# Has the command line of the official binary. The score is 5 minus the relative error of the files.
FAKE_BINARY = """\
    #!{python}
    import argparse, csv, json, os, sys
    import numpy as np
    import soundfile

    parser = argparse.ArgumentParser()
    parser.add_argument('--batch_input_csv', required=True)
    parser.add_argument('--results_csv', required=True)
    parser.add_argument('--similarity_to_quality_model')
    parser.add_argument('--use_speech_mode', action='store_true')
    args = parser.parse_args()
    log = dict(vars(args), cwd=os.getcwd(), files=[])
    with open(args.batch_input_csv, newline='') as file:
        pairs = list(csv.DictReader(file))
    rows = []
    for pair in pairs:
        reference, rate = soundfile.read(pair['reference'], always_2d=True)
        degraded, degraded_rate = soundfile.read(pair['degraded'], always_2d=True)
        assert rate == degraded_rate
        info = soundfile.info(pair['degraded'])
        start = float(np.abs(degraded[:100]).max())
        log['files'].append([rate, *reference.shape, info.subtype, start])
        if np.abs(degraded).max() == 0:
            print('cannot compare silence', file=sys.stderr)
            continue
        error = np.square(reference - degraded).sum() / np.square(reference).sum()
        rows.append([pair['reference'], pair['degraded'], 5 - error, 0.9])
    here = os.path.dirname(os.path.abspath(__file__))
    with open(os.path.join(here, 'log.json'), 'a') as file:
        file.write(json.dumps(log) + '\\n')
    {then}
    with open(args.results_csv, 'w', newline='') as file:
        csv.writer(file).writerows([['reference', 'degraded', 'moslqo', 'vnsim'], *rows])
"""


@pytest.fixture(autouse=True)
def _reset_warnings(monkeypatch):
    monkeypatch.setattr(failures, '_warned', set())


def install(folder, then=''):
    program = folder / 'bazel-bin' / 'visqol'
    program.parent.mkdir(parents=True)
    program.write_text(textwrap.dedent(FAKE_BINARY).format(python=sys.executable, then=then))
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    (folder / 'model').mkdir()
    (folder / 'model' / 'libsvm_nu_svr_model.txt').touch()
    return folder


def log_of(folder):
    return [
        json.loads(line) for line in (folder / 'bazel-bin' / 'log.json').read_text().splitlines()
    ]


def tones(channels=1, samples=24000):
    time = torch.arange(samples) / 24000
    return torch.stack(
        [
            0.5 * torch.sin(2 * torch.pi * frequency * time).expand(channels, -1)
            for frequency in (440.0, 660.0, 880.0)
        ]
    )


def test_scores_are_computed_per_item_from_the_files(tmp_path):
    metric = ViSQOL(24000, bin=install(tmp_path))
    reference = tones()
    gains = torch.tensor([1.0, 0.5, 0.9]).view(3, 1, 1)
    scores = metric.measure(gains * reference, reference)
    assert scores.tolist() == pytest.approx([5.0, 4.75, 4.99], abs=1e-3)
    metric.update(gains * reference, reference)
    assert metric.compute() == {'visqol': pytest.approx(14.74 / 3, abs=1e-3)}


def test_audio_mode_uses_48_khz_16_bit_and_a_model_of_the_installation(tmp_path):
    ViSQOL(24000, bin=str(install(tmp_path))).measure(tones(2), tones(2))
    (call,) = log_of(tmp_path)
    assert [file[:4] for file in call['files']] == [[48000, 48000, 2, 'PCM_16']] * 3
    assert call['similarity_to_quality_model'] == str(
        tmp_path / 'model' / 'libsvm_nu_svr_model.txt'
    )
    assert call['use_speech_mode'] is False
    assert call['cwd'] == str(tmp_path)


def test_speech_mode_uses_16_khz_and_the_default_model_of_the_binary(tmp_path):
    ViSQOL(24000, bin=install(tmp_path), mode='speech').measure(tones(), tones())
    (call,) = log_of(tmp_path)
    assert [file[:3] for file in call['files']] == [[16000, 16000, 1]] * 3
    assert call['similarity_to_quality_model'] is None
    assert call['use_speech_mode'] is True


def test_best_known_model_is_the_default_and_any_can_be_chosen(tmp_path):
    install(tmp_path)
    best = tmp_path / 'model' / 'tcdaudio14_aacvopus_coresv_svrnsim_n.68_g.01_c1.model'
    best.touch()
    assert ViSQOL(24000, bin=tmp_path).model == best
    named = ViSQOL(24000, bin=tmp_path, model='libsvm_nu_svr_model.txt').model
    assert named == tmp_path / 'model' / 'libsvm_nu_svr_model.txt'


def test_padding_is_not_measured_and_silence_can_be_added(tmp_path):
    metric = ViSQOL(24000, bin=install(tmp_path), pad_with_silence=True)
    estimate, reference = tones(), tones()
    estimate[1, :, 6000:] = 1.0
    scores = metric.measure(estimate, reference, torch.tensor([24000, 6000, 0]))
    assert scores[:2].tolist() == pytest.approx([5.0, 5.0], abs=1e-3)
    assert scores[2].isnan()
    (call,) = log_of(tmp_path)
    assert [file[1] for file in call['files']] == [48000 + 48000, 12000 + 48000]
    assert [file[4] for file in call['files']] == [0.0, 0.0]


def test_an_item_without_a_score_is_left_out_with_one_warning(tmp_path, caplog):
    metric = ViSQOL(24000, bin=install(tmp_path))
    estimate = tones()
    estimate[1] = 0.0
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            metric.update(estimate, tones())
    assert metric.compute() == {'visqol': pytest.approx(5.0, abs=1e-3)}
    (message,) = [record.getMessage() for record in caplog.records]
    assert 'no score for 1 of 3 items' in message


@pytest.mark.parametrize(
    ('then', 'reason'),
    [
        ('print("broken", file=sys.stderr); sys.exit(3)', 'exit code 3: broken'),
        ('sys.exit(0)', 'exit code 0'),
        (
            'open(args.results_csv, "w").write("a,b\\n1,2\\n"); sys.exit()',
            'no columns degraded and moslqo',
        ),
        ('import time; time.sleep(30)', 'timed out'),
    ],
)
def test_a_failing_binary_is_reported_once_and_its_score_is_missing(tmp_path, caplog, then, reason):
    suite = MetricSuite({'visqol': ViSQOL(24000, bin=install(tmp_path, then), timeout=2.0)})
    with caplog.at_level(logging.WARNING):
        for _ in range(2 if 'sleep' not in then else 1):
            suite.update(tones(), tones())
    assert suite.compute() == {}
    (message,) = [record.getMessage() for record in caplog.records]
    assert reason in message
    assert str(tmp_path / 'bazel-bin' / 'visqol') in message


def test_metric_can_be_pickled(tmp_path):
    metric = ViSQOL(24000, bin=install(tmp_path))
    assert pickle.loads(pickle.dumps(metric)).measure(tones(), tones()).tolist() == pytest.approx(
        [5.0] * 3, abs=1e-3
    )


def test_a_wrong_installation_is_refused_at_once(tmp_path):
    with pytest.raises(ValueError, match=r'bin must be the folder .* got None'):
        ViSQOL(24000, bin=None)
    with pytest.raises(ValueError, match=f'{tmp_path}/nowhere does not exist'):
        ViSQOL(24000, bin=tmp_path / 'nowhere')
    with pytest.raises(ValueError, match=f'no binary at {tmp_path}/bazel-bin/visqol'):
        ViSQOL(24000, bin=tmp_path)
    install(tmp_path)
    with pytest.raises(ValueError, match="mode must be one of audio, speech, got 'music'"):
        ViSQOL(24000, bin=tmp_path, mode='music')
    with pytest.raises(ValueError, match=f'no model at {tmp_path}/model/other.txt'):
        ViSQOL(24000, bin=tmp_path, model='other.txt')
    (tmp_path / 'bazel-bin' / 'visqol').chmod(0o644)
    with pytest.raises(ValueError, match=f'{tmp_path}/bazel-bin/visqol is not executable'):
        ViSQOL(24000, bin=tmp_path)
