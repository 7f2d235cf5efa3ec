"""A recipe with more than two channels: data, training, evaluation and samples."""

import pytest
import soundfile
import torch

from audiocodec.data import write_audio

RATE = 16000


@pytest.fixture
def folder(tmp_path):
    """Write audio whose channels differ: tones of 100, 200, 300 and 400 Hz."""
    time = torch.arange(RATE) / RATE
    tones = torch.stack([torch.sin(2 * torch.pi * 100 * n * time) for n in (1, 2, 3, 4)])
    for number in range(4):
        write_audio(tmp_path / 'audio' / f'{number}.wav', (0.1 + 0.05 * number) * tones, RATE)
    return tmp_path / 'audio'


@pytest.fixture
def solver(make_solver, folder):
    return make_solver(
        'dset=audio/default',
        *(f'datasource.{split}={folder}' for split in ('train', 'valid', 'evaluate', 'generate')),
        'channels=4',
        'datasource.max_channels=4',
        'optim.updates_per_epoch=2',
        'evaluate.every=1',
        'dataset.evaluate.num_samples=2',
        'evaluate.metrics={sisnr: true, mel: true, snr: true, loudness: true, lsd: true}',
        'generate.every=1',
        'dataset.generate.num_samples=4',
        'dataset.generate.segment_duration=1.0',
        'logging.tensorboard=true',
    )


def test_a_run_with_four_channels(solver):
    solver.run()
    assert solver.updates == 2
    (stages,) = solver.history
    assert stages['train']['skipped'] == 0
    assert {'sisnr', 'mel', 'snr', 'loudness', 'lsd'} <= stages['evaluate'].keys()
    assert not solver.failures.counts
    samples = sorted((solver.folder / 'samples' / 'epoch_1').iterdir())
    assert len(samples) == 8
    assert {soundfile.info(path).channels for path in samples} == {4}
    reference, rate = soundfile.read(next(path for path in samples if '.reference.' in path.name))
    spectrum = torch.fft.rfft(torch.tensor(reference.T)).abs()
    pitches = (spectrum.argmax(1) * rate / len(reference)).tolist()
    assert pitches == pytest.approx([100, 200, 300, 400], abs=2)
    assert 'Hz, 4 channels' in solver.show(brief=True)


def test_channels_are_not_mixed_up_on_the_way_to_the_losses(solver):
    wav, _ = next(iter(solver.dataloaders['train']))
    assert wav.shape == (4, 4, RATE // 4)
    spectrum = torch.fft.rfft(wav * torch.hann_window(RATE // 4)).abs()
    assert spectrum.argmax(2).tolist() == [[25, 50, 75, 100]] * 4
    solver.model.train()
    metrics = solver.run_step(wav)
    assert not metrics['skipped']
    out = solver.model(wav)
    assert out.wav.shape == wav.shape


def test_files_with_other_numbers_of_channels_are_bad_files(make_solver, folder, caplog):
    write_audio(folder / 'stereo.wav', 0.1 * torch.randn(2, 40 * RATE), RATE)
    solver = make_solver(
        'dset=audio/default',
        *(f'datasource.{split}={folder}' for split in ('train', 'valid', 'evaluate', 'generate')),
        'channels=4',
        'datasource.max_channels=4',
        'dataset.max_bad_fraction=1.0',
    )
    loader = solver.dataloaders['train']
    for wav, _ in loader:
        assert wav.shape[1] == 4
    assert loader.bad_files.metrics() == {'skipped_files': 1.0}
    assert f'Skipped: {folder}/stereo.wav: cannot convert 2 channels to 4' in caplog.text
