"""Distillation of a speech model into the codes (Mimi, arXiv 2410.00037, section 3.3.2)."""

import json
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from audiocodec.dsp.resample import resample
from audiocodec.losses.base import CodecLoss
from audiocodec.utils.errors import import_transformers, require

# Weights that a speech model lacks in many files, and uses only in its own training.
_UNUSED = ('masked_spec_embed',)
_PREPROCESSOR = 'preprocessor_config.json'


class SemanticDistillation(CodecLoss):
    """Cosine distance between a projection of the codec's features and a frozen speech model.

    The speech model sees the original waveform, at its own sample rate. Its hidden states are
    averaged over two frames of the codec, centered on each frame: for WavLM at 50 Hz and Mimi at
    12.5 Hz, the kernel of 8 and stride of 4 of the paper. Unlike the codec, they may see the
    future, because they are not needed after training. A learned linear layer projects the
    features. The speech model is not part of the state, and moves to the device with the first
    batch.

    Args:
        sample_rate: of the waveform (Hz).
        dimension: channels of the features.
        teacher: folder with a model of `transformers`, such as WavLM or HuBERT: `config.json` and
            weights. Nothing is downloaded. Needs the extra `hf`.
        teacher_layer: number of the hidden states: 0 the input of the first layer, 1 its output, -1
            the last; None: the mean of all.
        feature: name in `CodecOutput.features`, or `latents`, the input of the decoder.

    Raises:
        ValueError: no such folder, a model that cannot be loaded, or no such layer.
    """

    def __init__(
        self,
        sample_rate: int,
        dimension: int,
        teacher: str | None = None,
        teacher_layer: int | None = -1,
        feature: str = 'semantic',
    ) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):  # the codec's weights do not depend on the teacher
            model = _load(teacher)
        layers = model.config.num_hidden_layers
        if teacher_layer is not None and not -layers - 1 <= teacher_layer <= layers:
            raise ValueError(
                f'teacher_layer={teacher_layer}: {teacher} has {layers} layers, expected 0 (their '
                f'input) to {layers}, or -1 (the last), or null (the mean of all)'
            )
        self.sample_rate = sample_rate
        self.dimension = dimension
        self.feature = feature
        self.teacher_layer = teacher_layer
        self.teacher_rate, self.normalizes = _preprocessing(Path(str(teacher)), model.config)
        self.projection = nn.Linear(dimension, model.config.hidden_size)
        self._teacher = [model]  # in a list, so that it is no submodule

    def forward(self, output: Any, wav: torch.Tensor) -> torch.Tensor:
        """Compute the mean of 1 - cosine over all frames, from 0 to 2.

        Args:
            output: an `audiocodec.models.CodecOutput`; its features cover the waveform evenly.
            wav: the original, float [B, C, T]; channels are averaged.

        Raises:
            ValueError: no such feature, or one of another shape.
        """
        features = self._features(output)
        target = pooled(self.teach(wav), features.shape[-1])
        predicted = self.projection(features.transpose(1, 2))
        return 1 - F.cosine_similarity(predicted.float(), target.float(), dim=-1).mean()

    @torch.no_grad()
    def teach(self, wav: torch.Tensor) -> torch.Tensor:
        """Return the hidden states [B, frames, H] of the speech model for a waveform [B, C, T]."""
        teacher = self._teacher[0]
        if next(teacher.parameters()).device != wav.device:
            teacher.to(wav.device)
        mono = resample(wav.mean(dim=1), self.sample_rate, self.teacher_rate)
        if self.normalizes:
            mono = mono - mono.mean(dim=-1, keepdim=True)
            mono = mono / (mono.square().mean(dim=-1, keepdim=True) + 1e-7).sqrt()
        states = teacher(_centered(mono, teacher.config), output_hidden_states=True).hidden_states
        if self.teacher_layer is None:
            return torch.stack(list(states)).mean(0)
        return states[self.teacher_layer]

    def _features(self, output: Any) -> torch.Tensor:
        """Return the features [B, dimension, frames]."""
        known = {**output.features, 'latents': output.latents}
        if self.feature not in known:
            raise ValueError(
                f'feature={self.feature!r}: this model computes {", ".join(known)}; the feature '
                'semantic needs quantizer=split_rvq, for example'
            )
        features = known[self.feature]
        if features.shape[1] != self.dimension:
            raise ValueError(
                f'dimension={self.dimension}: the feature {self.feature!r} of this model has '
                f'{features.shape[1]} channels'
            )
        return features


def pooled(states: torch.Tensor, frames: int) -> torch.Tensor:
    """Average states over two frames of another rate, centered on each frame.

    Both cover the same time evenly. With four times as many states as frames, this is an average
    pooling with a kernel of 8 and a stride of 4, without the padding at the ends. A frame that is
    shorter than half a state gets the nearest one.

    Args:
        states: [B, M, H].
        frames: number of frames N.

    Returns:
        [B, N, H].
    """
    number = states.shape[1]
    ratio = frames / number
    centers = (torch.arange(number, device=states.device) + 0.5) * ratio
    distances = (torch.arange(frames, device=states.device)[:, None] + 0.5 - centers).abs()
    weights = (distances < max(1.0, ratio / 2 + 1e-3)).to(states.dtype)
    return weights / weights.sum(1, keepdim=True) @ states


def _centered(wav: torch.Tensor, config: Any) -> torch.Tensor:
    """Pad a waveform [B, T] such that the convolutions of a model give a frame per stride.

    Args:
        wav: [B, T].
        config: configuration of the model. One without convolutions pads by itself.
    """
    kernels, strides = getattr(config, 'conv_kernel', ()), getattr(config, 'conv_stride', ())
    if not kernels or len(kernels) != len(strides):
        return wav
    covered = stride = 1
    for size, step in zip(kernels, strides):
        covered += (size - 1) * stride
        stride *= step
    overlap = max(0, covered - stride)
    right = -wav.shape[-1] % stride
    return F.pad(wav, (overlap // 2, overlap - overlap // 2 + right))


def _load(teacher: str | None) -> Any:
    """Load a frozen model of a folder, in eval mode.

    Raises:
        ValueError: no such folder, or a model that cannot be loaded.
    """
    if teacher is None:
        raise ValueError(
            'teacher=null: expected a folder with a speech model of transformers, e.g. of '
            'microsoft/wavlm-large, with config.json and its weights'
        )
    folder = Path(teacher)
    if not (folder / 'config.json').is_file():
        raise ValueError(
            f'teacher={teacher}: expected a folder with config.json and weights of a speech model '
            'of transformers; nothing is downloaded'
        )
    require('a teacher', 'hf', 'transformers')
    transformers = import_transformers()
    try:
        model, found = transformers.AutoModel.from_pretrained(
            folder, local_files_only=True, output_loading_info=True
        )
    except Exception as error:  # invalid files fail in many ways
        raise ValueError(f'teacher={teacher}: transformers cannot load it: {error}') from error
    missing = [key for key in found['missing_keys'] if not str(key).endswith(_UNUSED)]
    if missing:
        raise ValueError(
            f'teacher={teacher}: {len(missing)} weights are missing, such as {sorted(missing)[0]}'
        )
    return model.float().eval().requires_grad_(False)


def _preprocessing(folder: Path, config: Any) -> tuple[int, bool]:
    """Return the sample rate (Hz) of a model, and whether it expects normalized waveforms."""
    options: dict[str, Any] = {}
    if (folder / _PREPROCESSOR).is_file():
        options = json.loads((folder / _PREPROCESSOR).read_text('utf-8'))
    is_normalized = getattr(config, 'feat_extract_norm', None) == 'layer'
    return options.get('sampling_rate', 16000), options.get('do_normalize', is_normalized)
