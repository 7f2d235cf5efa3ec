"""What is wrong with the data ends a run with a message."""

import numpy as np
import pytest
import soundfile

from audiocodec.utils.errors import RunError


@pytest.fixture
def folder(tmp_path):
    found = tmp_path / 'audio'
    found.mkdir()
    for number in range(6):
        soundfile.write(
            found / f'{number}.wav',
            0.1 * np.random.default_rng(number).standard_normal(16000),
            16000,
        )
    return found


def overrides(folder):
    return [
        'dset=audio/default',
        *(f'datasource.{split}={folder}' for split in ('train', 'valid', 'evaluate', 'generate')),
    ]


@pytest.mark.slow
def test_skipped_files_are_a_metric(make_solver, folder):
    solver = make_solver(*overrides(folder), 'dataset.batch_size=8')
    assert solver.dataloaders
    (folder / '3.wav').write_bytes(b'broken')  # after it was indexed
    solver.run()
    assert solver.history[0]['train']['skipped_files'] == 1


def test_too_many_bad_files_are_a_message(make_solver, folder):
    solver = make_solver(*overrides(folder), 'dataset.max_bad_fraction=0')
    assert solver.dataloaders
    (folder / '3.wav').write_bytes(b'broken')
    with pytest.raises(
        RunError, match=r'(?s)more than dataset\.max_bad_fraction=0.*3\.wav.*audiocodec doctor'
    ):
        solver.run()
