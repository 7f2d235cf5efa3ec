import json
import logging
import pickle
import stat
import sys
import textwrap

import pytest
import torch

from audiocodec.metrics import MetricSuite, ViSQOLBinary

# Has the command line of the official binary. The score is 5 minus the relative error of the files.
FAKE_BINARY = """\
    #!{python}
    import argparse, csv, json, os, sys
    import numpy as np
    import soundfile

    parser = argparse.ArgumentParser()
    parser.add_argument('--reference_file', required=True)
    parser.add_argument('--degraded_file', required=True)
    parser.add_argument('--results_csv', required=True)
    parser.add_argument('--similarity_to_quality_model')
    parser.add_argument('--use_speech_mode', action='store_true')
    args = parser.parse_args()
    reference, rate = soundfile.read(args.reference_file, always_2d=True)
    degraded, degraded_rate = soundfile.read(args.degraded_file, always_2d=True)
    assert rate == degraded_rate
    info = soundfile.info(args.degraded_file)
    start = float(np.abs(degraded[:100]).max())
    file = [rate, *reference.shape, info.subtype, start]
    log = dict(vars(args), cwd=os.getcwd(), file=file)
    rows = []
    if np.abs(degraded).max() == 0:
        print('cannot compare silence', file=sys.stderr)
    else:
        error = np.square(reference - degraded).sum() / np.square(reference).sum()
        rows.append([args.reference_file, args.degraded_file, 5 - error, 0.9])
    here = os.path.dirname(os.path.abspath(__file__))
    with open(os.path.join(here, 'log.json'), 'a') as file:
        file.write(json.dumps(log) + '\\n')
    {then}
    with open(args.results_csv, 'w', newline='') as file:
        csv.writer(file).writerows([['reference', 'degraded', 'moslqo', 'vnsim'], *rows])
"""


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
    metric = ViSQOLBinary(bin=install(tmp_path))
    reference = tones()
    gains = torch.tensor([1.0, 0.5, 0.9]).view(3, 1, 1)
    scores = metric.compute(gains * reference, reference, 24000)
    assert scores.tolist() == pytest.approx([5.0, 4.75, 4.99], abs=1e-3)
    assert metric.description == (
        'ViSQOL, official binary, audio mode, libsvm_nu_svr_model.txt, MOS'
    )


def test_audio_mode_uses_48_khz_16_bit_and_a_model_of_the_installation(tmp_path):
    ViSQOLBinary(bin=str(install(tmp_path))).compute(tones(2), tones(2), 24000)
    calls = log_of(tmp_path)
    assert [call['file'][:4] for call in calls] == [[48000, 48000, 2, 'PCM_16']] * 3
    assert calls[0]['similarity_to_quality_model'] == str(
        tmp_path / 'model' / 'libsvm_nu_svr_model.txt'
    )
    assert calls[0]['use_speech_mode'] is False
    assert calls[0]['cwd'] == str(tmp_path)


def test_speech_mode_uses_16_khz_and_the_default_model_of_the_binary(tmp_path):
    ViSQOLBinary(bin=install(tmp_path), mode='speech').score(tones()[0], tones()[0], 24000)
    (call,) = log_of(tmp_path)
    assert call['file'][:3] == [16000, 16000, 1]
    assert call['similarity_to_quality_model'] is None
    assert call['use_speech_mode'] is True


def test_best_known_model_is_the_default_and_any_can_be_chosen(tmp_path):
    install(tmp_path)
    best = tmp_path / 'model' / 'tcdaudio14_aacvopus_coresv_svrnsim_n.68_g.01_c1.model'
    best.touch()
    assert ViSQOLBinary(bin=tmp_path).model == best
    named = ViSQOLBinary(bin=tmp_path, model='libsvm_nu_svr_model.txt').model
    assert named == tmp_path / 'model' / 'libsvm_nu_svr_model.txt'


def test_padding_is_not_measured_and_silence_can_be_added(tmp_path):
    metric = ViSQOLBinary(bin=install(tmp_path), pad_with_silence=True)
    estimate, reference = tones(), tones()
    estimate[1, :, 6000:] = 1.0
    scores = metric.compute(estimate, reference, 24000, torch.tensor([24000, 6000, 0]))
    assert scores[:2].tolist() == pytest.approx([5.0, 5.0], abs=1e-3)
    assert scores[2].isnan()
    files = [call['file'] for call in log_of(tmp_path)]
    assert [file[1] for file in files] == [48000 + 48000, 12000 + 48000]
    assert [file[4] for file in files] == [0.0, 0.0]


def test_an_item_without_a_score_is_counted(tmp_path):
    suite = MetricSuite({'visqol': ViSQOLBinary(bin=install(tmp_path))})
    estimate = tones()
    estimate[1] = 0.0
    suite.update(estimate, tones(), 24000)
    assert suite.compute() == {'visqol': pytest.approx(5.0, abs=1e-3), 'visqol_unscored': 1}
    assert not suite.failures.counts


@pytest.mark.slow
@pytest.mark.parametrize(
    ('then', 'reason'),
    [
        ('print("broken", file=sys.stderr); sys.exit(3)', 'exit code 3: broken'),
        ('sys.exit(0)', 'exit code 0'),
        (
            'open(args.results_csv, "w").write("a,b\\n1,2\\n"); sys.exit()',
            'no column moslqo',
        ),
        ('import time; time.sleep(30)', 'timed out'),
    ],
)
def test_a_failing_binary_is_reported_once_and_its_score_is_missing(tmp_path, caplog, then, reason):
    suite = MetricSuite({'visqol': ViSQOLBinary(bin=install(tmp_path, then), timeout=2.0)})
    with caplog.at_level(logging.WARNING):
        suite.update(tones()[:2], tones()[:2], 24000)
    assert suite.compute() == {'visqol_unscored': 2}
    (message,) = [record.getMessage() for record in caplog.records]
    assert reason in message
    assert str(tmp_path / 'bazel-bin' / 'visqol') in message


def test_metric_can_be_pickled(tmp_path):
    metric = pickle.loads(pickle.dumps(ViSQOLBinary(bin=install(tmp_path))))
    assert metric.score(tones()[0], tones()[0], 24000) == pytest.approx(5.0, abs=1e-3)


def test_a_wrong_installation_is_refused_at_once(tmp_path):
    with pytest.raises(ValueError, match=r'bin must be the folder .* got None'):
        ViSQOLBinary(bin=None)
    with pytest.raises(ValueError, match=f'{tmp_path}/nowhere does not exist'):
        ViSQOLBinary(bin=tmp_path / 'nowhere')
    with pytest.raises(ValueError, match=f'no binary at {tmp_path}/bazel-bin/visqol'):
        ViSQOLBinary(bin=tmp_path)
    install(tmp_path)
    with pytest.raises(ValueError, match="mode must be one of audio, speech, got 'music'"):
        ViSQOLBinary(bin=tmp_path, mode='music')
    with pytest.raises(ValueError, match=f'no model at {tmp_path}/model/other.txt'):
        ViSQOLBinary(bin=tmp_path, model='other.txt')
    (tmp_path / 'bazel-bin' / 'visqol').chmod(0o644)
    with pytest.raises(ValueError, match=f'{tmp_path}/bazel-bin/visqol is not executable'):
        ViSQOLBinary(bin=tmp_path)
