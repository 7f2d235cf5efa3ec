"""Describe a recipe as a table: sizes, rates, receptive field, latency, hours of audio."""

from collections.abc import Iterator
from typing import Any

from audiocodec.adversarial import AdversarialTrainer
from audiocodec.models import CompressionModel
from audiocodec.models.description import Row, millions, model_rows
from audiocodec.utils.progress import plain_number


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


def adversary_rows(adversaries: AdversarialTrainer) -> Iterator[Row]:
    """Yield the number of parameters of each discriminator."""
    for name, part in adversaries.discriminators.items():
        yield name, f'{millions(part)} (discriminator)'


def training_rows(cfg: Any) -> Iterator[Row]:
    """Yield updates and hours of audio, per epoch and in total."""
    samples = cfg.dataset.train.num_samples
    batch = _batch(cfg)
    epochs = cfg.optim.epochs
    updates = cfg.optim.updates_per_epoch or (samples // batch if samples else None)
    if updates is not None and samples:
        updates = min(updates, samples // batch)  # an epoch ends when its items do
    seconds = _segment(cfg)
    each = f'{batch} x {seconds:g} s' if seconds else f'{batch} whole files'
    if updates is None:
        yield 'updates', f'one pass over the data per epoch, {epochs} epochs; {each} per update'
        return
    total = f'{updates * epochs} in {epochs} epochs'
    yield 'updates', f'{updates} per epoch, {total}; {each} per update'
    if seconds:
        hours = updates * batch * seconds / 3600
        yield (
            'audio',
            f'{plain_number(hours)} h per epoch, {plain_number(hours * epochs)} h in total',
        )


def _batch(cfg: Any) -> int:
    return cfg.dataset.train.get('batch_size', cfg.dataset.batch_size)


def _segment(cfg: Any) -> float | None:
    return cfg.dataset.train.get('segment_duration', cfg.dataset.segment_duration)
