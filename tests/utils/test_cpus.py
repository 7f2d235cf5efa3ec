import math
import os

import pytest

from audiocodec.utils import cpus


@pytest.fixture
def groups(tmp_path, monkeypatch):
    """Create control groups: those of this process, and the files below the mount."""

    def make(own, files):
        (tmp_path / 'cgroup').write_text(own)
        for name, text in files.items():
            path = tmp_path / 'mount' / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        monkeypatch.setattr(cpus, '_GROUPS', tmp_path / 'cgroup')
        monkeypatch.setattr(cpus, '_MOUNT', tmp_path / 'mount')

    return make


V1 = '4:memory:/job\n2:cpu,cpuacct:/job/step\n0::/\n'


@pytest.mark.parametrize(
    ('own', 'files', 'expected'),
    [
        ('0::/\n', {}, math.inf),
        ('0::/\n', {'cpu.max': 'max 100000\n'}, math.inf),
        ('0::/\n', {'cpu.max': '250000 100000\n'}, 2.5),
        (
            '0::/job/step\n',
            {
                'cpu.max': 'max 100000',
                'job/cpu.max': '400000 100000',
                'job/step/cpu.max': 'max 100000',
            },
            4,
        ),
        ('0::/host/path/of/a/container\n', {'cpu.max': '50000 100000\n'}, 0.5),
        (V1, {'cpu/job/cpu.cfs_quota_us': '-1', 'cpu/job/cpu.cfs_period_us': '100000'}, math.inf),
        (
            V1,
            {'cpu/job/step/cpu.cfs_quota_us': '300000', 'cpu/job/step/cpu.cfs_period_us': '100000'},
            3,
        ),
        (
            V1,
            {
                'cpu/cpu.cfs_quota_us': '150000',
                'cpu/cpu.cfs_period_us': '50000',
                'cpu.max': 'nonsense',
            },
            3,
        ),
    ],
)
def test_quota_of_control_groups(groups, own, files, expected):
    groups(own, files)
    assert cpus.quota() == expected


def test_without_control_groups_there_is_no_quota(tmp_path, monkeypatch):
    monkeypatch.setattr(cpus, '_GROUPS', tmp_path / 'nothing')
    assert cpus.quota() == math.inf


@pytest.mark.parametrize(('quota', 'expected'), [(math.inf, 6), (4.9, 4), (0.5, 1), (9.0, 6)])
def test_usable_cores_are_within_affinity_and_quota(monkeypatch, quota, expected):
    monkeypatch.setattr(os, 'sched_getaffinity', lambda process: {1, 2, 3, 5, 8, 9}, raising=False)
    monkeypatch.setattr(cpus, 'quota', lambda: quota)
    assert cpus.affinity() == [1, 2, 3, 5, 8, 9]
    assert cpus.usable_cores() == expected


def test_where_affinity_is_not_known_it_is_all_cores(monkeypatch):
    monkeypatch.delattr(os, 'sched_getaffinity', raising=False)
    monkeypatch.setattr(os, 'cpu_count', lambda: 3)
    assert cpus.affinity() == [0, 1, 2]
