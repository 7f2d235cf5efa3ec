"""Accepted values of the keys of a configuration that no component checks."""

import re
from collections.abc import Callable
from typing import Any, NamedTuple

from audiocodec.data import SPLITS
from audiocodec.data.channels import DOWNMIXES
from audiocodec.dsp.loudness import HEADROOM_DB
from audiocodec.utils.annotations import is_integer, is_number


class Rule(NamedTuple):
    """Check of a value, with the accepted values in words.

    Attributes:
        check: returns whether a value is accepted.
        accepted: accepted values, for messages that say "expected ...".
        kind: `path` or `text` for strings that overrides take literally, whatever characters they
            contain; `source` for a path or an address such as `//sig/SIG`; `sources` for a path or
            a list of data sources. Paths and sources enter the signature in canonical form.
    """

    check: Callable[[Any], bool]
    accepted: str
    kind: str = ''


def or_null(rule: Rule, meaning: str) -> Rule:
    """Return a rule that also accepts null, with the meaning of null in words."""
    return Rule(
        lambda value: value is None or rule.check(value),
        f'{rule.accepted}, or null {meaning}',
        rule.kind,
    )


def one_of(*choices: str | None) -> Rule:
    """Return a rule that accepts a few strings; None stands for null."""
    words = ['null' if choice is None else choice for choice in choices]

    def check(value: Any) -> bool:
        return (value is None or isinstance(value, str)) and value in choices

    return Rule(check, f'{", ".join(words[:-1])} or {words[-1]}')


SWITCH = Rule(lambda value: isinstance(value, bool), 'true or false')
TEXT = Rule(lambda value: isinstance(value, str), 'a string', 'text')
PATH = or_null(
    Rule(lambda value: isinstance(value, str) and bool(value), 'a path', 'path'), 'for none'
)
SOURCES = or_null(
    Rule(
        lambda value: (PATH.check(value) and value is not None) or _are_sources(value),
        'a path, or a list such as [{path: a, weight: 0.7}, {path: b, weight: 0.3}]',
        'sources',
    ),
    'for none',
)
COUNT = Rule(lambda value: is_integer(value) and value >= 0, 'an integer >= 0')
UP_TO_1024 = Rule(lambda value: is_integer(value) and 0 <= value <= 1024, 'an integer in [0, 1024]')
POSITIVE_INTEGER = Rule(lambda value: is_integer(value) and value > 0, 'a positive integer')
EPOCHS = or_null(Rule(COUNT.check, 'a number of epochs'), 'for never')
TEXTS = Rule(
    lambda value: isinstance(value, list) and all(isinstance(item, str) for item in value),
    'a list of strings',
)
RATES = Rule(
    lambda value: (
        isinstance(value, list)
        and bool(value)
        and all(is_number(rate) and rate > 0 for rate in value)
    ),
    'a list of bit rates in kbps, e.g. [1.5, 3, 6]',
)
FRACTION = Rule(lambda value: is_number(value) and 0 <= value <= 1, 'a fraction in [0, 1]')


FRACTIONS = Rule(
    lambda value: (
        isinstance(value, list)
        and len(value) == 3
        and all(is_number(one) and one > 0 for one in value)
        and abs(sum(value) - 1) < 1e-6
    ),
    'three fractions that add up to 1: of train, valid and evaluate, e.g. [0.9, 0.05, 0.05]',
)


def _are_sources(value: Any) -> bool:
    """Return whether a value is a list of sources, all with a share of the draws or none."""
    if not isinstance(value, list) or not value:
        return False
    if all(isinstance(one, str) and one for one in value):
        return True
    return all(
        isinstance(one, dict)
        and one.keys() == {'path', 'weight'}
        and isinstance(one['path'], str)
        and is_number(one['weight'])
        and one['weight'] > 0
        for one in value
    )


def positive(what: str) -> Rule:
    """Return a rule that accepts numbers above 0."""
    return Rule(lambda value: is_number(value) and value > 0, f'{what} above 0')


RATE = Rule(POSITIVE_INTEGER.check, 'a rate in Hz, e.g. 24000')
_DEVICES = ('auto', 'cpu', 'cuda', 'mps')

ACCEPTED: dict[str, Rule] = {
    'sample_rate': RATE,
    'output_sample_rate': RATE,
    'channels': Rule(
        lambda value: is_integer(value) and 1 <= value <= 64,
        '1 (mono), 2 (stereo) or up to 64 channels',
    ),
    'precision.autocast': one_of(None, 'bfloat16', 'float16'),
    'precision.conv': one_of('tf32', 'float32'),
    'precision.matmul': one_of('tf32', 'float32'),
    'precision.cudnn_benchmark': SWITCH,
    'device': Rule(
        lambda value: isinstance(value, str) and value.split(':')[0] in _DEVICES,
        'auto, cpu, cuda, cuda:N or mps',
    ),
    'num_threads': UP_TO_1024,
    'distributed.timeout': positive('seconds'),
    'seed': COUNT,
    'compile': SWITCH,
    'cpu_kernels': SWITCH,
    'channels_last': SWITCH,
    'show': SWITCH,
    'execute_only': one_of(None, 'evaluate', 'generate', 'valid'),
    'continue_from': or_null(
        Rule(TEXT.check, 'a path, //sig/SIG or //pretrained/NAME', 'source'), 'for fresh weights'
    ),
    'benchmark_no_load': SWITCH,
    'solver': TEXT,
    'allow_targets': TEXTS,
    'datasource.max_sample_rate': POSITIVE_INTEGER,
    'datasource.min_sample_rate': or_null(POSITIVE_INTEGER, 'for any'),
    'datasource.downmix': one_of(*DOWNMIXES),
    'datasource.max_channels': POSITIVE_INTEGER,
    'datasource.folder': PATH,
    'datasource.train': SOURCES,
    'datasource.valid': SOURCES,
    'datasource.evaluate': SOURCES,
    'datasource.generate': SOURCES,
    'datasource.group_by': or_null(TEXT, 'to split by file'),
    'datasource.fractions': FRACTIONS,
    'dataset.batch_size': POSITIVE_INTEGER,
    'dataset.num_workers': UP_TO_1024,
    'dataset.max_bad_fraction': FRACTION,
    'optim.epochs': POSITIVE_INTEGER,
    'optim.updates_per_epoch': or_null(POSITIVE_INTEGER, 'for one pass over the data'),
    'optim.total_updates': or_null(POSITIVE_INTEGER, 'if only the data determines it'),
    'optim.accumulate': POSITIVE_INTEGER,
    'optim.lr': positive('a learning rate'),
    'optim.max_norm': or_null(positive('a norm'), 'for no clipping'),
    'optim.ema.decay': or_null(
        Rule(lambda value: is_number(value) and 0 <= value < 1, 'a number in [0, 1)'),
        'for no averaged weights',
    ),
    'optim.ema.every': POSITIVE_INTEGER,
    'optim.ema.share': or_null(
        Rule(lambda value: is_number(value) and 0 < value <= 1, 'a number in (0, 1]'),
        'for no limit',
    ),
    'finetune.optimizers': SWITCH,
    'finetune.fresh': TEXTS,
    'train.only': or_null(
        Rule(
            lambda value: (
                bool(value)
                and (isinstance(value, str) or (isinstance(value, list) and TEXTS.check(value)))
            ),
            'a part of the model, e.g. decoder, or a list of parts',
        ),
        'for all',
    ),
    'optim.max_skipped': COUNT,
    'checkpoint.every_updates': or_null(POSITIVE_INTEGER, 'for only at the end of an epoch'),
    'checkpoint.save_every': or_null(
        Rule(COUNT.check, 'a number of epochs'), 'for only the latest'
    ),
    'checkpoint.keep_best': or_null(
        Rule(
            lambda value: (
                isinstance(value, str)
                and re.fullmatch(r'(train|valid|evaluate)\.\w+', value) is not None
            ),
            'STAGE.METRIC, e.g. valid.mel or evaluate.sisnr',
        ),
        'for none',
    ),
    'checkpoint.keep_last': or_null(POSITIVE_INTEGER, 'for all'),
    'valid.every': EPOCHS,
    'evaluate.every': EPOCHS,
    'evaluate.kbps': or_null(RATES, 'for the highest rate'),
    'evaluate.num_workers': Rule(
        lambda value: is_integer(value) and 1 <= value <= 1024, 'an integer in [1, 1024]'
    ),
    'generate.every': EPOCHS,
    'generate.path': Rule(lambda value: isinstance(value, str) and bool(value), 'a path', 'text'),
    'generate.audio.format': one_of('wav', 'flac', 'ogg', 'mp3'),
    'generate.audio.strategy': one_of(*HEADROOM_DB),
    'logging.level': one_of('DEBUG', 'INFO', 'WARNING', 'ERROR'),
    'logging.metrics': TEXTS,
    'logging.log_updates': COUNT,
    'logging.log_seconds': Rule(lambda value: is_number(value) and value >= 0, 'seconds >= 0'),
    'logging.every_updates': or_null(POSITIVE_INTEGER, 'for only at the end of an epoch'),
    'logging.warn_codebook_usage': FRACTION,
    'logging.warn_discriminator': FRACTION,
    'logging.warn_guessing': FRACTION,
    'logging.tensorboard': SWITCH,
    'logging.tensorboard_items': COUNT,
    'logging.wandb.enabled': SWITCH,
    'logging.wandb.project': TEXT,
    'logging.wandb.name': or_null(TEXT, 'for the signature'),
    'logging.wandb.group': or_null(TEXT, 'for none'),
    'dora.dir': or_null(Rule(PATH.check, 'a path', 'path'), 'for AUDIOCODEC_DORA_DIR or outputs/'),
}

# Keys of `dataset` that are not arguments of AudioDataset.
LOADING = {'batch_size', 'num_workers', 'max_bad_fraction', *SPLITS}

# Required sections, each with its keys besides those of ACCEPTED. None: any key, since the section
# is a component or is made of components, whose constructors declare what they take.
SECTIONS: dict[str, tuple[str, ...] | None] = {
    'precision': (),
    'distributed': (),
    'datasource': (),
    'dataset': None,
    'dataset.train': None,
    'dataset.valid': None,
    'dataset.evaluate': None,
    'dataset.generate': None,
    'model': None,
    'adversarial': None,
    'losses': None,
    'balancer': None,
    'optim': ('optimizer', 'schedule'),
    'optim.optimizer': None,
    'optim.schedule': None,
    'optim.ema': (),
    'finetune': (),
    'train': (),
    'checkpoint': (),
    'valid': (),
    'evaluate': ('metrics',),
    'evaluate.metrics': None,
    'generate': (),
    'generate.audio': (),
    'metrics': None,
    'logging': (),
    'logging.wandb': (),
    'slurm': None,
}
