import functools
import importlib.util
import json
import multiprocessing
import os
import shlex
import shutil
import socket
import subprocess
import sys
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from forked import Forked
from tiny import TINY
from torch.nn import functional as F

from audiocodec.quantization.kmeans import nearest

pytestmark = pytest.mark.slow

SCRIPTS = Path(__file__).parents[2] / 'scripts'
SHARED = {
    'benchmark',
    'ms',
    'spread',
    'machine',
    'cores',
    'load',
    'date',
    'versions',
    'steps',
    'warmup',
    'threads',
    'device',
}
STUB = """
import json
print('a peer may say anything before')
print(json.dumps({'peer': 'stub', 'ms': {'total': 1e9, 'other': 1.0}, 'peak_bytes': 1}))
"""


@pytest.fixture
def main(monkeypatch):
    """Run the command line, then restore the number of threads."""
    monkeypatch.syspath_prepend(SCRIPTS)
    spec = importlib.util.spec_from_file_location('benchmark', SCRIPTS / 'benchmark.py')
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    threads = torch.get_num_threads()
    yield module.main
    torch.set_num_threads(threads)


@pytest.fixture
def run(main, capsys):
    """Run a command line; return the JSON of its last line."""

    def call(*argv):
        assert main(argv) == 0
        *table, last = capsys.readouterr().out.splitlines()
        result = json.loads(last)
        assert result.keys() >= SHARED
        assert result['benchmark'] == argv[0]
        assert {line.split()[0] for line in table[2:]} >= result['ms'].keys()
        return result

    return call


@pytest.fixture
def tiny_rates(monkeypatch, run):
    """Replace measured machine rates: large matrix products take seconds."""
    from benchmarks import step

    monkeypatch.setattr(step, 'matrix_rate', lambda device, dtype: 1e9)
    monkeypatch.setattr(step, 'memory_rate', lambda device: 1e9)


@pytest.mark.parametrize(
    ('milliseconds', 'sizes'),
    [(0.05, [256, 512, 1024]), (100, [256]), (1e-9, [2**power for power in range(8, 15)])],
)
def test_the_machines_rate_is_taken_where_work_takes_long_enough_and_no_longer(
    main, monkeypatch, milliseconds, sizes
):
    from benchmarks import common

    monkeypatch.setattr(
        common,
        'in_turn',
        lambda functions, steps, warmup, device: {
            name: [function() for _ in range(steps)] for name, function in functions.items()
        },
    )
    asked = []

    def work(size):
        asked.append(size)
        return lambda: milliseconds * (size / 256) ** 5, size**3

    rate = common._rate(work, 'cpu')
    assert asked == sizes
    assert rate == pytest.approx(asked[-1] ** 3 / (milliseconds / 1000 * (asked[-1] / 256) ** 5))


TINY_STEP = (
    'step',
    '--recipe',
    'debug',
    '--batch',
    '2',
    '--seconds',
    '0.25',
    '--steps',
    '2',
    '--threads',
    '1',
)
ADVERSARY = (
    'adversarial=msstftd',
    'adversarial.discriminators.msstftd.filters=2',
    'adversarial.discriminators.msstftd.n_ffts=[128]',
    'adversarial.discriminators.msstftd.hop_lengths=[32]',
    'adversarial.discriminators.msstftd.win_lengths=[128]',
)


@pytest.mark.usefixtures('tiny_rates')
def test_step_has_the_keys_of_the_peer_and_its_phases_make_the_total(run, tmp_path):
    result = run(*TINY_STEP, '--profile', str(tmp_path / 'profile.txt'), *ADVERSARY)
    assert result['ms'].keys() == {
        'model_forward',
        'quantizer_and_commitment',
        'discriminator_step',
        'generator_adversarial',
        'spectral_losses',
        'balancer_and_model_backward',
        'optimizer',
        'ema',
        'metrics',
        'total',
    }
    parts = {
        name: value
        for name, value in result['ms'].items()
        if name not in ('total', 'quantizer_and_commitment')
    }
    assert 0.5 * result['ms']['total'] < sum(parts.values()) < 1.2 * result['ms']['total']
    assert (result['recipe'], result['batch'], result['seconds'], result['autocast']) == (
        'debug',
        2,
        0.25,
        'null',
    )
    assert result['peak_bytes'] > 1e8
    assert result['parameters'] > 1e5
    seconds = result['ms']['total'] / 1000
    assert result['share_of_matrix_rate'] == pytest.approx(
        result['gflops'] / seconds, abs=2e-3, rel=0.05
    )
    assert result['floor_ms'] == pytest.approx(
        {'flops': 1000 * result['gflops'], 'bytes': 1000 * result['gbytes']}, abs=6
    )
    assert 'aten::' in (tmp_path / 'profile.txt').read_text()


@pytest.mark.usefixtures('tiny_rates')
def test_step_takes_precision_and_overrides(run):
    result = run(*TINY_STEP, '--autocast', 'bfloat16', 'rvq.n_q=2')
    assert (result['autocast'], result['overrides']) == ('bfloat16', ['rvq.n_q=2'])


def test_work_is_that_of_the_shapes(main):
    from benchmarks.step import count_work

    x, weight = torch.randn(2, 3, 10, requires_grad=True), torch.randn(4, 3, 5, requires_grad=True)
    forward = 2 * (2 * 4 * 6) * 3 * 5
    assert count_work(lambda: F.conv1d(x, weight)) == {
        'flops': forward,
        'bytes': 4 * (60 + 60 + 48),
    }
    assert count_work(lambda: F.conv1d(x, weight).sum().backward())['flops'] == 3 * forward
    first, second = torch.randn(3, 4), torch.randn(4, 5)
    assert count_work(lambda: first.view(-1).view(3, 4) @ second) == {
        'flops': 120,
        'bytes': 4 * (12 + 20 + 15),
    }
    assert count_work(lambda: first.add_(first)) == {'flops': 0, 'bytes': 4 * 12}


def test_quantizer(run):
    result = run(
        'quantizer',
        '--levels',
        '2',
        '--bins',
        '16',
        '--dimension',
        '4',
        '--batch',
        '2',
        '--frames',
        '20',
        '--steps',
        '2',
        '--threads',
        '1',
    )
    assert result['ms'].keys() == {'total', 'one_hot'}
    assert result['ratio'].keys() == {'one_hot'}


def test_kmeans_and_its_plain_counterpart(run):
    result = run(
        'kmeans',
        '--levels',
        '2',
        '--bins',
        '8',
        '--dimension',
        '4',
        '--vectors',
        '64',
        '--iterations',
        '3',
        '--steps',
        '2',
        '--threads',
        '1',
    )
    assert result['ms'].keys() == {'total', 'plain_scaled'}
    assert result['ratio'].keys() == {'plain'}
    assert result['bytes_above_rest'] >= 0
    from benchmarks.kmeans import plain_iteration

    torch.manual_seed(0)
    samples, means = torch.randn(64, 4), torch.randn(8, 4)
    codes = nearest(samples, means)
    expected = torch.stack([samples[codes == code].mean(0) for code in range(8)])
    torch.testing.assert_close(plain_iteration(samples, means), expected)


def test_evaluate_times_one_process_several_and_the_metrics_alone(run):
    options = ['--recipe', 'debug', '--items', '2', '--seconds', '0.5', '--kbps', '0.8', '3.2']
    result = run('evaluate', *options, '--metrics', 'mel', 'sisnr')
    assert result['ms'].keys() == {'one', 'several', 'alone', 'total'}
    assert result['ms']['total'] == result['ms']['several']
    assert result['ms']['alone'] > 0
    assert result['ratio'].keys() == {'one / several', 'several / ideal'}


def test_tokens_times_one_process_several_and_encoding_alone(run):
    options = ['--recipe', 'debug', '--kbps', '0.8', '--files', '4', '--shards', '2']
    result = run('tokens', *options, '--steps', '1')
    assert result['ms'].keys() == result['cpu_seconds'].keys() == {'encode', 'one', 'several'}
    assert result['ratio'].keys() == {'one / several', 'one / encode'}
    assert min(result['ms']['encode'], result['ms']['one']) > 0


def test_loader(run, tmp_path, monkeypatch):
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
    (tmp_path / 'audio').mkdir()
    soundfile.write(
        tmp_path / 'audio' / 'noise.wav', np.random.default_rng(0).uniform(-0.5, 0.5, 30000), 16000
    )
    result = run(
        'loader',
        '--source',
        str(tmp_path / 'audio'),
        '--seconds',
        '0.5',
        '--batch',
        '2',
        '--workers',
        '0',
        '--steps',
        '3',
        '--warmup',
        '1',
    )
    assert result['per_second'].keys() == {'segments', 'segments_of_a_worker'}
    assert result['per_second']['segments'] == pytest.approx(2000 / result['ms']['total'], rel=0.02)
    assert result['files'] == 1


def test_loader_of_several_formats(run, tmp_path, monkeypatch):
    pytest.importorskip('av')
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
    options = ['--batch', '2', '--workers', '0', '--steps', '2', '--warmup', '1']
    result = run('loader', '--formats', 'wav', 'm4a', *options)
    assert result['per_second'].keys() == {'wav', 'm4a'}
    assert all(rate > 0 for rate in result['per_second'].values())


def test_files(run, tmp_path, monkeypatch):
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
    result = run('files', '--files', '30', '--batches', '10', '--train', '0')
    assert result['ms'].keys() == {'index', 'index_again', 'load_manifest'}
    assert result['memory'].keys() == {'after_1', 'after_5', 'after_10'}
    assert min(result['memory'].values()) > 1e6


def test_codec(run):
    result = run('codec', '--seconds', '0.1', '--steps', '1', '--peers')
    assert result['ms'].keys() == {'encode', 'decode', 'total'}
    assert result['ms']['total'] == pytest.approx(
        result['ms']['encode'] + result['ms']['decode'], abs=0.01
    )
    assert result['real_time'] == pytest.approx(100 / result['ms']['total'], rel=0.01)
    assert result['ratio'] == {}


def test_streaming(run):
    argv = ('--family', 'small', '--seconds', '0.1', '--steps', '1', '--peers', '0')
    result = run('streaming', *argv, '--chunkings', '2', '--clip', '0.1')
    assert set(result['ms']) == {'whole', 'streaming', 'frames'}
    assert result['comparison']['codes'] == 2 * 8 * 8  # 7.5 frames of 8 codebooks
    assert result['comparison']['codes_different'] == 0
    assert 0 < result['comparison']['largest_difference'] < 1e-5


def test_memory_of_streaming_a_long_file(run, monkeypatch):
    from benchmarks import streaming

    monkeypatch.setattr(streaming, '_RATE', 240)
    result = run('streaming', '--family', 'small', '--minutes', '1')
    # memory of earlier tests may be returned meanwhile, so that the difference may be below 0
    assert result['working_bytes'] < result['peak_bytes'] > 0


def test_curves_are_trained_on_the_same_batches(run, tmp_path):
    argv = ['curve', '--recipe', 'debug', '--batches', str(tmp_path / 'batches')]
    argv += ['--updates', '3', '--every', '2', *TINY, 'dataset.valid.num_samples=2']
    first = run(*argv)['curve']
    assert first['update'] == [2, 3]
    assert 0 < first['seconds'][0] < first['seconds'][1]
    assert np.load(tmp_path / 'batches' / 'valid.npy').shape[0] == 2
    again = run(*argv)['curve']
    assert again['mel'] == first['mel']
    np.save(tmp_path / 'batches' / 'train.npy', np.load(tmp_path / 'batches' / 'train.npy') / 2)
    assert run(*argv)['curve']['mel'] != first['mel']


def test_batches_that_do_not_fit(main, tmp_path, capsys):
    folder = tmp_path / 'batches'

    argv = ['curve', '--recipe', 'debug', '--batches', str(folder), *TINY]

    def error(*options):
        assert main([*argv, *options]) == 1
        return capsys.readouterr().err

    assert '--updates 3 --every 0: expected 1 or more' in error('--updates', '3', '--every', '0')
    assert not folder.exists()
    folder.mkdir()
    assert 'holds batches of an unknown format' in error('--updates', '3')
    shutil.rmtree(folder)
    assert main([*argv, '--updates', '2']) == 0
    assert 'holds 4 batches, fewer than --updates 5' in error('--updates', '5')
    found = error('dataset.batch_size=3', '--updates', '2')
    assert "holds batches of {'sample_rate': 16000, 'shape': [4, 1, 4000]}" in found
    assert "takes {'sample_rate': 16000, 'shape': [3, 1, 4000]}" in found


def test_codec_in_turn_with_a_peer(run):
    pytest.importorskip('transformers')
    result = run('codec', '--seconds', '0.1', '--steps', '2', '--peers', 'transformers')
    assert result['ms'].keys() == {'encode', 'decode', 'transformers', 'total'}
    assert result['ratio']['transformers'] > 0
    assert multiprocessing.active_children() == []


def test_what_is_apart_runs_in_one_other_process(main, tmp_path):
    from benchmarks.common import apart

    line = 'import os; file = open(path, "a"); file.write(f"{os.getpid()} "); file.close()'
    with apart(functools.partial, exec, line, {'path': str(tmp_path / 'pids')}) as call:
        call()
        call()
    first, second = (tmp_path / 'pids').read_text().split()
    assert first == second != str(os.getpid())
    assert multiprocessing.active_children() == []


def test_errors_of_what_is_apart_are_raised_here(main, tmp_path):
    from benchmarks.common import apart

    with (
        pytest.raises(ModuleNotFoundError, match='no_such_package'),
        apart(importlib.import_module, 'no_such_package'),
    ):
        pass
    with apart(functools.partial, os.mkdir, str(tmp_path / 'new')) as call:
        call()
        for _ in range(2):  # it goes on
            with pytest.raises(FileExistsError):
                call()
    with apart(functools.partial, os._exit, 3) as call, pytest.raises(BrokenProcessPool):
        call()
    assert multiprocessing.active_children() == []


def test_startup(run, monkeypatch):
    from benchmarks import startup

    seen = []
    monkeypatch.setattr(startup.subprocess, 'run', lambda command, **_: seen.append(command[-1]))
    monkeypatch.setattr(
        startup, 'first_update', lambda overrides, environment: seen.append(overrides[0])
    )
    result = run('startup', '--steps', '1', '--warmup', '0')
    assert result['ms'].keys() == {'import_torch', 'import_models', 'first_update'}
    assert seen == ['import torch', 'import audiocodec.models', 'solver=compression/debug']


def test_a_run_that_ends_before_its_first_update_is_shown(main, monkeypatch):
    from benchmarks import startup

    monkeypatch.setattr(startup.sys, 'executable', 'false')
    with pytest.raises(ValueError, match='ended without an update'):
        startup.first_update(['solver=compression/debug'], {'PATH': '/usr/bin:/bin'})


def test_workers_compares_their_numbers(run, monkeypatch):
    from benchmarks import workers

    found = {'collectives': 5.0, 'bytes': 3e6}
    monkeypatch.setattr(workers, '_train', lambda args, number: {**found, 'times': [2.0 * number]})
    result = run('workers', '--workers', '1', '2')
    assert result['ms'] == {'1': 2.0, '2': 4.0}
    assert result['collectives'] == {'1': 5.0, '2': 5.0}
    assert result['megabytes'] == {'1': 3.0, '2': 3.0}


def test_a_worker_counts_what_it_sends(tmp_path):
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        port = str(free.getsockname()[1])
    meeting = {'WORLD_SIZE': '2', 'MASTER_ADDR': '127.0.0.1', 'MASTER_PORT': port}
    program = [SCRIPTS / 'benchmarks' / 'workers.py', '1', '2', *TINY, f'dora.dir={tmp_path}']
    workers = [
        Forked(program, env={**os.environ, **meeting, 'RANK': str(rank), 'LOCAL_RANK': str(rank)})
        for rank in range(2)
    ]
    (first, errors), (second, _) = (worker.communicate(timeout=120) for worker in workers)
    assert [worker.returncode for worker in workers] == [0, 0], errors
    result = json.loads(first.splitlines()[-1])
    # statistics of the codebooks, norms of the balancer, gradients of model and discriminator
    assert result['collectives'] == 4
    assert len(result['times']) == 2
    assert result['bytes'] > 1000
    assert second == ''


def test_against_a_peer(main, capsys, tmp_path, monkeypatch):
    (tmp_path / 'stub.py').write_text(STUB)
    peer = shlex.join([sys.executable, str(tmp_path / 'stub.py')])
    from benchmarks import common

    ours, real = [], subprocess.run

    def fake(command, **kwargs):
        if command[1].endswith('stub.py'):
            return real(command, **kwargs)
        ours.append(command[1:])
        result = {
            'benchmark': 'codec',
            'ms': {'total': [2.0, 4.0, 5.0][len(ours) - 1], 'encode': 1.0},
            'peak_bytes': 4,
        }
        return subprocess.CompletedProcess(command, 0, json.dumps(result), '')

    monkeypatch.setattr(common.subprocess, 'run', fake)
    assert main(['codec', '--seconds', '0.1', '--against', peer, '--rounds=3']) == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert ours == [[str(SCRIPTS / 'benchmark.py'), 'codec', '--seconds', '0.1']] * 3
    assert result['ratio'] == {'ms.total': 2.5e8, 'peak_bytes': 0.25}
    assert result['ratios']['ms.total'] == [5e8, 2.5e8, 2e8]
    assert result['peer']['peer'] == 'stub'


@pytest.mark.parametrize(
    ('peer', 'message'),
    [
        ("python -c 'raise SystemExit(3)'", 'exit code 3; expected 0 and a line of JSON'),
        ('python -c pass', 'exit code 0; expected 0 and a line of JSON'),
        ('no-such-command', 'no-such-command: No such file'),
        (
            """python -c 'print("{}")'""",
            'no figure in common with this benchmark, which has ms.total',
        ),
    ],
)
def test_a_peer_that_cannot_be_compared_is_a_message(main, capsys, monkeypatch, peer, message):
    from benchmarks import common

    real = common._result_of
    monkeypatch.setattr(
        common,
        '_result_of',
        lambda command: {'ms': {'total': 1.0}} if 'benchmark.py' in str(command) else real(command),
    )
    assert main(['codec', '--against', peer.replace('python', sys.executable)]) == 1
    assert message in capsys.readouterr().err


@pytest.mark.skipif(
    importlib.util.find_spec('audiocraft') is not None, reason='AudioCraft is installed here'
)
@pytest.mark.parametrize(
    'options',
    [
        [
            'step',
            '--recipe',
            'musicgen_32khz',
            '--batch',
            '2',
            '--seconds',
            '1',
            '--steps',
            '3',
            '--warmup',
            '1',
            '--threads',
            '1',
            '--device',
            'cpu',
        ],
        [
            'loader',
            '--source',
            '.',
            '--sample_rate',
            '24000',
            '--channels',
            '1',
            '--seconds',
            '1',
            '--batch',
            '4',
            '--workers',
            '0',
            '--steps',
            '3',
        ],
    ],
)
def test_audiocraft_as_a_peer_takes_our_options_and_says_where_it_runs(options):
    done = subprocess.run(
        [sys.executable, SCRIPTS / 'peer_audiocraft.py', *options], capture_output=True, text=True
    )
    assert done.returncode == 1
    assert done.stderr.startswith(
        "No module named 'audiocraft': run this with the Python of an environment with"
    )


def test_rounds_before_those_that_count_leave_no_times(main):
    from benchmarks.common import Stopwatch, in_turn

    watch = Stopwatch()
    for _ in watch.rounds(steps=3, warmup=2):
        with watch.measure('all'):
            pass
    assert len(watch.times['all']) == 3
    called = []
    times = in_turn(
        {'one': lambda: called.append(1), 'two': lambda: called.append(2)}, steps=2, warmup=1
    )
    assert {name: len(values) for name, values in times.items()} == {'one': 2, 'two': 2}
    assert called == [1, 2] * 3
