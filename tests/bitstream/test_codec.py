"""Waveforms through streams: the same as encode and decode of the model; losses are silent."""

import io

import pytest
import torch
from streams import MODEL, draw_tables
from tiny_codecs import tiny_codec

from audiocodec import bitstream
from audiocodec.bitstream.records import Scanner, to_bytes
from audiocodec.models import InterleaveStereoCompressionModel
from audiocodec.utils import config

HOP = 160


def build(channels=1, **options):
    """A model whose codes differ from frame to frame, at 8 kHz."""
    torch.manual_seed(0)
    node = tiny_codec(kmeans_init=False, channels=channels, causal=not options, lstm=0)
    node = {**node, 'channels': channels, **options}
    model = config.build(node).eval()
    with torch.no_grad():
        latents = model.encoder(wave(20 * HOP, channels)[None])
    books = model.quantizer.codebooks.embed
    books.normal_().mul_(latents.std(dim=(0, 2))).add_(latents.mean(dim=(0, 2)))
    books[1:] -= books[1:].mean(dim=1, keepdim=True)
    return model


def wave(samples, channels=1):
    return 0.3 * torch.randn(channels, samples, generator=torch.Generator().manual_seed(1))


def to_stream(model, wav, tables=None, packet_seconds=0.2):
    file = io.BytesIO()
    header = bitstream.describe(model, tables, packet_seconds, 'a model')
    bitstream.encode(model, wav, bitstream.BitstreamWriter(file, header, tables))
    return file.getvalue()


def from_stream(model, data, tables=None):
    reader = bitstream.BitstreamReader(io.BytesIO(data))
    return bitstream.decode(model, reader, tables), reader


MODELS = {
    'causal': {},
    'renormalizing': {'renormalize': True},
    'segments': {'renormalize': True, 'segment_duration': 0.4, 'overlap': 0.3},
    'stereo': {'channels': 2, 'segment_duration': 0.4, 'overlap': 0.01},
}


@pytest.mark.parametrize('options', MODELS.values(), ids=MODELS)
@pytest.mark.parametrize('samples', [1, 33 * HOP + 7])
def test_a_stream_decodes_to_what_the_model_decodes(options, samples):
    model = build(**options)
    wav = wave(samples, model.channels)
    decoded, reader = from_stream(model, to_stream(model, wav))
    assert torch.equal(decoded.wav, model.decode(*model.encode(wav[None]))[0, :, :samples])
    assert decoded.lost == 0
    assert str(reader.damage) == 'complete'
    bitstream.check_model(reader.header, model)


def without(data, *numbers):
    """A stream without some of its packets."""
    found = [
        one
        for one in Scanner().feed(data, True)
        if one.kind != b'\xc5P' or one.number not in numbers
    ]
    return b''.join(map(to_bytes, found))


@pytest.mark.parametrize('options', MODELS.values(), ids=MODELS)
def test_a_lost_packet_is_silent_and_costs_its_time_only(options):
    model = build(**options)
    wav = wave(75 * HOP + 7, model.channels)
    data = to_stream(model, wav)
    whole, reader = from_stream(model, data)
    decoded, damaged = from_stream(model, without(data, 1))
    assert damaged.damage.lost == 1
    stride = reader.header.stride
    assert decoded.lost == pytest.approx(min(stride, wav.shape[1] - stride) / 8000)
    difference = (decoded.wav - whole.wav).abs().amax(dim=0)
    reach = 9 * HOP  # of the decoder: frames after the gap, and before it, see others in it
    overlap = 0 if model.segments is None else model.segments.length - stride
    assert difference[: stride - (0 if 'causal' in options or not options else reach)].max() == 0
    assert difference[2 * stride + max(reach, overlap) :].max() < 1e-6
    middle = slice(stride + max(overlap, 80), 2 * stride - 80)
    assert decoded.wav[:, middle].abs().max() == 0
    assert whole.wav[:, middle].abs().min(dim=1).values.max() > 0


def test_silence_fades_inside_the_lost_time():
    model = build()
    wav = wave(45 * HOP)
    decoded, _ = from_stream(model, without(to_stream(model, wav), 1))
    start, end = 10 * HOP, 20 * HOP
    codes = model.encode(wav[None])[0]
    codes[..., 10:20] = codes[..., 9:10]
    repeated = model.decode(codes)[0]
    gain = torch.arange(40, 0, -1) / 41  # 5 ms
    assert torch.allclose(
        decoded.wav[:, start : start + 40], repeated[:, start : start + 40] * gain
    )
    tail = repeated[:, end - 40 : end] * gain.flip(0)
    assert torch.allclose(decoded.wav[:, end - 40 : end], tail)
    assert torch.equal(decoded.wav[:, end:], repeated[:, end:])


def test_every_packet_has_the_scale_of_the_recording():
    model = build(renormalize=True)
    data = to_stream(model, wave(45 * HOP))
    whole, reader = from_stream(model, data)
    decoded, _ = from_stream(model, without(data, 0))
    after = reader.header.stride + 9 * HOP
    assert torch.allclose(decoded.wav[:, after:], whole.wav[:, after:], atol=1e-6)
    assert whole.wav[:, after:].abs().max() > 1e-3


@pytest.mark.parametrize('options', MODELS.values(), ids=MODELS)
def test_decoding_from_a_packet_on_ends_where_the_waveform_does(options):
    model = build(**options)
    wav = wave(33 * HOP + 7, model.channels)
    reader = bitstream.BitstreamReader(io.BytesIO(to_stream(model, wav)))
    reader.seek(1)
    decoded = bitstream.decode(model, reader)
    assert decoded.wav.shape == (model.channels, wav.shape[1] - reader.header.stride)
    assert decoded.lost == 0


def test_everything_lost():
    model = build()
    data = to_stream(model, wave(3 * HOP))
    with pytest.raises(ValueError, match=r'no packets to decode \(lost packets: 1\)'):
        from_stream(model, without(data, 0))


def test_a_higher_output_rate():
    node = tiny_codec(kmeans_init=False, lstm=0)
    node['decoder'] = {**node['decoder'], 'ratios': [8, 5, 4, 2]}
    torch.manual_seed(0)
    model = config.build({**node, 'output_sample_rate': 16000}).eval()
    wav = wave(33 * HOP + 7)
    decoded, _ = from_stream(model, to_stream(model, wav))
    assert torch.equal(
        decoded.wav, model.decode(*model.encode(wav[None]))[0, :, : 2 * wav.shape[1]]
    )
    decoded, _ = from_stream(model, without(to_stream(model, wav), 1))
    assert decoded.lost == pytest.approx(0.2)
    assert decoded.wav[:, 2 * 10 * HOP + 80 : 2 * 20 * HOP - 80].abs().max() == 0


def test_live_encoding_writes_packets_while_samples_arrive():
    model = build()
    file = io.BytesIO()
    writer = bitstream.BitstreamWriter(file, bitstream.describe(model, packet_seconds=0.1))
    wav = wave(7 * (2 * HOP + 11))
    sizes = []

    def arriving():
        for part in wav.split(2 * HOP + 11, dim=-1):
            yield part
            sizes.append(writer.bytes)

    bitstream.encode_live(model, arriving(), writer)
    assert sizes == sorted(sizes)
    assert len(set(sizes)) > 2
    reader = bitstream.BitstreamReader(io.BytesIO(file.getvalue()))
    codes = torch.cat([torch.from_numpy(one.codes) for one in reader.packets()], dim=1)
    assert reader.samples == writer.samples == wav.shape[1]
    assert torch.equal(codes, model.encode(wav[None])[0][0])


def test_models_that_need_the_whole_signal_cannot_be_encoded_live():
    model = build(renormalize=True)
    writer = bitstream.BitstreamWriter(io.BytesIO(), bitstream.describe(model))
    with pytest.raises(ValueError, match='this model cannot stream: renormalize'):
        bitstream.encode_live(model, [], writer)


def test_the_fingerprint_is_that_of_the_weights():
    model = build()
    found = bitstream.hash_of(model)
    assert len(found) == 8
    assert bitstream.hash_of(build()) == found
    model.quantizer.codebooks.cluster_size += 1  # a statistic of training
    assert bitstream.hash_of(model) == found
    header = bitstream.describe(model, name='mine')
    for parameter in (model.decoder.model[0].conv.conv.bias, model.quantizer.codebooks.embed):
        before = parameter.detach().clone()
        parameter.data += 1e-6
        with pytest.raises(
            ValueError, match=f"{found.hex()}, which the encoder called 'mine'; this"
        ):
            bitstream.check_model(header, model)
        parameter.data.copy_(before)
    bitstream.check_model(header, model)


def test_refusals():
    model = build()
    with pytest.raises(ValueError, match=f'fitted to the model {MODEL.hex()}'):
        bitstream.describe(model, draw_tables())
    with pytest.raises(ValueError, match='frames_per_packet=50000: expected 1 to 32767'):
        bitstream.describe(model, packet_seconds=1000.0)
    assert bitstream.describe(model, packet_seconds=1e-9).frames_per_packet == 1
    for seconds in (0.0, -1.0, float('nan'), float('inf')):
        with pytest.raises(ValueError, match=f'packets of {seconds} seconds: expected more than'):
            bitstream.describe(model, packet_seconds=seconds)
    stereo = InterleaveStereoCompressionModel(build(renormalize=True))
    header = bitstream.describe(stereo)
    for samples in (100, 12000):  # as many packets as the two channels have scales
        writer = bitstream.BitstreamWriter(io.BytesIO(), header)
        with pytest.raises(ValueError, match=r'InterleaveStereo.* has scales that no packet can'):
            bitstream.encode(stereo, wave(samples, 2), writer)
