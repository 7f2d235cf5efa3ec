"""What an epoch's metrics say is going wrong, and what to do about it: texts for the log, None
where all is well.
"""

import re
from collections.abc import Mapping, Sequence

Metrics = Mapping[str, float]


def codebook_warning(
    history: Sequence[Metrics], threshold: float = 0.5, epochs: int = 2
) -> str | None:
    """Say which codebooks stay below a set usage.

    Args:
        history: the training metrics of each epoch so far, with the usage of each codebook as
            `usage_1`, `usage_2`...
        threshold: usage, from 0 to 1, that every codebook should reach.
        epochs: a codebook is named after so many epochs below it; while there are fewer, nothing is
            said.
    """
    latest = history[-epochs:]
    if len(latest) < epochs:
        return None
    usages = {
        key: [metrics.get(key, 1.0) for metrics in latest]
        for key in latest[-1]
        if re.fullmatch(r'usage_\d+', key)
    }
    low = {
        key.removeprefix('usage_'): values[-1]
        for key, values in usages.items()
        if max(values) < threshold
    }
    if not low:
        return None
    listed = ', '.join(f'{level} ({usage:.0%})' for level, usage in low.items())
    return (
        f'{len(low)} of {len(usages)} codebooks used less than {threshold:.0%} of their entries in '
        f'the last {epochs} '
        f'epochs; level (usage): {listed}. What helps: rvq.kmeans_init=true; a higher '
        'rvq.threshold_ema_dead_code, so '
        'that entries are moved onto data sooner; more audio per update (dataset.batch_size, '
        'dataset.segment_duration); else the latents need no more: fewer rvq.bins, or fewer '
        'rvq.n_q if it is the last '
        'levels'
    )


def discriminator_warning(metrics: Metrics, threshold: float = 0.98) -> str | None:
    """Say which discriminators have won: they tell real from fake nearly always, and teach the
    generator little.

    Args:
        metrics: the means of a training epoch, with `d_NAME_real_acc` and `d_NAME_fake_acc`.
        threshold: of both accuracies, from 0 to 1.
    """
    won = {}
    for key, real in metrics.items():
        found = re.fullmatch(r'd_(.+)_real_acc', key)
        if found and min(real, metrics.get(f'd_{found[1]}_fake_acc', 0.0)) > threshold:
            won[found[1]] = (real, metrics[f'd_{found[1]}_fake_acc'])
    if not won:
        return None
    listed = ', '.join(
        f'{name} (real {real:.1%}, fake {fake:.1%})' for name, (real, fake) in won.items()
    )
    return (
        f'the discriminator has won, it is nearly always right: {listed}. What helps: train it '
        'less often '
        '(adversarial.every=2), more slowly (adversarial.lr_ratio=0.3) or later '
        '(adversarial.start), clip its '
        'gradient (adversarial.max_norm), or give the generator more to hold on to '
        '(losses.feat.weight)'
    )
