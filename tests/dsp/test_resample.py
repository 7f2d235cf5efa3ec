import math

import julius
import pytest
import torch

from audiocodec.data import read_segment
from audiocodec.dsp.resample import Resampler, resample, resampler


@pytest.mark.parametrize(
    ('from_rate', 'to_rate'), [(44100, 24000), (16000, 24000), (48000, 24000), (22050, 16000)]
)
def test_equals_julius(from_rate, to_rate):
    wav = torch.randn(2, 3, 10_001)
    torch.testing.assert_close(
        resample(wav, from_rate, to_rate), julius.resample_frac(wav, from_rate, to_rate)
    )


@pytest.mark.parametrize(
    ('from_rate', 'to_rate'),
    [
        (44100, 24000),
        (11025, 48000),
        (44101, 16000),
        (8000, 8001),
        (3, 2),
    ],
)
@pytest.mark.parametrize('length', [0, 1, 2, 333, 5003])
def test_length_is_exact(from_rate, to_rate, length):
    assert resample(torch.randn(1, length), from_rate, to_rate).shape == (
        1,
        length * to_rate // from_rate,
    )


def test_length_is_exact_beyond_float32():
    assert resampler(44100, 48000).length(44100 * 3600 + 1) == 48000 * 3600 + 1


@pytest.mark.parametrize(
    ('from_rate', 'to_rate'), [(44100, 24000), (24000, 44100), (48000, 16000), (44101, 24000)]
)
def test_pure_tone_survives_and_alias_does_not(from_rate, to_rate):
    seconds = torch.arange(from_rate // 4, dtype=torch.float64) / from_rate
    tone = resample(torch.sin(2 * math.pi * 1000 * seconds).float()[None], from_rate, to_rate)[0]
    expected = torch.arange(len(tone), dtype=torch.float64) / to_rate
    middle = slice(200, -200)
    ideal = torch.sin(2 * math.pi * 1000 * expected).float()
    torch.testing.assert_close(tone[middle], ideal[middle], atol=2e-3, rtol=0)
    if from_rate > to_rate:
        above = torch.sin(2 * math.pi * (0.5 * to_rate + 1000) * seconds).float()[None]
        assert resample(above, from_rate, to_rate)[0][middle].abs().max() < 0.02


@pytest.mark.parametrize(
    'ratio', [(147, 80), (3, 2), (2, 3), (1, 2), (2, 1), (10001, 8000), (1, 1)]
)
def test_segment_equals_part_of_the_whole(ratio):
    filters = Resampler(*ratio)
    wav = torch.randn(2, 24_001)
    whole = resample(wav, *ratio)
    for start, frames in [
        (0, 10),
        (0, whole.shape[-1]),
        (777, 1000),
        (whole.shape[-1] - 13, 13),
        (5000, 1),
    ]:
        first, last = filters.source_range(start, frames, wav.shape[-1])
        segment = filters.segment(wav[:, first:last], start, frames)
        torch.testing.assert_close(segment, whole[:, start : start + frames], atol=1e-6, rtol=1e-5)


def test_sparse_kernel_equals_dense():
    sparse = Resampler(147, 80)
    sparse.kernel, sparse.is_sparse = sparse._sparse_kernel(), True
    wav = torch.randn(2, 3000)
    torch.testing.assert_close(
        sparse.segment(wav, 0, 1632), resample(wav, 147, 80), atol=3e-5, rtol=0
    )
    assert Resampler(44101, 24000).kernel.numel() < 2**22


def test_filters_are_cached():
    assert resampler(44100, 24000) is resampler(88200, 48000)


def test_equal_rates_return_the_input():
    wav = torch.randn(1, 50)
    assert resample(wav, 24000, 24000) is wav


@pytest.mark.parametrize('rate', [0, -1, 22050.5])
def test_wrong_rate_is_named(rate):
    with pytest.raises(ValueError, match=str(rate)):
        resample(torch.randn(1, 50), rate, 24000)


@pytest.mark.parametrize(('from_rate', 'to_rate'), [(44100, 24000), (48000, 24000), (16000, 24000)])
def test_bits_do_not_depend_on_threads(from_rate, to_rate):
    wav, threads = torch.randn(2, from_rate), torch.get_num_threads()
    try:
        results = []
        for number in (1, 2):
            torch.set_num_threads(number)
            results.append(resample(wav, from_rate, to_rate))
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(*results)


def test_ratio_of_a_damaged_header_needs_no_memory(tmp_path, make_file):
    path = make_file(tmp_path / 'a.wav', 1.0, 191999)
    assert read_segment(path, 0, 100, 48000).shape == (1, 100)
    path = make_file(tmp_path / 'b.wav', 1.0, 767999)
    with pytest.raises(
        ValueError, match=r'b\.wav: cannot resample 767999 Hz to 24000 Hz: .* 39\d+ values'
    ):
        read_segment(path, 0, 100, 24000)
