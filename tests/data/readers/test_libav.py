import numpy as np
import pytest
from encoders import WILD, assert_segments, encode, sweep

from audiocodec.data import audio_info, read_audio
from audiocodec.data.readers import libav, open_audio
from audiocodec.data.readers.libav import LibavReader

av = pytest.importorskip('av')

# file name, encoder, further options, error relative to the signal (of lossy codecs)
FORMATS = {
    'a.m4a': ('aac', {}, 0.2),
    'b.m4a': ('alac', {}, 1e-4),
    'a.mp4': ('aac', {}, 0.2),
    'a.mov': ('pcm_s16le', {}, 1e-4),
    'a.3gp': ('aac', {}, 0.2),
    'a.aac': ('aac', {'container': 'adts'}, 0.2),
    'a.webm': ('libopus', {}, 0.3),
    'a.mka': ('flac', {}, 1e-4),
    'b.mka': ('vorbis', {'coding': {'strict': '-2'}}, None),
    'a.mkv': ('libmp3lame', {}, 0.2),
    'a.wma': ('wmav2', {'coding': {'b': '64000'}}, 0.3),
    'a.avi': ('libmp3lame', {}, 0.2),
    'a.ac3': ('ac3', {}, 0.3),
    'a.oga': ('flac', {}, 1e-4),
    'a.spx': ('libspeex', {}, 0.6),
    'a.ts': ('mp2', {}, 0.3),
    'a.wv': ('wavpack', {}, 1e-4),
    'a.tta': ('tta', {}, 1e-4),
    'a.flv': ('aac', {}, 0.2),
}
RATES = {'a.webm': 48000, 'a.spx': 16000, 'a.ts': 48000, 'a.ac3': 48000}


def read(path, start, frames):
    return read_audio(path, start, frames)[0]


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
    libav._table.cache_clear()


def make(folder, name, seconds=13.0, channels=None):
    channels = channels or (2 if name == 'b.mka' else 1)  # FFmpeg's own encoder of Vorbis
    codec, options, _ = FORMATS[name]
    rate = RATES.get(name, 44100)
    wav = sweep(seconds, rate, channels)
    return encode(folder / name, wav, rate, codec, **options), wav, rate


@pytest.mark.slow
@pytest.mark.parametrize('name', FORMATS)
def test_segments_are_those_of_the_whole_file(tmp_path, name):
    path, wav, rate = make(tmp_path, name)
    whole, sample_rate = read_audio(path)
    info = audio_info(path, check_end=True)
    assert (info.sample_rate, info.frames, info.channels) == (rate, *whole.shape[::-1])
    assert sample_rate == rate
    assert abs(whole.shape[-1] - len(wav)) < 0.1 * rate
    assert_segments(path, whole, read)
    limit = FORMATS[name][2]
    if limit is not None:
        assert error_after_alignment(whole[0].numpy(), wav[:, 0]) < limit


def error_after_alignment(found, expected):
    """Return the relative error at the best delay up to 3000 samples, over the whole file."""
    begin, end = 20000, min(len(expected), len(found)) - 4000
    spectrum = np.fft.rfft(found[begin - 3000 : end + 3000])
    other = np.fft.rfft(expected[begin:end], end - begin + 6000)
    delay = int(np.argmax(np.fft.irfft(spectrum * other.conj())[:6000]))
    found = found[begin - 3000 + delay :][: end - begin]
    return np.linalg.norm(found - expected[begin:end]) / np.linalg.norm(expected[begin:end])


@pytest.mark.slow
@pytest.mark.parametrize('name', ['a.m4a', 'a.mka'])
@pytest.mark.parametrize('channels', [2, 6])
def test_channels_stay_apart(tmp_path, name, channels):
    path, _, _ = make(tmp_path, name, 11.0, channels)
    whole, _ = read_audio(path)
    assert whole.shape[0] == channels
    assert len({row.abs().sum().item() for row in whole}) == channels
    assert_segments(path, whole, read, tries=6)


@pytest.mark.parametrize('seconds', [0.05, 2.0, 10.0, 20.0])
def test_any_length(tmp_path, seconds):
    path, _, _ = make(tmp_path, 'a.mka', seconds)
    whole, _ = read_audio(path)
    assert whole.shape[-1] == round(seconds * 44100)
    assert_segments(path, whole, read, tries=6)


def test_padding_at_the_end_of_an_mp4_is_no_audio():
    assert audio_info(WILD / 'aac.m4a', check_end=True).frames == 44100
    assert read_audio(WILD / 'aac.m4a')[0].shape == (1, 44100)


def test_reading_equals_decoding_from_the_beginning(tmp_path):
    path, _, _ = make(tmp_path, 'a.m4a', 25.0)
    with av.open(str(path)) as container:
        whole = np.concatenate([frame.to_ndarray()[0] for frame in container.decode(audio=0)])
    found = read_audio(path)[0][0].numpy()
    np.testing.assert_array_equal(found, whole[: len(found)])


def test_the_places_are_found_once(tmp_path, monkeypatch):
    path, _, _ = make(tmp_path, 'a.m4a')
    first = LibavReader(str(path)).table
    libav._table.cache_clear()
    monkeypatch.setattr(libav, '_build', pytest.fail)
    again = LibavReader(str(path)).table
    assert len(first.keys) > 40
    for one, other in zip(first, again):
        np.testing.assert_array_equal(one, other)


def test_a_damaged_cache_or_a_changed_file_is_read_again(tmp_path):
    path, _, _ = make(tmp_path, 'a.m4a', 3.0)
    frames = audio_info(path).frames
    (table,) = (tmp_path / 'cache' / 'audiocodec' / 'libav').iterdir()
    table.write_bytes(table.read_bytes()[:100])
    libav._table.cache_clear()
    assert audio_info(path).frames == frames
    make(tmp_path, 'a.m4a', 2.0)
    assert audio_info(path).frames < frames


def test_reading_on_continues_in_the_block(tmp_path, monkeypatch):
    path, _, rate = make(tmp_path, 'a.m4a', 25.0)
    whole, _ = read_audio(path)
    calls = []
    plain = libav._decode_block
    monkeypatch.setattr(libav, '_decode_block', lambda *args: calls.append(args) or plain(*args))
    with open_audio(path) as reader:
        parts = [reader.read(start, rate) for start in range(0, reader.frames, rate)]
    np.testing.assert_array_equal(np.concatenate(parts).T, whole.numpy())
    assert len(calls) <= 2 * 3 + 1


def test_what_is_not_audio_is_refused(tmp_path):
    (tmp_path / 'text.m4a').write_text('no audio ' * 100)
    (tmp_path / 'empty.webm').touch()
    path, _, _ = make(tmp_path, 'a.m4a', 3.0)
    (tmp_path / 'cut.m4a').write_bytes(path.read_bytes()[:3000])
    for name in ('text.m4a', 'empty.webm', 'cut.m4a'):
        with pytest.raises(ValueError, match=rf'{name}: cannot be read as audio'):
            read_audio(tmp_path / name)


def test_without_the_package_the_extra_is_named(tmp_path, monkeypatch):
    path, _, _ = make(tmp_path, 'a.m4a', 1.0)
    monkeypatch.setattr(libav, 'version', lambda: None)
    with pytest.raises(ValueError, match=r'a\.m4a: this format needs the extra av: pip install'):
        read_audio(path)


def test_opus_surround_and_voc_blocks_are_read(tmp_path):
    """Of formats that libsndfile opens, but reads wrongly or not at all."""
    levels = np.array([0.1, 0.15, 0.2, 0.05, 0.25, 0.3], np.float32)
    tone = np.sin(np.arange(48000) * 0.05).astype(np.float32)[:, None]
    path = encode(tmp_path / 'a.opus', levels * tone, 48000, 'libopus')
    found, _ = read_audio(path)
    powers = found[:, 4000:-4000].square().mean(1).sqrt() * 2**0.5
    np.testing.assert_allclose(powers.numpy(), levels, atol=0.03)
    wav = sweep(1.0, 16000)
    found, rate = read_audio(encode(tmp_path / 'a.voc', wav, 16000, 'pcm_s16le'))
    assert rate == 16000
    np.testing.assert_allclose(found.numpy().T, wav, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize('name', ['a.m4a', 'a.mka', 'a.webm', 'a.wma', 'a.avi', 'a.aac'])
def test_a_block_is_not_decoded_from_the_beginning_of_the_file(tmp_path, name, monkeypatch):
    path, _, rate = make(tmp_path, name, 25.0)
    entries = []
    plain = libav._decode_from

    def decode_from(path, table, entry, begin, frames):
        entries.append(entry)
        return plain(path, table, entry, begin, frames)

    monkeypatch.setattr(libav, '_decode_from', decode_from)
    read(path, 21 * rate, 100)
    (entry,) = entries
    assert entry is not None
    starts = LibavReader(str(path)).table.starts
    assert 17.5 * rate < starts[entry] <= 18 * rate
