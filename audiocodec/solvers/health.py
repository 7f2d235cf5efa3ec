"""Warnings about codebook collapse and discriminators that win or guess, with advice."""

import re
from collections.abc import Mapping, Sequence

Metrics = Mapping[str, float]


def codebook_warning(
    history: Sequence[Metrics], threshold: float = 0.5, epochs: int = 2, advice: str = ''
) -> str | None:
    """Return a warning that names the codebooks with low usage; None if there are none.

    Args:
        history: training metrics of each epoch so far, with the usage of each codebook as
            `usage_1`, `usage_2`...
        threshold: usage in [0, 1] that every codebook should reach.
        epochs: number of consecutive epochs below the threshold before a codebook is named.
        advice: what to try, see `BaseQuantizer.unused_codes_advice`.
    """
    latest = history[-epochs:]
    if len(latest) < epochs:
        return None
    names = [key for key in latest[-1] if re.fullmatch(r'usage_\d+', key)]
    low = []
    for name in names:
        if max(metrics.get(name, 1.0) for metrics in latest) < threshold:
            low.append(f'{name.removeprefix("usage_")} ({latest[-1][name]:.0%})')
    if not low:
        return None
    return (
        f'{len(low)} of {len(names)} codebooks used less than {threshold:.0%} of their entries in '
        f'the last {epochs} epochs; level (usage): {", ".join(low)}'
        f'{". " if advice else ""}{advice}'
    )


def discriminator_warning(metrics: Metrics, threshold: float = 0.98) -> str | None:
    """Return a warning that names the discriminators that have won; None if there are none.

    A discriminator that is nearly always right teaches the generator little.

    Args:
        metrics: means of a training epoch, with `d_NAME_real_acc` and `d_NAME_fake_acc`.
        threshold: a discriminator has won if both accuracies, in [0, 1], are above it.
    """
    accuracies = _accuracies(metrics)
    won = [_described(name, both) for name, both in accuracies.items() if min(both) > threshold]
    if not won:
        return None
    return (
        f'discriminators have won, they are nearly always right: {", ".join(won)}. Try training '
        'them less often (adversarial.every=2), more slowly (adversarial.lr_ratio=0.3) or later '
        '(adversarial.start); clipping their gradient (adversarial.max_norm); or a higher '
        'losses.feat.weight'
    )


def guessing_warning(
    history: Sequence[Metrics], threshold: float = 0.52, epochs: int = 2
) -> str | None:
    """Return a warning that names the discriminators that guess; None if there are none.

    A discriminator whose logits hardly depend on the audio is right about one kind as often as it
    is wrong about the other. The gradient of the generator is then of no use, and takes the share
    of the others.

    Args:
        history: training metrics of each epoch so far, see `discriminator_warning`.
        threshold: a discriminator guesses if the mean of both accuracies, in [0, 1], is below it.
        epochs: number of consecutive epochs below the threshold before a discriminator is named.
    """
    latest = [_accuracies(metrics) for metrics in history[-epochs:]]
    if len(latest) < epochs:
        return None
    guessing = [
        _described(name, both)
        for name, both in latest[-1].items()
        if all(sum(epoch.get(name, (1.0, 1.0))) / 2 < threshold for epoch in latest)
    ]
    if not guessing:
        return None
    return (
        f'discriminators tell real from fake by guessing, in the last {epochs} epochs: '
        f'{", ".join(guessing)}. The generator learns nothing from them. Try '
        'adversarial.init=lecun_normal, and a higher learning rate than its own '
        '(adversarial.lr_ratio=3)'
    )


def _accuracies(metrics: Metrics) -> dict[str, tuple[float, float]]:
    """Return the accuracies on real and on fake audio by the name of the discriminator."""
    found = {}
    for key, real in metrics.items():
        match = re.fullmatch(r'd_(.+)_real_acc', key)
        if match is not None:
            found[match[1]] = (real, metrics.get(f'd_{match[1]}_fake_acc', 0.0))
    return found


def _described(name: str, accuracies: tuple[float, float]) -> str:
    real, fake = accuracies
    return f'{name} (real {real:.1%}, fake {fake:.1%})'
