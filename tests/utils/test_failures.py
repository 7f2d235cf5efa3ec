import pytest

from audiocodec.utils import distrib
from audiocodec.utils.failures import Failures


def test_failures_are_counted_and_logged_once_a_kind(caplog):
    failures, done = Failures(), []
    for number in range(3):
        with failures.caught('sample'):
            done.append(number)
            raise OSError(28, f'No space for {number}')
        with failures.caught('figure'):
            done.append(-number)
    failures.add('tracker', 'gone')
    assert done == [0, 0, 1, -1, 2, -2]
    assert failures.counts == {'sample': 3, 'tracker': 1}
    assert [record.getMessage() for record in caplog.records] == [
        'sample failed, the run continues: OSError: [Errno 28] No space for 0',
        'tracker failed, the run continues: gone',
    ]
    assert str(failures) == 'sample (3x), tracker (1x)'


def test_an_interrupt_passes():
    with pytest.raises(KeyboardInterrupt), Failures().caught('sample'):
        raise KeyboardInterrupt


def test_kinds_of_other_workers_are_reported(monkeypatch, caplog):
    failures = Failures()
    failures.add('sample', 'full')
    monkeypatch.setattr(
        distrib, 'all_gather_object', lambda own: [own, {'sample': 'also full', 'metric': 'broken'}]
    )
    failures.sync()
    failures.sync()
    assert failures.counts == {'sample': 1, 'metric': 1}
    assert failures.reasons == {'sample': 'full', 'metric': 'broken (worker 1)'}
    assert len(caplog.records) == 2
