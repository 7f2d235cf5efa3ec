"""Warnings about codebook collapse and winning discriminators, with advice."""

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
    won = []
    for key, real in metrics.items():
        match = re.fullmatch(r'd_(.+)_real_acc', key)
        if match is None:
            continue
        name = match[1]
        fake = metrics.get(f'd_{name}_fake_acc', 0.0)
        if min(real, fake) > threshold:
            won.append(f'{name} (real {real:.1%}, fake {fake:.1%})')
    if not won:
        return None
    return (
        f'discriminators have won, they are nearly always right: {", ".join(won)}. Try training '
        'them less often (adversarial.every=2), more slowly (adversarial.lr_ratio=0.3) or later '
        '(adversarial.start); clipping their gradient (adversarial.max_norm); or a higher '
        'losses.feat.weight'
    )
