import faulthandler
import json
import os
import signal
import struct
from pathlib import Path

import numpy as np
import pytest
import soundfile

from audiocodec.data import (
    AudioMeta,
    doctor,
    load_manifest,
    make_shards,
    read_segment,
    resample,
    save_manifest,
)
from audiocodec.data.doctor.file import Limits, examine
from audiocodec.data.pool import map_files

FORMATS = {
    'pcm.wav': {'subtype': 'PCM_16'},
    'float.wav': {'subtype': 'FLOAT'},
    'a.flac': {},
    'a.ogg': {},
    'a.mp3': {},
    'a.opus': {'format': 'OGG', 'subtype': 'OPUS'},
    'a.aiff': {},
}
EXAMPLES = str(Path(__file__).parents[3] / 'dataset' / 'example')


def noise(seconds=1.0, sample_rate=24000, channels=1, seed=0):
    return 0.1 * np.random.default_rng(seed).standard_normal(
        (round(seconds * sample_rate), channels)
    ).clip(-3, 3)


def write(path, wav, sample_rate=24000, **options):
    soundfile.write(path, wav, sample_rate, **options)
    return str(path)


def kinds(path, limits=None):
    return [problem.kind for problem in examine(str(path), limits or Limits()).problems]


def detail(path, kind):
    (problem,) = [
        problem for problem in examine(str(path), Limits()).problems if problem.kind == kind
    ]
    return problem.detail


@pytest.mark.parametrize('name', FORMATS)
def test_sound_file_has_no_problem_and_is_measured(tmp_path, name):
    wav = noise(1.5, channels=2) / 2
    found = examine(write(tmp_path / name, wav, **FORMATS[name]), Limits())
    assert found.problems == []
    assert (found.duration, found.sample_rate, found.channels) == (
        pytest.approx(1.5, abs=0.01),
        24000,
        2,
    )
    is_lossy = name.endswith(('ogg', 'mp3', 'opus'))
    assert found.amplitude == pytest.approx(abs(wav).max(), rel=1.0 if is_lossy else 1e-3)
    assert (found.silence, found.clipping) == (0, 0)


@pytest.mark.parametrize('name', FORMATS)
@pytest.mark.parametrize('share', [0.9, 0.5])
def test_truncated_file(tmp_path, name, share):
    path = tmp_path / name
    data = (tmp_path / write(path, noise(4.0), **FORMATS[name])).read_bytes()
    path.write_bytes(data[: int(share * len(data))])
    found = examine(str(path), Limits())
    assert [problem.kind for problem in found.problems] == ['truncated']
    assert 4 * share - 1.5 < found.duration <= 4 * share + 0.1  # up to a page of OGG is lost
    assert f'{found.duration:.2f}' in found.problems[0].detail


def test_ogg_that_was_never_written_to_its_end(tmp_path):
    path = tmp_path / 'a.ogg'
    data = (tmp_path / write(path, noise(4.0))).read_bytes()
    for kept in range(len(data) // 2, len(data) // 2 + 3000, 500):
        path.write_bytes(data[:kept] + bytes(len(data) - kept))
        assert kinds(path) == ['truncated']


def test_unreadable_and_empty_files(tmp_path):
    (tmp_path / 'text.wav').write_text('no audio')
    (tmp_path / 'nothing.mp3').touch()
    (tmp_path / 'folder.wav').mkdir()
    write(tmp_path / 'empty.wav', noise(0))
    assert kinds(tmp_path / 'text.wav') == ['unreadable']
    assert (
        detail(tmp_path / 'text.wav', 'unreadable')
        == 'cannot be read as audio: Format not recognised'
    )
    assert kinds(tmp_path / 'folder.wav') == ['unreadable']
    assert kinds(tmp_path / 'nothing.mp3') == kinds(tmp_path / 'empty.wav') == ['empty']
    assert kinds(tmp_path / 'nowhere.wav') == ['missing']


@pytest.mark.parametrize(
    ('place', 'form', 'value', 'message'),
    [
        (40, '<I', 0, '48000 bytes follow the end of its 0 samples'),
        (40, '<I', 20000, '28000 bytes follow the end of its 10000 samples'),
        (24, '<I', 16000, '16000 x 2 bytes are 48000 a second'),
        (22, '<H', 2, r'samples of 2 x 16 bits, together 2 bytes'),
    ],
)
def test_wrong_header(tmp_path, place, form, value, message):
    path = tmp_path / 'a.wav'
    write(path, noise())
    data = bytearray(path.read_bytes())
    assert data[36:40] == b'data'
    data[place : place + struct.calcsize(form)] = struct.pack(form, value)
    path.write_bytes(data)
    assert message in detail(path, 'header')


def test_harmless_headers(tmp_path):
    path = tmp_path / 'a.wav'
    write(path, noise())
    data = path.read_bytes()
    for size in (
        0x7FFFFFFF,
        0xFFFFFFFF,
        48044,
        47998,
    ):  # unknown while it was written, or counted with the header
        path.write_bytes(data[:40] + struct.pack('<I', size) + data[44:])
        assert kinds(path) == []
    path.write_bytes(data + b'LIST' + struct.pack('<I', 9000) + bytes(9000))
    assert kinds(path) == []


def test_samples_that_are_no_audio(tmp_path):
    wav = noise()
    wav[[5, 700]] = np.nan
    wav[9000] = -np.inf
    assert (
        detail(write(tmp_path / 'nan.wav', wav, subtype='FLOAT'), 'nonfinite')
        == '3 samples are NaN or Inf'
    )
    assert kinds(write(tmp_path / 'scale.wav', 32768 * noise(), subtype='FLOAT'))[0] == 'scale'
    assert kinds(write(tmp_path / 'loud.wav', 4 * noise(), subtype='FLOAT')) == []


def test_silence(tmp_path):
    hiss = 10 ** (-70 / 20) * noise(4.0) / 0.1
    assert kinds(write(tmp_path / 'zeros.flac', np.zeros(24000))) == ['silent']
    assert kinds(write(tmp_path / 'constant.wav', np.full(24000, 0.25))) == ['silent']
    assert kinds(write(tmp_path / 'hiss.wav', hiss)) == ['silent']
    assert kinds(tmp_path / 'hiss.wav', Limits(silence_db=-80)) == []
    for seconds, expected in ((0.4, ['mostly_silent']), (1.2, [])):
        wav = hiss.copy()
        wav[: round(seconds * 24000)] = noise(seconds)
        assert kinds(write(tmp_path / 'start.wav', wav)) == expected
    assert examine(str(tmp_path / 'start.wav'), Limits()).silence == pytest.approx(0.7)


@pytest.mark.parametrize(
    ('name', 'gain', 'expected'),
    [
        ('a.wav', 20.0, True),
        ('a.flac', 20.0, True),
        ('a.wav', 3.0, False),
        ('float.wav', 20.0, False),
    ],
)
def test_clipping(tmp_path, name, gain, expected):
    """Runs at full scale; single samples there are no clipping, and floats go beyond."""
    wav = gain * 0.1 * np.sin(np.arange(48000) * 0.05)[:, None]
    path = (
        write(tmp_path / name, wav.clip(-1, 1) if 'float' not in name else wav, subtype='FLOAT')
        if 'float' in name
        else write(tmp_path / name, wav.clip(-1, 1))
    )
    found = examine(path, Limits())
    at_limit = (abs(wav) >= 0.9995).mean()
    assert found.clipping == pytest.approx(at_limit, abs=2e-3)
    assert ('clipping' in [problem.kind for problem in found.problems]) == (
        expected or 'float' in name
    )
    spikes = noise()
    spikes[::50], spikes[1::100] = 1.0, 1.0
    assert examine(write(tmp_path / 'spikes.wav', spikes), Limits()).clipping == 0


def speech_like(seconds, sample_rate):
    """Noise whose spectrum falls by 6 dB an octave, at two levels in turn."""
    wav = noise(seconds, sample_rate, seed=3)[:, 0]
    for place in range(1, len(wav)):
        wav[place] += 0.9 * wav[place - 1]
    return 0.3 * wav * (1.2 + np.sin(np.arange(len(wav)) * 12 / sample_rate))


@pytest.mark.parametrize('name', ['a.wav', 'a.flac', 'a.ogg'])
def test_bandwidth_of_an_upsampled_file(tmp_path, name):
    import torch

    narrow = torch.from_numpy(speech_like(3.0, 8000)).float()
    found = examine(write(tmp_path / name, resample(narrow, 8000, 24000).numpy()), Limits())
    assert [problem.kind for problem in found.problems] == ['bandwidth']
    assert found.cutoff == pytest.approx(4000, rel=0.08)
    assert found.problems[0].detail == f'energy ends at {found.cutoff / 1000:.1f} kHz of 12 kHz'
    assert (
        kinds(tmp_path / name, Limits(sample_rate=8000)) == []
    )  # good enough for telephone speech
    assert kinds(tmp_path / name, Limits(bandwidth=0.3)) == []
    assert kinds(write(tmp_path / name, speech_like(3.0, 24000))) == []


def test_bandwidth_of_a_low_bitrate(tmp_path):
    """What 64 kbps leave of 44.1 kHz: nothing above 11 kHz."""
    spectrum = np.fft.rfft(speech_like(3.0, 44100))
    frequency = np.fft.rfftfreq(3 * 44100, 1 / 44100)
    spectrum *= 10 ** (-90 / 20 * ((frequency - 11000) / 300).clip(0, 1))
    path = write(tmp_path / 'a.wav', np.fft.irfft(spectrum), 44100)
    assert kinds(path) == ['bandwidth']
    assert examine(path, Limits()).cutoff == pytest.approx(11000, rel=0.03)
    assert kinds(path, Limits(sample_rate=24000)) == []


def test_dull_sounds_are_no_low_bitrate(tmp_path):
    time = np.arange(72000) / 24000
    tone = sum(np.sin(2 * np.pi * 110 * k * time) * 10 ** (-k / 4) for k in range(1, 20))
    decay = 10 ** (-noise(3.0, seed=1) * 0) * (0.1 * tone * np.exp(-3 * time))[:, None]
    assert kinds(write(tmp_path / 'string.wav', decay + 1e-4 * noise(3.0))) == []
    assert kinds(write(tmp_path / 'sine.wav', 0.5 * np.sin(2 * np.pi * 440 * time))) == []


def test_content_of_another_format(tmp_path):
    path = tmp_path / 'a.wav'
    os.rename(write(tmp_path / 'a.flac', noise()), path)
    assert kinds(path) == ['suffix']


def test_manifest_that_is_wrong_about_its_files(tmp_path):
    path = write(tmp_path / 'a.wav', noise(2.0))
    for meta, expected in [
        (AudioMeta(path, 2.0, 24000, 1), []),
        (AudioMeta(path, 2.05, 24000), []),
        (AudioMeta(path, 2.0, 16000), ['mismatch']),
        (AudioMeta(path, 2.0, 24000, 2), ['mismatch']),
        (AudioMeta(path, 1.0, 24000), ['mismatch']),
        (AudioMeta(path, 3.0, 24000), ['truncated']),
    ]:
        assert [problem.kind for problem in examine(meta, Limits()).problems] == expected


def test_duplicates_across_formats(tmp_path):
    wav = (noise() * 32767).round() / 32768
    write(tmp_path / 'a.wav', wav)
    write(tmp_path / 'b.flac', wav)
    write(tmp_path / 'c.wav', wav, subtype='FLOAT')
    write(tmp_path / 'd.wav', wav + 1 / 32768)
    write(tmp_path / 'e.wav', wav, 16000)
    report = doctor.check(tmp_path)
    assert report.counts == {'duplicate': 2}
    first = f'the same samples as {tmp_path}/a.wav'
    assert {
        os.path.basename(file.path): problem.detail
        for file in report.files
        for problem in file.problems
    } == {'b.flac': first, 'c.wav': first}
    kept = report.cleaned(exclude=['duplicate'])
    assert [os.path.basename(meta.path) for meta in kept] == ['a.wav', 'd.wav', 'e.wav']
    assert len(report.cleaned()) == 5


@pytest.fixture
def folder(tmp_path):
    """Two sound files, a silent one, a truncated one, and one that is text."""
    audio = tmp_path / 'audio'
    (audio / 'deep').mkdir(parents=True)
    write(audio / 'a.wav', noise(1.5))
    write(audio / 'deep' / 'b.flac', noise(3.0, seed=1))
    write(audio / 'deep' / 'silent.wav', np.zeros(24000 * 11))
    write(audio / 'cut.wav', noise(2.0, seed=2))
    (audio / 'cut.wav').write_bytes((audio / 'cut.wav').read_bytes()[:50_000])
    (audio / 'text.wav').write_text('no audio')
    return audio


def test_report_of_a_folder(folder):
    report = doctor.check(folder)
    assert report.has_errors
    assert report.counts == {'unreadable': 1, 'truncated': 1, 'silent': 1}
    assert report.durations()[2:5] == [(1, 2, 2), (2, 5, 1), (5, 10, 0)]
    assert sum(count for _, _, count in report.durations()) == 4
    text = report.show()
    assert text.startswith(
        f'{folder}: 4 files, 0.00 h, sample rates: 24000 Hz (4), channels: 1 (4); 1 more'
    )
    for line in (
        '  text.wav: cannot be read as audio: Format not recognised',
        '  deep/silent.wav: all of its 11.00 s are below -60 dBFS',
        '  cut.wav: holds 1.04 of the 2.00 s in its header',
        f'(paths below {folder})',
        '      10 s to 20 s        1 ####################',
    ):
        assert line in text.splitlines()
    assert 'ERROR    truncated            1     0.00  shorter than' in text
    assert report.show(examples=0).count('.wav') == 0
    saved = json.loads(json.dumps(report.to_dict(), allow_nan=False))
    assert (saved['files'], saved['errors'], saved['counts']) == (5, 2, report.counts)
    assert saved['hours'] == pytest.approx((1.5 + 3 + 11 + 49956 / 48000) / 3600)
    assert saved['limits']['silence_db'] == -60
    cut = next(entry for entry in saved['entries'] if entry['path'].endswith('cut.wav'))
    assert cut['problems'] == [
        {'kind': 'truncated', 'level': 'error', 'detail': 'holds 1.04 of the 2.00 s in its header'}
    ]


def test_cleaned_manifest_is_what_is_sound(folder, tmp_path):
    report = doctor.check(folder)
    kept = report.cleaned()
    assert [os.path.relpath(meta.path, folder) for meta in kept] == [
        'a.wav',
        'deep/b.flac',
        'deep/silent.wav',
    ]
    assert [(meta.duration, meta.sample_rate, meta.channels) for meta in kept[:2]] == [
        (1.5, 24000, 1),
        (3.0, 24000, 1),
    ]
    assert kept[0].amplitude == pytest.approx(abs(noise(1.5)).max(), abs=1e-4)
    save_manifest(report.cleaned(['silent']), folder / 'clean.jsonl')
    assert not doctor.check(folder / 'clean.jsonl').counts
    with pytest.raises(ValueError, match='exclude=quiet: expected any of suffix, silent'):
        report.cleaned(['quiet'])
    with pytest.raises(ValueError, match='no file is left'):
        doctor.check(folder / 'text.wav').cleaned()


def test_manifest_with_wrong_lines_keeps_its_weights(folder, tmp_path):
    metas = [
        AudioMeta(str(folder / 'a.wav'), 9.0, 24000, weight=2.0, info_path='/i.zip:a'),
        AudioMeta(str(folder / 'a.wav'), 1.5, 24000, weight=3.0),
        AudioMeta(str(folder / 'deep' / 'b.flac'), 3.0, 16000),
        AudioMeta(str(folder / 'gone.wav'), 3.0, 24000),
    ]
    save_manifest(metas, folder / 'm.jsonl')
    with open(folder / 'm.jsonl', 'a') as file:
        file.write('{"path": 3}\n')
    report = doctor.check(folder / 'm.jsonl')
    assert report.counts == {'manifest': 1, 'missing': 1, 'truncated': 1, 'mismatch': 1}
    assert f'  {folder}/m.jsonl, line 5: ' in report.show()
    assert [(meta.duration, meta.weight) for meta in report.cleaned()] == [(1.5, 3.0)]
    mended = report.cleaned(mend=True)
    assert [(meta.sample_rate, meta.weight) for meta in mended] == [(24000, 3.0), (24000, None)]
    twice = save_manifest([metas[1], metas[1]], folder / 'twice.jsonl')
    assert twice is None
    assert 'a.wav: listed again' in doctor.check(folder / 'twice.jsonl').show()


def test_folder_with_a_manifest_is_checked_as_training_reads_it(folder):
    save_manifest([AudioMeta(str(folder / 'a.wav'), 1.5, 24000)], folder / 'data.jsonl')
    assert [file.path for file in doctor.check(folder).files] == [str(folder / 'a.wav')]
    assert load_manifest(folder / 'data.jsonl')[0].path == str(folder / 'a.wav')


def test_sources_that_cannot_be_checked(tmp_path):
    with pytest.raises(ValueError, match='nowhere: no such file or folder'):
        doctor.check(tmp_path / 'nowhere')
    with pytest.raises(ValueError, match='no audio in this folder'):
        doctor.check(tmp_path)
    meta = AudioMeta(write(tmp_path / 'a.wav', noise()), 1.0, 24000)
    make_shards([meta], tmp_path / 'shards', 24000, workers=1)
    with pytest.raises(ValueError, match=r'shards.*shards\.json names'):
        doctor.check(tmp_path / 'shards')


def deadly(number):
    if number in (3, 20):
        faulthandler.disable()  # what it would print is not of interest
        os.kill(os.getpid(), signal.SIGSEGV)
    return number * number


def deadly_examine(item, limits):
    return deadly(3) if 'deadly' in item else examine(item, limits)


@pytest.mark.slow
def test_file_that_kills_its_decoder_is_reported_and_the_others_examined(tmp_path, monkeypatch):
    expected = [number * number if number not in (3, 20) else None for number in range(40)]
    for workers in (1, 3):
        assert (
            map_files(deadly, range(40), workers, 'Test', lambda number: None, at_least=1)
            == expected
        )
    for name in ('a.wav', 'deadly.wav', 'z.wav'):
        write(tmp_path / name, noise(seed=len(name) + ord(name[0])))
    monkeypatch.setattr('audiocodec.data.doctor.report.examine', deadly_examine)
    files = doctor.check(tmp_path).files
    assert [[problem.kind for problem in file.problems] for file in files] == [
        [],
        ['unreadable'],
        [],
    ]
    assert 'the process that decoded it died' in files[1].problems[0].detail


def test_names_that_are_no_text(tmp_path):
    path = os.fsencode(tmp_path) + b'/\xff.wav'
    with open(path, 'wb') as file:
        file.write(b'no audio')
    write(tmp_path / 'a.wav', noise())
    report = doctor.check(tmp_path)
    assert (
        '  \\udcff.wav: cannot be read as audio: Format not recognised'
        in report.show().splitlines()
    )
    json.dumps(report.to_dict())
    os.replace(tmp_path / 'a.wav', path)
    (file,) = doctor.check(tmp_path).files
    assert file.problems == []
    assert read_segment(file.path, 0, 100, 24000).shape == (1, 100)


@pytest.mark.slow
def test_no_false_alarm_on_the_examples():
    report = doctor.check(EXAMPLES, workers=1)
    assert len(report.files) == 73
    assert {
        os.path.basename(file.path): file.problems for file in report.files if file.problems
    } == {}
