"""Models of the Hugging Face Hub: finds or downloads files, and builds `transformers` models."""

import contextlib
import json
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import torch
from torch import nn

from audiocodec.run import checkpoint
from audiocodec.utils.errors import import_transformers as import_transformers

CONFIG = 'config.json'
EXTRACTORS = ('preprocessor_config.json', 'processor_config.json')  # a folder has one, or none
# in the order of preference
WEIGHTS = ('model.safetensors', 'pytorch_model.bin')


def fetch(repo_id: str) -> Path:
    """Return the local folder of a Hub model, downloaded if not cached.

    Raises:
        ValueError: not cached, and cannot be downloaded; the message says what to download, and
            where to put it.
    """
    try:
        import huggingface_hub.constants
    except ImportError as error:
        raise ValueError(
            f'{repo_id!r}: downloading it needs the package huggingface_hub. '
            f'{_advice(repo_id, "the cache of huggingface_hub")}'
        ) from error
    try:
        return _download(repo_id, local=True)  # cached models need no network and do not change
    except (OSError, ValueError, RuntimeError):
        pass
    try:
        if not huggingface_hub.constants.HF_HUB_OFFLINE:
            _check_reachable(huggingface_hub.constants.ENDPOINT)
        return _download(repo_id, local=False)
    except Exception as error:  # no network, no such repository, no such file
        reason = f'{type(error).__name__}: {(str(error).strip().splitlines() or [""])[0]}'
        cache = huggingface_hub.constants.HF_HUB_CACHE
        raise ValueError(
            f'{repo_id!r} is not in the Hub cache, and could not be downloaded ({reason}). '
            f'{_advice(repo_id, cache)}'
        ) from error


def _check_reachable(endpoint: str) -> None:
    """Raise OSError if the server cannot be reached: huggingface_hub would retry for 30 s."""
    with contextlib.suppress(urllib.error.HTTPError):  # an answer, too
        urllib.request.urlopen(urllib.request.Request(endpoint, method='HEAD'), timeout=10).close()


def _download(repo_id: str, local: bool) -> Path:
    """Download configuration, weights and feature extractor of one revision; return the folder."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.utils import EntryNotFoundError

    folder = Path(hf_hub_download(repo_id, CONFIG, local_files_only=local)).parent
    for name in EXTRACTORS:
        with contextlib.suppress(EntryNotFoundError):
            hf_hub_download(repo_id, name, revision=folder.name, local_files_only=local)
    preferred, other = WEIGHTS
    try:
        hf_hub_download(repo_id, preferred, revision=folder.name, local_files_only=local)
    except EntryNotFoundError:
        hf_hub_download(repo_id, other, revision=folder.name, local_files_only=local)
    return folder


def _advice(repo_id: str, cache: str) -> str:
    return (
        f'On a machine with a network, download {CONFIG} and {WEIGHTS[0]} from '
        f'https://huggingface.co/{repo_id} into a folder, and use its path as the name of the '
        f"model; or run `hf download {repo_id}` (after pip install 'audiocodec[hf]') and copy the "
        f'result to {cache}'
    )


def read_config(folder: Path) -> dict[str, Any]:
    """Read the configuration of a model in a folder.

    Raises:
        ValueError: it is not a JSON object.
    """
    try:
        config = json.loads((folder / CONFIG).read_text('utf-8'))
    except (OSError, ValueError) as error:
        raise ValueError(f'{folder / CONFIG} cannot be read as JSON: {error}') from error
    if not isinstance(config, dict):
        raise ValueError(
            f'{folder / CONFIG} contains a {type(config).__name__}, expected an object with a '
            'model_type'
        )
    return config


def read_weights(folder: Path) -> dict[str, Any]:
    """Read the weights of a model in a folder, names to tensors.

    Raises:
        ValueError: no weights, or unreadable.
    """
    for name in WEIGHTS:
        if (folder / name).is_file():
            return checkpoint.load(folder / name)
    raise ValueError(f'{folder} has a {CONFIG} but no weights: expected {" or ".join(WEIGHTS)}')


def build_with_transformers(class_name: str, folder: Path) -> nn.Module:
    """Build a `transformers` model in float32 from a folder.

    Args:
        class_name: name of the model class in `transformers`.
        folder: folder with its configuration and weights, as safetensors.

    Raises:
        ValueError: transformers is missing, or the weights do not fit the configuration.
    """
    try:
        transformers = import_transformers()
    except ImportError as error:
        raise ValueError(
            f"{folder}: the model needs the package transformers: pip install 'audiocodec[hf]'"
        ) from error
    if not (folder / WEIGHTS[0]).is_file():
        raise ValueError(
            f'{folder} has no {WEIGHTS[0]}, the only file of weights supported for this model'
        )
    read_weights(folder)  # gives a clear error for a damaged file
    try:
        model, found = getattr(transformers, class_name).from_pretrained(
            folder,
            local_files_only=True,
            use_safetensors=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # reported below
        )
    except Exception as error:  # invalid configurations fail in many ways
        raise ValueError(
            f'{folder}: transformers cannot build its {class_name}: {error}'
        ) from error
    problems = {
        key: sorted(map(str, found[key]))
        for key in ('missing_keys', 'unexpected_keys', 'mismatched_keys')
        if found.get(key)
    }
    if problems:
        listed = '; '.join(
            f'{len(names)} {key} ({", ".join(names[:4])})' for key, names in problems.items()
        )
        raise ValueError(f'{folder}: the weights do not fit the model in {CONFIG}: {listed}')
    return model.to(torch.float32)
