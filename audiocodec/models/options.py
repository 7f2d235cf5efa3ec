"""Constructor arguments of a model, for formats with other names; errors for unsupported ones."""

import inspect
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

from audiocodec.models.base import CompressionModel
from audiocodec.models.encodec import EncodecModel
from audiocodec.modules import SEANetDecoder, SEANetEncoder
from audiocodec.quantization import NoQuantizer, ResidualVectorQuantizer
from audiocodec.utils import config


class Options(NamedTuple):
    """Constructor arguments of an `EncodecModel` and its parts, defaults included.

    Attributes:
        model: arguments of `EncodecModel`, without the parts.
        encoder: arguments of `SEANetEncoder`.
        decoder: arguments of `SEANetDecoder`.
        quantizer: arguments of `ResidualVectorQuantizer`; empty for a continuous autoencoder.
    """

    model: dict[str, Any]
    encoder: dict[str, Any]
    decoder: dict[str, Any]
    quantizer: dict[str, Any]


def refuse(name: str, problems: Sequence[str]) -> None:
    """Raise an error with everything that a format does not support, if there is anything.

    Raises:
        ValueError: `problems` is not empty.
    """
    if problems:
        raise ValueError(f'the format {name!r} does not support this model: {"; ".join(problems)}')


def node_of(model: CompressionModel, name: str) -> dict[str, Any]:
    """Return the node that rebuilds a model, which the format `name` needs.

    Raises:
        ValueError: the model was built by hand, or wraps a model of another library.
    """
    if model.built_from is None:
        refuse(
            name,
            [
                f'this {type(model).__name__} was not built from a configuration; use '
                'audiocodec.utils.config.build, or load the file of an EnCodec model'
            ],
        )
    assert model.built_from is not None
    return model.built_from


def options_of(model: CompressionModel, name: str) -> Options:
    """Return the constructor arguments of an EnCodec model made of this package's parts.

    Args:
        model: the model.
        name: name of the format, for messages.

    Raises:
        ValueError: the model has a part of another kind; the message says which.
    """
    node = node_of(model, name)
    found = {'model': spell_out(node)}
    problems = []
    if found['model'][0] is not EncodecModel:
        refuse(
            name,
            [f'_target_={node["_target_"]}, only audiocodec.models.EncodecModel is supported'],
        )
    known = {
        'encoder': (SEANetEncoder,),
        'decoder': (SEANetDecoder,),
        'quantizer': (ResidualVectorQuantizer, NoQuantizer),
    }
    for part, classes in known.items():
        found[part] = spell_out(node[part])
        if found[part][0] not in classes:
            problems.append(
                f'{part}._target_={node[part]["_target_"]}, only '
                f'{" or ".join(cls.__name__ for cls in classes)} is supported'
            )
    refuse(name, problems)
    continuous = found['quantizer'][0] is NoQuantizer
    own = {key: value for key, value in found['model'][1].items() if key not in known}
    output = own.pop('output_sample_rate')
    if output not in (None, own['sample_rate']):
        refuse(name, [f'output_sample_rate={output}: it must be sample_rate={own["sample_rate"]}'])
    return Options(
        own, found['encoder'][1], found['decoder'][1], {} if continuous else found['quantizer'][1]
    )


def changed(
    part: str, cls: type, arguments: Mapping[str, Any], known: Collection[str]
) -> list[str]:
    """Return problems: arguments that a format does not know and that differ from their default."""
    defaults = _defaults(cls)
    return [
        f'{part}.{key}={value!r} is not supported'
        for key, value in arguments.items()
        if key not in known and (key not in defaults or value != defaults[key])
    ]


def spell_out(node: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
    """Return the class of a node, and its arguments including defaults; nested nodes are kept.

    Raises:
        ValueError: there is no such class, or it is not allowed.
    """
    target = config.locate(node['_target_'])
    given = {str(key): value for key, value in node.items() if key != '_target_'}
    return target, {**_defaults(target), **given}


def _defaults(cls: Any) -> dict[str, Any]:
    return {
        key: parameter.default
        for key, parameter in inspect.signature(cls).parameters.items()
        if parameter.default is not parameter.empty
    }
