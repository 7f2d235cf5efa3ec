"""`bundle`: all that fine-tuning goes on from: model, averaged weights, discriminators, optimizers,
balancer.

A training checkpoint without what belongs to the machine it was made on: the paths of data, and how
it was run.
"""

from pathlib import Path
from typing import Any

import yaml

from audiocodec.run import checkpoint

FORMAT = 'bundle'
# Sections of the configuration that say what was trained, and how.
SECTIONS = (
    'solver',
    'sample_rate',
    'channels',
    'seed',
    'allow_targets',
    'model',
    'adversarial',
    'losses',
    'balancer',
    'optim',
)
# Keys of the section `dataset` that say on what kind of items.
DATASET = ('batch_size', 'segment_duration')


def save(content: dict[str, Any], out: Path) -> None:
    """Write the bundle of a training checkpoint; the folder is made.

    Args:
        content: of the checkpoint, as `utils.checkpoint.load_checkpoint` gives it.
        out: the file, of the format of a training checkpoint.

    Raises:
        ValueError: a file name that stands for another format.
    """
    if out.suffix == checkpoint.SAFETENSORS:
        raise ValueError(
            f'{out}: a bundle holds more than tensors; use another suffix, such as .th'
        )
    config = yaml.safe_load(content['config'])
    kept = {name: config[name] for name in SECTIONS if name in config}
    dataset = {name: value for name, value in config.get('dataset', {}).items() if name in DATASET}
    out.parent.mkdir(parents=True, exist_ok=True)
    checkpoint.save(
        {**content, 'config': yaml.safe_dump({**kept, 'dataset': dataset}, sort_keys=False)}, out
    )
