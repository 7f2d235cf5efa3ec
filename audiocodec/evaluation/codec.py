"""A compression model as a system to evaluate."""

import logging
import math
import time
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any

import torch

from audiocodec.evaluation.systems import Rendition, System
from audiocodec.models import CompressionModel
from audiocodec.models.complexity import multiply_adds
from audiocodec.models.fingerprint import fingerprint

logger = logging.getLogger(__name__)


class Codec(System):
    """A compression model: each batch is encoded once, and decoded at each rate.

    Args:
        name: name in tables.
        model: the model; the copy used on a CPU is optimized for it (`for_cpu`).
        kbps: bit rates; each uses as many codebooks as it allows. None: the rate that is set.

    Raises:
        ValueError: every rate is below the lowest of the model.
    """

    def __init__(
        self, name: str, model: CompressionModel, kbps: Sequence[float] | None = None
    ) -> None:
        self.name = name
        self.source = model
        self.sample_rate = model.output_sample_rate
        self.channels = model.channels
        self.codebooks = _codebooks(name, model, kbps)  # kbps -> number of codebooks
        self.rates = list(self.codebooks)
        on_cpu = next(model.parameters()).device.type == 'cpu'
        self.model = (model.for_cpu() if on_cpu else model.for_inference()).eval()

    @torch.no_grad()
    def reconstruct(self, wav: torch.Tensor, sample_rate: int) -> Iterator[Rendition]:
        """See `System.reconstruct`."""
        model = self.model
        device = next(model.parameters()).device
        own = self.to_own(wav, sample_rate).to(device)
        if model.cardinality == 0:
            yield self._continuous(own, wav, sample_rate)
            return
        encode_seconds, (codes, scale) = _timed(device, lambda: self.encode(own))
        seconds = own.shape[-1] / self.sample_rate
        for rate, number in self.codebooks.items():
            used = codes[:, :number]
            decode_seconds, wav_hat = _timed(device, lambda used=used: model.decode(used, scale))
            bits = used[0].numel() * math.log2(model.cardinality)
            yield Rendition(
                rate,
                self.to_reference(wav_hat[..., : own.shape[-1]].cpu(), wav, sample_rate),
                bits / seconds / 1000,
                encode_seconds,
                decode_seconds,
                codes=used.cpu(),
            )

    def _continuous(self, own: torch.Tensor, wav: torch.Tensor, sample_rate: int) -> Rendition:
        seconds, out = _timed(own.device, lambda: self.model(own))
        wav_hat = self.to_reference(out.wav.cpu(), wav, sample_rate)
        return Rendition(0.0, wav_hat, 0.0, seconds, 0.0)

    @torch.no_grad()
    def encode(self, wav: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Encode audio [B, C, T] of the system's own rate at its highest rate; see the model."""
        self.model.set_num_codebooks(max(self.codebooks.values()))
        device = next(self.model.parameters()).device
        return self.model.encode(self.model.at_input_rate(wav.to(device)))

    @cached_property
    def fingerprint(self) -> str:
        """Hash of the weights, which tells models of one name apart."""
        return fingerprint(self.source)

    def describe(self) -> dict[str, Any]:
        """See `System.describe`."""
        model = self.source
        return {
            'kind': type(model).__name__,
            'fingerprint': self.fingerprint,
            'sample_rate': model.output_sample_rate,
            'channels': model.channels,
            'frame_rate': model.frame_rate,
            'codebooks': model.total_codebooks,
            'bins': model.cardinality,
            'multiply_adds': multiply_adds(model),
            'parameters': sum(parameter.numel() for parameter in model.parameters()),
        }


def _codebooks(
    name: str, model: CompressionModel, kbps: Sequence[float] | None
) -> dict[float, int]:
    """Return the number of codebooks of each rate that the model has, by its nominal rate."""
    if model.cardinality == 0:
        return {0.0: 0}
    before = model.num_codebooks
    try:
        if kbps is None:
            return {round(model.bandwidth, 3): before}
        found, errors = {}, []
        for rate in kbps:
            try:
                model.set_bandwidth(rate)
                found[round(model.bandwidth, 3)] = model.num_codebooks
            except ValueError as error:
                errors.append(f'{name}: {error}')
    finally:
        model.set_num_codebooks(before)
    if not found:
        raise ValueError(errors[0])
    for text in errors:
        logger.warning('%s; this rate is left out', text)
    return dict(sorted(found.items()))


def _timed(device: torch.device, run: Any) -> tuple[float, Any]:
    """Return the seconds of a call, and its result."""
    if device.type == 'cuda':
        torch.cuda.synchronize(device)
    begin = time.perf_counter()
    result = run()
    if device.type == 'cuda':
        torch.cuda.synchronize(device)
    return time.perf_counter() - begin, result
