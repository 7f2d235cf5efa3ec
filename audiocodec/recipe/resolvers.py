"""Functions that a configuration may use in its interpolations, such as `${run_length:...}`."""

from typing import Any

from omegaconf import OmegaConf

from audiocodec.utils.annotations import is_integer, is_number


def run_length(
    epochs: Any, updates_per_epoch: Any, num_samples: Any, batch_size: Any
) -> int | None:
    """Return the number of updates of a whole run.

    Args:
        epochs: number of epochs.
        updates_per_epoch: None for one pass over the samples.
        num_samples: items per epoch; None for one per file.
        batch_size: items per update.

    Returns:
        None if only the data determines it, or if a value is not a number, which the checks of the
        configuration report by its own key.
    """
    if updates_per_epoch is None and is_integer(num_samples) and is_integer(batch_size):
        updates_per_epoch = num_samples // batch_size if batch_size > 0 else None
    if not is_integer(epochs) or not is_integer(updates_per_epoch):
        return None
    return epochs * updates_per_epoch


def share(whole: Any, fraction: Any) -> int | None:
    """Return a fraction of a number of updates, at least 1; None if the number is not known."""
    if not is_integer(whole) or not is_number(fraction):
        return None
    return max(1, round(whole * fraction))


OmegaConf.register_new_resolver('run_length', run_length, replace=True)
OmegaConf.register_new_resolver('share', share, replace=True)
