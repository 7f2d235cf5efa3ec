"""Format `bundle`: model, averaged weights, discriminators, optimizers, balancer, for fine-tuning.

A training checkpoint without what is specific to a machine: the paths of data, and how it was run.
"""

from pathlib import Path
from typing import Any

import yaml

from audiocodec.run import checkpoint

FORMAT = 'bundle'
# sections of the configuration that are kept
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
# keys of the section `dataset` that are kept
DATASET = ('batch_size', 'segment_duration')


def save(content: dict[str, Any], out: Path) -> None:
    """Write the bundle of a training checkpoint; creates the folder.

    Args:
        content: the checkpoint, as returned by `run.checkpoint.load_checkpoint`.
        out: the file, in the format of a training checkpoint.

    Raises:
        ValueError: the suffix belongs to another format.
    """
    if out.suffix == checkpoint.SAFETENSORS:
        raise ValueError(
            f'{out}: a bundle contains more than tensors; use another suffix, such as .th'
        )
    config = yaml.safe_load(content['config'])
    kept = {name: config[name] for name in SECTIONS if name in config}
    dataset = {name: value for name, value in config.get('dataset', {}).items() if name in DATASET}
    out.parent.mkdir(parents=True, exist_ok=True)
    text = yaml.safe_dump({**kept, 'dataset': dataset}, sort_keys=False)
    checkpoint.save({**content, 'config': text}, out)
