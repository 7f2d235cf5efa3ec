"""Functions that a configuration may use in its interpolations, such as `${run_length:...}`."""

from typing import Any

from omegaconf import OmegaConf

from audiocodec.utils.annotations import is_integer, is_number


def run_length(
    epochs: Any, updates_per_epoch: Any, num_samples: Any, batch_size: Any
) -> int | None:
    """Returns the updates of a whole run.

    Args:
        epochs: of the run.
        updates_per_epoch: None for one pass over the samples.
        num_samples: items of an epoch; None for one a file.
        batch_size: items of an update.

    Returns:
        None where it follows from the data alone, or a value is not a number: validation names that
        one.
    """
    if (
        updates_per_epoch is None
        and is_integer(num_samples)
        and is_integer(batch_size)
        and batch_size > 0
    ):
        updates_per_epoch = num_samples // batch_size
    return (
        epochs * updates_per_epoch if is_integer(epochs) and is_integer(updates_per_epoch) else None
    )


def share(whole: Any, fraction: Any) -> int | None:
    """Returns a fraction of a number of updates, at least 1; None where the number is not known."""
    return max(1, round(whole * fraction)) if is_integer(whole) and is_number(fraction) else None


OmegaConf.register_new_resolver('run_length', run_length, replace=True)
OmegaConf.register_new_resolver('share', share, replace=True)
