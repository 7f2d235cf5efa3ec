"""Everything that is wrong with a configuration, found before any data or GPU is touched, and said at once."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from omegaconf import DictConfig

from audiocodec.utils import config
from audiocodec.utils.config import ConfigError

Check = Callable[[Any], bool]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _positive_integer(value: Any) -> bool:
    return _is_integer(value) and value > 0


def _count(value: Any) -> bool:
    return _is_integer(value) and value >= 0


def _positive(value: Any) -> bool:
    return _is_number(value) and value > 0


def _or_null(check: Check) -> Check:
    return lambda value: value is None or check(value)


def _one_of(*choices: Any) -> Check:
    return lambda value: value in choices


# key -> (check, what is accepted); keys that a configuration lacks are not checked
ACCEPTED: dict[str, tuple[Check, str]] = {
    'sample_rate': (_positive_integer, 'a rate in Hz, e.g. 24000'),
    'channels': (_one_of(1, 2), '1 (mono) or 2 (stereo)'),
    'seed': (_count, 'an integer from 0'),
    'autocast': (_one_of(None, 'bfloat16'), 'null or bfloat16'),
    'compile': (_one_of(True, False), 'true or false'),
    'channels_last': (_one_of(True, False), 'true or false'),
    'num_threads': (_count, 'an integer from 0'),
    'execute_only': (_one_of(None, 'evaluate', 'generate', 'valid'), 'null, evaluate, generate or valid'),
    'rvq.n_q': (_positive_integer, 'the number of codebooks, at least 1'),
    'rvq.bins': (_positive_integer, 'the entries of a codebook, at least 1'),
    'dataset.batch_size': (_positive_integer, 'a positive integer'),
    'dataset.num_workers': (_count, 'an integer from 0'),
    'dataset.segment_duration': (_or_null(_positive), 'seconds above 0, or null for whole files'),
    'dataset.min_segment_ratio': (lambda value: _is_number(value) and 0 < value <= 1, 'a share, above 0 and up to 1'),
    'optim.epochs': (_positive_integer, 'a positive integer'),
    'optim.updates_per_epoch': (_or_null(_positive_integer), 'a positive integer, or null for one pass over the data'),
    'optim.lr': (_positive, 'a learning rate above 0'),
    'optim.max_norm': (_or_null(_positive), 'a norm above 0, or null for no clipping'),
    'optim.ema.decay': (_or_null(lambda value: _is_number(value) and 0 <= value < 1), 'from 0 to below 1, or null'),
    'optim.ema.every': (_positive_integer, 'a positive integer'),
    'optim.max_skipped': (_count, 'an integer from 0'),
    'checkpoint.every_updates': (_or_null(_positive_integer), 'updates, or null for the end of an epoch alone'),
    'checkpoint.save_every': (_or_null(_count), 'epochs, or null for the latest alone'),
    'checkpoint.keep_last': (_or_null(_positive_integer), 'a positive integer, or null for all'),
    'valid.every': (_or_null(_count), 'epochs, or null for never'),
    'evaluate.every': (_or_null(_count), 'epochs, or null for never'),
    'generate.every': (_or_null(_count), 'epochs, or null for never'),
    'generate.audio.format': (_one_of('wav', 'flac', 'ogg', 'mp3'), 'wav, flac, ogg or mp3'),
    'generate.audio.strategy': (_one_of('clip', 'peak', 'rms', 'loudness'), 'clip, peak, rms or loudness'),
    'logging.level': (_one_of('DEBUG', 'INFO', 'WARNING', 'ERROR'), 'DEBUG, INFO, WARNING or ERROR'),
}


def validate(cfg: DictConfig) -> None:
    """Check a composed configuration.

    Raises:
        ConfigError: with every problem: its key, its value and what is accepted.
    """
    plain = config.to_plain(cfg)
    problems = [problem for find in (_value_problems, _node_problems, _rate_problems, _model_problems, _data_problems,
                                     _solver_problems) for problem in find(plain)]
    if problems:
        raise ConfigError(problems)


def _value_problems(plain: Mapping[str, Any]) -> Iterator[str]:
    for key, (check, accepted) in ACCEPTED.items():
        value = config.select(plain, key)
        if value is not config.MISSING and not check(value):
            yield f'{key}={value}: expected {accepted}'
    for split in ('train', 'valid', 'evaluate', 'generate'):
        for name in ('batch_size', 'num_samples'):
            value = plain['dataset'][split].get(name)
            if value is not None and not _positive_integer(value):
                yield f'dataset.{split}.{name}={value}: expected a positive integer'
    for name, node in plain['losses'].items():
        weight = node.get('weight') if isinstance(node, Mapping) else node
        if weight is not None and not (_is_number(weight) and weight >= 0):
            yield f'losses.{name}.weight={weight}: expected null (off), 0 (reported only) or a weight above 0'


def _node_problems(plain: Mapping[str, Any]) -> Iterator[str]:
    yield from config.node_problems(plain['model'], 'model')
    yield from config.node_problems(plain['adversarial'], 'adversarial')
    yield from config.node_problems(plain['balancer'], 'balancer', provided=['weights'])
    yield from config.node_problems(plain['optim']['optimizer'], 'optim.optimizer', provided=['params'])
    yield from config.node_problems(plain['optim']['schedule'], 'optim.schedule')
    for name, node in plain['losses'].items():
        if isinstance(node, Mapping) and node.get('weight') is not None and '_target_' in node:
            yield from config.node_problems(node, f'losses.{name}')
    for name, enabled in plain['evaluate']['metrics'].items():
        if name not in plain['metrics']:
            yield (f'evaluate.metrics.{name}={enabled}: there is no metrics.{name} node'
                   + config.nearest(name, plain['metrics']))
        elif enabled:
            yield from config.node_problems(plain['metrics'][name], f'metrics.{name}')


def _rate_problems(plain: Mapping[str, Any]) -> Iterator[str]:
    """Components hold copies of the rate and the channels; they stand outside the signature, so they must agree."""
    expected = {'sample_rate': plain['sample_rate'], 'channels': plain['channels'], 'in_channels': plain['channels']}
    for section in ('model', 'losses', 'adversarial', 'metrics'):
        for where, node in config.targets(plain[section], section):
            if node.get('weight', 0) is None:
                continue
            for name, value in expected.items():
                if name in node and node[name] != value:
                    root = 'channels' if name == 'in_channels' else name
                    yield f'{where}.{name}={node[name]}: must agree with {root}={value}; set {root} alone'


def _model_problems(plain: Mapping[str, Any]) -> Iterator[str]:
    model = plain['model']
    encoder, decoder, quantizer = (model.get(name) or {} for name in ('encoder', 'decoder', 'quantizer'))
    for name, note in (('ratios', 'strides do not match: the decoder would give back another length'),
                       ('dimension', 'the latents do not fit')):
        ours, theirs = encoder.get(name), decoder.get(name)
        if ours is not None and theirs is not None and ours != theirs:
            yield f'encoder.{name}={ours} and decoder.{name}={theirs}: {note}; set seanet.{name} alone'
    ratios = encoder.get('ratios')
    if ratios is not None and not (isinstance(ratios, list) and ratios and all(map(_positive_integer, ratios))):
        yield f'seanet.ratios={ratios}: expected a list of positive integers, e.g. [8,5,4,2]'
    if {'dimension'} <= encoder.keys() & quantizer.keys() and encoder['dimension'] != quantizer['dimension']:
        yield (f"quantizer.dimension={quantizer['dimension']}: must agree with "
               f"seanet.dimension={encoder['dimension']}")


def _data_problems(plain: Mapping[str, Any]) -> Iterator[str]:
    source = plain['datasource']
    limits = {'max_sample_rate': plain['sample_rate'], 'max_channels': plain['channels']}
    for name in limits:
        if not _positive_integer(source[name]):
            yield f'datasource.{name}={source[name]}: expected a positive integer'
            return
    if _is_number(plain['sample_rate']) and source['max_sample_rate'] < plain['sample_rate']:
        yield (f"datasource.max_sample_rate={source['max_sample_rate']} is below sample_rate={plain['sample_rate']}: "
               'the data has no such high frequencies; choose a recipe with a lower rate, or other data')
    if _is_number(plain['channels']) and source['max_channels'] < plain['channels']:
        yield (f"datasource.max_channels={source['max_channels']} is below channels={plain['channels']}: "
               'a stereo recipe needs stereo data; choose a mono recipe, or other data')


def _solver_problems(plain: Mapping[str, Any]) -> Iterator[str]:
    from audiocodec.solvers import SOLVERS

    if plain['solver'] not in SOLVERS:
        yield f"solver={plain['solver']}: there is no such solver (there are: {', '.join(SOLVERS)})"
    device = str(plain['device'])
    if device.split(':')[0] not in ('auto', 'cpu', 'cuda'):
        yield f'device={device}: expected auto, cpu, cuda or cuda:N'
