"""Families of codecs: which format reads a folder or a file, and which writes a model's folder."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch

from audiocodec.models.base import CompressionModel
from audiocodec.models.formats import (
    audiocraft,
    dac,
    encodec_package,
    hf,
    mimi,
    mimi_export,
    snac,
    wavtokenizer,
    wavtokenizer_authors,
)
from audiocodec.models.options import node_of
from audiocodec.utils import config

# `_target_` node and state dict of a model
Read = tuple[dict[str, Any], dict[str, torch.Tensor]]


class Family(NamedTuple):
    """Format of `transformers` for a family of codecs.

    Attributes:
        read: reads a folder.
        save: writes a model into a folder, with a text on its origin; returns notes.
        load: loads a folder with `transformers`, for the comparison of exports.
    """

    read: Callable[[Path], Read]
    save: Callable[[CompressionModel, Path, str], list[str]]
    load: Callable[[Path], Any]


# by the `model_type` of a folder of `transformers`
FAMILIES = {
    'encodec': Family(hf.read, hf.save, hf.Loaded),
    'dac': Family(dac.read_hf, dac.save_hf, dac.Loaded),
    'mimi': Family(mimi.read, mimi_export.save, mimi_export.Loaded),
    'wavtokenizer': Family(wavtokenizer.read, wavtokenizer.save, wavtokenizer.Loaded),
}
# files of other projects: what recognizes their content, and reads it
FILES: tuple[tuple[Callable[[Mapping[str, Any]], bool], Callable[[dict[str, Any]], Read]], ...] = (
    (audiocraft.is_export, audiocraft.read),
    (encodec_package.is_checkpoint, encodec_package.read),
    (dac.is_checkpoint, dac.read_package),
    (wavtokenizer_authors.is_checkpoint, wavtokenizer_authors.read),
)
# the part that tells a family apart, and its class
_PARTS = {
    ('quantizer', 'DACQuantizer'): 'dac',
    ('quantizer', 'SplitResidualVectorQuantizer'): 'mimi',
    ('decoder', 'VocosDecoder'): 'wavtokenizer',
}


def folder_reader(folder_config: Mapping[str, Any]) -> Callable[[Path], Read] | None:
    """Return what reads a folder with this `config.json`; None if it is of no family."""
    if snac.is_config(folder_config):  # the package writes no type
        return snac.read
    family = FAMILIES.get(str(folder_config.get('model_type')))
    return None if family is None else family.read


def family_of(model: CompressionModel) -> Family:
    """Return the family whose format of `transformers` fits a model; EnCodec by default.

    Raises:
        ValueError: the model was not built from a configuration.
    """
    node = node_of(model, 'hf')
    for (part, name), family in _PARTS.items():
        component = node.get(part)
        if isinstance(component, Mapping) and config.locate(component['_target_']).__name__ == name:
            return FAMILIES[family]
    return FAMILIES['encodec']
