"""The arithmetic of a recipe as a table: sizes, rates, receptive field, latency, hours of audio."""

import math
from collections.abc import Iterator
from typing import Any

from torch import nn

from audiocodec.adversarial import AdversarialTrainer
from audiocodec.models import CompressionModel
from audiocodec.models.receptive_field import Reach, reads

Row = tuple[str, str]


def describe(
    cfg: Any, model: CompressionModel, adversaries: AdversarialTrainer, brief: bool = False
) -> str:
    """Tabulate what follows from a recipe and is easy to get wrong.

    Args:
        cfg: the configuration.
        model: built from it.
        adversaries: built from it.
        brief: leave out the layers and the receptive field.
    """
    rows = [*model_rows(model, brief), *adversary_rows(adversaries), *training_rows(cfg)]
    width = max(len(name) for name, _ in rows)
    lines = [f'  {name:<{width}}  {text}' for name, text in rows]
    return '\n'.join(lines if brief else [str(model), str(adversaries.discriminators), '', *lines])


def model_rows(model: CompressionModel, brief: bool = False) -> Iterator[Row]:
    """Sizes, rates, receptive field (unless `brief`) and latency of a model."""
    yield from parameter_rows(model)
    yield from rate_rows(model)
    if not brief:
        yield from reach_rows(model)
    yield 'latency', latency(model)


def parameter_rows(model: CompressionModel) -> Iterator[Row]:
    """Parameters of each part of the model."""
    for name, part in model.named_children():
        if any(True for _ in part.parameters()):
            yield name, _millions(part)
    if model.total_codebooks:
        dimension = getattr(getattr(model, 'quantizer', None), 'dimension', None)
        channels = f' of {dimension} channels' if dimension else ''
        yield 'codebooks', f'{model.total_codebooks} of {model.cardinality} entries{channels}'
    yield 'model', _millions(model)


def adversary_rows(adversaries: AdversarialTrainer) -> Iterator[Row]:
    """Parameters of each discriminator."""
    for name, part in adversaries.discriminators.items():
        yield name, f'{_millions(part)} (discriminator)'


def rate_rows(model: CompressionModel) -> Iterator[Row]:
    """Rates of samples, frames and bits."""
    yield 'sample rate', f'{model.sample_rate} Hz, {("mono", "stereo")[model.channels - 1]}'
    ratios = getattr(getattr(model, 'encoder', None), 'ratios', None)
    product = f' ({" x ".join(map(str, ratios))})' if ratios else ''
    yield 'hop length', f'{model.hop_length} samples{product}, {1000 / model.frame_rate:.4g} ms'
    yield 'frame rate', f'{model.frame_rate:.12g} Hz'
    if model.total_codebooks:
        counts = sorted(
            {2**k for k in range(11) if 2**k <= model.total_codebooks} | {model.total_codebooks}
        )
        rates = ', '.join(f'{bandwidth(model, n):.4g} ({n})' for n in counts)
        yield 'bandwidth', f'in kbps, with (codebooks): {rates}'


def bandwidth(model: CompressionModel, num_codebooks: int) -> float:
    """Kilobits per second with so many codebooks."""
    return num_codebooks * math.log2(model.cardinality) * model.frame_rate / 1000


def reach_rows(model: CompressionModel) -> Iterator[Row]:
    """How much a frame, and a sample of the output, depend on."""
    try:
        encoder, decoder = _parts(model)
        # Samples of one frame differ in what they read: all of a frame together.
        span = (0, model.hop_length - 1)
        fields = (
            ('encoder', encoder, (0, 0), model.sample_rate, 'samples'),
            ('decoder', decoder, span, model.frame_rate, 'frames'),
        )
        texts = [
            f'{name}: {_extent(reads(part, *of), reads(part, *of, recurrence=False), rate, unit)}'
            for name, part, of, rate, unit in fields
        ]
    except ValueError:
        return
    yield from zip(('receptive field', ''), texts)


def _parts(model: CompressionModel) -> tuple[nn.Module, nn.Module]:
    """Encoder and decoder of a model that is made of them."""
    parts = dict(model.named_children())
    if not {'encoder', 'decoder'} <= parts.keys():
        raise ValueError(f'{type(model).__name__} is not made of an encoder and a decoder')
    return parts['encoder'], parts['decoder']


def _extent(found: Reach, plain: Reach, rate: float, unit: str) -> str:
    """A reach as text; `plain` is that without recurrence."""
    count = plain.last - plain.first + 1
    if not math.isfinite(count):
        return 'everything, as its norm averages over all time'
    text = f'{count:.0f} {unit}, {1000 * count / rate:.4g} ms'
    return text if math.isfinite(found.first) else f'all before, by the LSTM; {text} without it'


def look_ahead(model: CompressionModel) -> float:
    """Samples of the input after it that a sample of the output depends on, at most; infinite if on
    all.

    Raises:
        ValueError: layers that are not known.
    """
    if getattr(model, 'renormalize', False):
        return math.inf
    encoder, decoder = _parts(model)

    def last(sample: int) -> float:
        frame = reads(decoder, sample, sample).last
        return frame if math.isinf(frame) else reads(encoder, frame, frame).last

    return max(last(sample) - sample for sample in range(model.hop_length))


def latency(model: CompressionModel) -> str:
    """How long after a sample went in it can come out, computing time left out."""
    try:
        samples = look_ahead(model) + 1
    except ValueError as error:
        return f'unknown: {error}'
    if math.isinf(samples):
        reason = (
            'it is renormalised'
            if getattr(model, 'renormalize', False)
            else 'its norm averages over all of it'
        )
        return f'the whole item: {reason}'
    further = samples - model.hop_length
    text = f'{1000 * samples / model.sample_rate:.4g} ms, {samples:.0f} samples: a frame'
    return (
        f'{text}, nothing after it'
        if further <= 0
        else f'{text}, and {further:.0f} samples after it'
    )


def training_rows(cfg: Any) -> Iterator[Row]:
    """Updates and hours of audio, an epoch and in all."""
    samples, batch, epochs = cfg.dataset.train.num_samples, _batch(cfg), cfg.optim.epochs
    updates = cfg.optim.updates_per_epoch or (samples // batch if samples else None)
    if updates is not None and samples:
        updates = min(updates, samples // batch)  # an epoch ends with its items
    seconds = _segment(cfg)
    each = f'{batch} x {seconds:g} s' if seconds else f'{batch} whole files'
    if updates is None:
        yield 'updates', f'one pass over the data an epoch, {epochs} epochs; {each} an update'
        return
    yield 'updates', f'{updates} an epoch, {updates * epochs} in {epochs} epochs; {each} an update'
    if seconds:
        hours = updates * batch * seconds / 3600
        yield 'audio', f'{hours:.4g} h an epoch, {hours * epochs:.4g} h in all'


def _batch(cfg: Any) -> int:
    return cfg.dataset.train.get('batch_size', cfg.dataset.batch_size)


def _segment(cfg: Any) -> float | None:
    return cfg.dataset.train.get('segment_duration', cfg.dataset.segment_duration)


def _millions(module: nn.Module) -> str:
    return f'{sum(p.numel() for p in module.parameters()) / 1e6:.2f} M parameters'
