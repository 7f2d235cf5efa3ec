"""Description of a model as a table: sizes, rates, receptive field, latency."""

import math
from collections.abc import Iterator

from torch import nn

from audiocodec.models.base import CompressionModel
from audiocodec.modules.reach import reads
from audiocodec.quantization import BaseQuantizer
from audiocodec.utils.progress import plain_number

Row = tuple[str, str]


def model_rows(model: CompressionModel, brief: bool = False) -> Iterator[Row]:
    """Yield sizes, rates, receptive field (unless `brief`) and latency of a model."""
    yield from parameter_rows(model)
    yield from rate_rows(model)
    if not brief:
        yield from reach_rows(model)
    yield 'latency', latency(model)


def parameter_rows(model: CompressionModel) -> Iterator[Row]:
    """Yield the numbers of parameters of the model and its parts, and the codebooks' size."""
    for name, part in model.named_children():
        if any(True for _ in part.parameters()):
            yield name, millions(part)
    if model.total_codebooks:
        dimension = getattr(getattr(model, 'quantizer', None), 'entry_dimension', None)
        channels = f' of {dimension} channels' if dimension else ''
        yield 'codebooks', f'{model.total_codebooks} of {model.cardinality} entries{channels}'
    yield 'model', millions(model)


def rate_rows(model: CompressionModel) -> Iterator[Row]:
    """Yield the rates of samples, frames and bits."""
    channels = {1: 'mono', 2: 'stereo'}.get(model.channels, f'{model.channels} channels')
    yield 'sample rate', f'{model.sample_rate} Hz, {channels}'
    if model.output_sample_rate != model.sample_rate:
        yield 'output rate', f'{model.output_sample_rate} Hz'
    ratios = getattr(getattr(model, 'encoder', None), 'ratios', None)
    product = f' ({" x ".join(map(str, ratios))})' if ratios else ''
    yield (
        'hop length',
        f'{model.hop_length} samples{product}, {plain_number(1000 / model.frame_rate)} ms',
    )
    yield 'frame rate', f'{model.frame_rate:.12g} Hz'
    if model.total_codebooks:
        powers = {2**k for k in range(11) if 2**k <= model.total_codebooks}
        counts = sorted(powers | {model.total_codebooks})
        rates = ', '.join(f'{plain_number(model.bandwidth_of(n))} ({n})' for n in counts)
        yield 'bandwidth', f'in kbps, with (codebooks): {rates}'


def reach_rows(model: CompressionModel) -> Iterator[Row]:
    """Yield the receptive fields of encoder and decoder; nothing for layers that are not known."""
    # The samples of a frame have different receptive fields: take their union.
    frame = (0, _samples_per_frame(model) - 1)
    try:
        encoder, decoder = _parts(model)
        in_samples = _extent(encoder, (0, 0), model.sample_rate, 'samples')
        in_frames = _extent(decoder, frame, model.frame_rate, 'frames')
    except ValueError:
        return
    yield 'receptive field', f'encoder: {in_samples}'
    yield '', f'decoder: {in_frames}'


def _samples_per_frame(model: CompressionModel) -> int:
    """Return the samples of the output per frame."""
    return model.hop_length * model.output_sample_rate // model.sample_rate


def _parts(model: CompressionModel) -> tuple[nn.Module, nn.Module]:
    """Return encoder and decoder of a model that consists of them."""
    parts = dict(model.named_children())
    if not {'encoder', 'decoder'} <= parts.keys():
        raise ValueError(f'{type(model).__name__} is not made of an encoder and a decoder')
    return parts['encoder'], parts['decoder']


def _extent(part: nn.Module, outputs: tuple[int, int], rate: float, unit: str) -> str:
    """Describe the inputs that the outputs first to last of a part depend on."""
    reach = reads(part, *outputs)
    without_lstm = reads(part, *outputs, recurrence=False)
    count = without_lstm.last - without_lstm.first + 1
    if not math.isfinite(count):
        return 'the whole input, through attention or norms over all time'
    text = f'{count:.0f} {unit}, {plain_number(1000 * count / rate)} ms'
    if math.isfinite(reach.first):
        return text
    return f'all previous {unit} through the LSTM; {text} without it'


def look_ahead(model: CompressionModel) -> float:
    """Return how many later input samples an output sample depends on, at most.

    Infinite if it depends on the whole input.

    Raises:
        ValueError: the model has layers that are not known here.
    """
    if getattr(model, 'renormalize', False):
        return math.inf
    encoder, decoder = _parts(model)

    quantizer = getattr(model, 'quantizer', None)

    def last(sample: int) -> float:
        frame = reads(decoder, sample, sample).last
        if isinstance(quantizer, BaseQuantizer):
            _, frame = quantizer.reads(frame, frame)
        return frame if math.isinf(frame) else reads(encoder, frame, frame).last

    ratio = model.output_sample_rate / model.sample_rate
    ahead = (last(sample) - sample / ratio for sample in range(_samples_per_frame(model)))
    return max(math.ceil(samples) if math.isfinite(samples) else samples for samples in ahead)


def latency(model: CompressionModel) -> str:
    """Describe the algorithmic latency: from a sample's input to its output, without computing."""
    try:
        samples = look_ahead(model) + 1
    except ValueError as error:
        return f'unknown: {error}'
    if math.isinf(samples):
        if getattr(model, 'renormalize', False):
            return 'the whole item: its loudness is normalized'
        return 'the whole item, through attention or norms over all time'
    duration = plain_number(1000 * samples / model.sample_rate)
    text = f'{duration} ms, {samples:.0f} samples: one frame'
    after = samples - model.hop_length
    return f'{text}, no lookahead' if after <= 0 else f'{text} and {after:.0f} samples of lookahead'


def millions(module: nn.Module) -> str:
    """Return the number of parameters of a module in millions, as text."""
    return f'{sum(p.numel() for p in module.parameters()) / 1e6:.2f} M parameters'
