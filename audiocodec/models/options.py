"""The options of a model, spelt out for formats that name them otherwise, and the refusal of what
they cannot hold.
"""

import inspect
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

from audiocodec.models.base import CompressionModel
from audiocodec.models.encodec import EncodecModel
from audiocodec.modules import SEANetDecoder, SEANetEncoder
from audiocodec.quantization import NoQuantizer, ResidualVectorQuantizer
from audiocodec.utils import config


class Options(NamedTuple):
    """Constructor arguments of an `EncodecModel` and its parts, those left at their defaults
    included.

    Attributes:
        model: of `EncodecModel`, but the parts.
        encoder: of `SEANetEncoder`.
        decoder: of `SEANetDecoder`.
        quantizer: of `ResidualVectorQuantizer`; empty for a continuous autoencoder.
    """

    model: dict[str, Any]
    encoder: dict[str, Any]
    decoder: dict[str, Any]
    quantizer: dict[str, Any]


def refuse(name: str, problems: Sequence[str]) -> None:
    """Say all that a format cannot hold, if there is anything.

    Raises:
        ValueError: `problems` is not empty.
    """
    if problems:
        raise ValueError(f'the format {name!r} cannot hold this model: {"; ".join(problems)}')


def node_of(model: CompressionModel, name: str) -> dict[str, Any]:
    """The node that rebuilds a model, which the format `name` needs.

    Raises:
        ValueError: the model was put together by hand, or is of another library.
    """
    if model.built_from is None:
        refuse(
            name,
            [
                f'how this {type(model).__name__} is rebuilt is not known, only that of models '
                'built from a '
                'configuration is (audiocodec.utils.config.build, or from a file of an EnCodec '
                'model)'
            ],
        )
    assert model.built_from is not None
    return model.built_from


def options_of(model: CompressionModel, name: str) -> Options:
    """The options of an EnCodec model of this package's parts.

    Args:
        model: the model.
        name: of the format, for messages.

    Raises:
        ValueError: a model of another kind; the message says which part.
    """
    node = node_of(model, name)
    found = {'model': spell_out(node)}
    problems = []
    if found['model'][0] is not EncodecModel:
        refuse(
            name, [f'_target_={node["_target_"]}, only audiocodec.models.EncodecModel is possible']
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
                f'{" or ".join(cls.__name__ for cls in classes)} is possible'
            )
    refuse(name, problems)
    continuous = found['quantizer'][0] is NoQuantizer
    own = {key: value for key, value in found['model'][1].items() if key not in known}
    return Options(
        own, found['encoder'][1], found['decoder'][1], {} if continuous else found['quantizer'][1]
    )


def changed(
    part: str, cls: type, arguments: Mapping[str, Any], known: Collection[str]
) -> list[str]:
    """The arguments of a part that a format does not know and that are not at their default, as
    problems.
    """
    defaults = _defaults(cls)
    return [
        f'{part}.{key}={value!r} is not known there'
        for key, value in arguments.items()
        if key not in known and (key not in defaults or value != defaults[key])
    ]


def spell_out(node: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
    """The class that a node names, and its arguments the defaults of those not given included;
    nested nodes stay.

    Raises:
        ValueError: there is no such class, or it may not be named.
    """
    target = config.locate(node['_target_'])
    return target, {
        **_defaults(target),
        **{str(key): value for key, value in node.items() if key != '_target_'},
    }


def _defaults(cls: Any) -> dict[str, Any]:
    return {
        key: parameter.default
        for key, parameter in inspect.signature(cls).parameters.items()
        if parameter.default is not parameter.empty
    }
