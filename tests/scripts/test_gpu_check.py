import importlib.util
import json
import subprocess
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

SCRIPT = Path(__file__).parents[2] / 'scripts' / 'gpu_check.py'


@pytest.fixture
def module():
    spec = importlib.util.spec_from_file_location('gpu_check', SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def results(folder):
    return [json.loads(line) for line in (folder / 'results.jsonl').read_text().splitlines()]


@pytest.fixture
def fake(module, monkeypatch):
    """Replace jobs: each takes `fake.seconds` of a simulated clock."""

    class Fake:
        def __init__(self):
            self.now, self.seconds, self.commands, self.code = 0.0, 10.0, [], 0

        def run(self, command, timeout, **_):
            self.commands.append(command)
            self.now += min(self.seconds, timeout)
            if self.seconds > timeout:
                raise subprocess.TimeoutExpired(command, timeout)
            result = {
                'ms': {'total': 100.0 / len(self.commands)},
                'peak_bytes': 2**30,
                'floor_ms': {'flops': 1.0, 'bytes': 2.0},
            } | ({'peer': {'ms': {'total': 400.0}}} if '--against' in command else {})
            return subprocess.CompletedProcess(
                command, self.code, f'6 passed\n{json.dumps(result)}', 'an error\n'
            )

    fake = Fake()
    monkeypatch.setattr(module.subprocess, 'run', fake.run)
    monkeypatch.setattr(module.time, 'monotonic', lambda: fake.now)
    return fake


def test_everything_is_run_the_most_important_first(module, fake, tmp_path, capsys):
    assert module.main([str(tmp_path), '--peer', 'python peer.py']) == 0
    jobs = [result['job'] for result in results(tmp_path)]
    assert jobs[:6] == [
        'tests',
        'base_24khz x 64, float32',
        'base_24khz x 64, bfloat16',
        'base_24khz x 64, bfloat16 compiled',
        'base_24khz x 64, profile',
        'musicgen_32khz x 64, float32',
    ]
    assert len(jobs) == len(set(jobs)) == 2 + 3 * 3 * 2
    assert fake.commands[0][1:] == ['-m', 'pytest', '-q', '-m', 'gpu', 'tests']
    assert fake.commands[1][-4:] == [
        '--against',
        'python peer.py --recipe base_24khz --batch 64 --steps 10 --warmup 3 --device cuda',
        '--rounds',
        '1',
    ]
    assert {'--compile', '--autocast'} < set(fake.commands[3])
    out = capsys.readouterr().out.splitlines()
    assert out[1] == (
        'base_24khz x 64, float32: 50.0 ms, 1.00 GiB; floors: FLOPs 1.0 ms, bytes 2.0 ms, '
        'peer / ours 8.00'
    )
    assert out[3].endswith(
        'peer / ours 16.00'
    )  # the peer's time in float32, of the same recipe and batch


def test_it_ends_in_time_and_says_what_is_missing(module, fake, tmp_path, capsys):
    fake.seconds = 50.0
    assert module.main([str(tmp_path), '--minutes', '2']) == 1
    assert fake.now == 120.0
    failed = [result.get('failed') for result in results(tmp_path)]
    assert failed[:4] == [None, None, 'took longer than 20 s', 'no time left']
    assert set(failed[4:]) == {'no time left'}
    assert 'musicgen_32khz x 16, float32: FAILED, no time left' in capsys.readouterr().out


def test_what_fails_is_shown_and_the_rest_goes_on(module, fake, tmp_path, capsys):
    fake.code = 2
    assert module.main([str(tmp_path), '--only', 'base_24khz x 16']) == 1
    assert [result['failed'] for result in results(tmp_path)] == ['exit code 2: an error'] * 3
    assert 'base_24khz x 16, float32: FAILED, exit code 2: an error' in capsys.readouterr().out


def test_dry_run_on_a_cpu(module, tmp_path, capsys):
    assert (
        module.main(
            [
                str(tmp_path),
                '--device',
                'cpu',
                '--recipes',
                'debug',
                '--batches',
                '2',
                '--steps',
                '1',
                '--tiny',
                '--only',
                'profile',
            ]
        )
        == 0
    )
    (result,) = results(tmp_path)
    assert result['ms']['total'] > result['floor_ms']['flops'] > 0
    assert 'debug x 2, profile: ' in capsys.readouterr().out
    assert 'aten::' in (tmp_path / 'profile.txt').read_text()
