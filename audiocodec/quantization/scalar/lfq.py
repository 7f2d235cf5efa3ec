"""Quantizers to the signs of the channels: lookup-free, and binary spherical."""

import torch
import torch.nn.functional as F

from audiocodec.quantization.discrete import DiscreteQuantizer, Quantized, projections
from audiocodec.quantization.gradients import pass_gradient
from audiocodec.utils import distrib

_LARGEST_BITS = 62
_EPSILON = 1e-12


class LookupFreeQuantizer(DiscreteQuantizer):
    """Quantizes each of a few channels to its sign: one codebook with 2**bits entries.

    LFQ of MAGVIT-v2, arXiv 2310.05737, section 3.1: values are -1 and 1. With `spherical`, BSQ,
    arXiv 2406.07548, section 4.1: frames are divided by their norm, and the values are -1 and 1
    over sqrt(bits), so that latents and codes are on the unit sphere. The first channel is the
    highest bit of the code; 0 counts as negative. The gradient is straight-through. Linear maps
    reduce D channels to `bits` and restore them, unless the numbers are equal. Computes in float32,
    also under autocast.

    Losses: 'commitment', mean square of the distance between a channel and its value. 'entropy',
    E[H(p)] - diversity * H(E[p]) in nats, which makes assignments certain and the use of the codes
    even. p is the softmax over all codes of `inv_temperature` times the negative squared distance;
    E averages over the frames of all workers. Since the channels of p are independent, H(p) is the
    sum over the bits, and E[p] over a group of bits one matrix product. H(E[p]) is exact if one
    group holds all bits; otherwise the sum over the groups, as in BSQ, an upper limit.

    Args:
        dimension: channels D of the latents.
        bits: number of quantized channels, from 1 to 62.
        spherical: binary spherical quantization.
        diversity: weight of the entropy of the mean in the loss 'entropy'.
        inv_temperature: sharpness of the assignments in this loss.
        entropy_bits: largest number of bits per group, from 1 to 16; memory and time grow with
            2**(entropy_bits / 2) per frame.

    Buffers:
        statistics: see `CodeStatistics`.

    Raises:
        ValueError: arguments out of range.
    """

    loss_terms = ('entropy', 'commitment')
    training_options = frozenset(('diversity', 'inv_temperature', 'entropy_bits'))
    unused_codes_advice = (
        'Try a higher losses.entropy.weight or {section}.diversity. If nothing helps, the latents '
        'need no more codes: reduce {section}.bits'
    )

    _places: torch.Tensor

    def __init__(
        self,
        dimension: int,
        bits: int = 10,
        spherical: bool = False,
        diversity: float = 1.0,
        inv_temperature: float = 100.0,
        entropy_bits: int = 12,
    ) -> None:
        checks = [
            (not 1 <= bits <= _LARGEST_BITS, f'bits={bits}: expected 1 to {_LARGEST_BITS}'),
            (diversity < 0, f'diversity={diversity}: must be at least 0'),
            (inv_temperature <= 0, f'inv_temperature={inv_temperature}: must be positive'),
            (not 1 <= entropy_bits <= 16, f'entropy_bits={entropy_bits}: expected 1 to 16'),
        ]
        problems = [message for is_wrong, message in checks if is_wrong]
        if problems:
            raise ValueError('; '.join(problems))
        super().__init__(dimension, n_q=1, cardinality=2**bits)
        self.bits = bits
        self.spherical = spherical
        self.diversity = diversity
        self.inv_temperature = inv_temperature
        self.entropy_bits = entropy_bits
        self.project_in, self.project_out = projections(dimension, bits)
        self.scale = bits**-0.5 if spherical else 1.0
        places = 2 ** torch.arange(bits - 1, -1, -1)[:, None]
        self.register_buffer('_places', places, persistent=False)

    def traced_encode(self, latents: torch.Tensor) -> torch.Tensor:
        """Do the same as `encode`; see `BaseQuantizer`."""
        return self._encode(self._to_float(latents), self.num_codebooks)

    def traced_decode(self, codes: torch.Tensor) -> torch.Tensor:
        """Do the same as `decode`; see `BaseQuantizer`."""
        return self._decode(codes)

    def _quantize(self, latents: torch.Tensor, levels: int) -> Quantized:
        values = self._project(latents)
        is_positive = values.detach() > 0
        quantized = self._to_values(is_positive, values.dtype)
        sample, batch = self._entropies(values)
        return Quantized(
            self.project_out(pass_gradient(quantized, values)),
            self._to_codes(is_positive),
            losses={
                'entropy': sample - self.diversity * batch,
                'commitment': F.mse_loss(values, quantized),
            },
            metrics={'sample_entropy': sample.detach(), 'batch_entropy': batch.detach()},
        )

    def _encode(self, latents: torch.Tensor, levels: int) -> torch.Tensor:
        return self._to_codes(self._project(latents) > 0)

    def _decode(self, codes: torch.Tensor) -> torch.Tensor:
        dtype = torch.promote_types(self._dtype(), torch.float32)
        return self.project_out(self._to_values(codes & self._places != 0, dtype))

    def _project(self, latents: torch.Tensor) -> torch.Tensor:
        values = self.project_in(latents)
        return F.normalize(values, dim=1) if self.spherical else values

    def _to_values(self, is_positive: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        return is_positive.to(dtype) * (2 * self.scale) - self.scale

    def _to_codes(self, is_positive: torch.Tensor) -> torch.Tensor:
        return (is_positive * self._places).sum(1, keepdim=True)

    def _entropies(self, values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the mean entropy of the frames, and that of their mean, in nats, 0-d.

        Args:
            values: [B, bits, T], before quantizing.
        """
        # The squared distances of a channel to its two values differ by 4 * scale * value.
        logits = (4 * self.scale * self.inv_temperature) * values.transpose(1, 2).flatten(0, 1)
        size = logits.abs()
        sample = (F.softplus(-size) + size * torch.sigmoid(-size)).sum(1).mean()
        batch = sample.new_zeros(())
        for group in torch.stack([torch.sigmoid(-logits), torch.sigmoid(logits)]).split(
            self.entropy_bits, dim=2
        ):
            half = group.shape[2] // 2
            mean = _joint(group[..., :half]).t() @ _joint(group[..., half:]) / logits.shape[0]
            if self.training:
                mean = _mean_over_workers(mean)
            batch = batch - (mean * mean.clamp(min=_EPSILON).log()).sum()
        return sample, batch


def _joint(probabilities: torch.Tensor) -> torch.Tensor:
    """Return the probabilities [N, 2**bits] of all values of independent bits, of [2, N, bits]."""
    joint = torch.ones_like(probabilities[0, :, :1])
    for bit in probabilities.unbind(2):
        joint = (joint[:, :, None] * bit.t()[:, None]).flatten(1)
    return joint


def _mean_over_workers(mean: torch.Tensor) -> torch.Tensor:
    """Return the mean over the workers, with the gradient for this worker's part.

    The average of the workers' gradients is then that of one worker with all frames.
    """
    if distrib.world_size() == 1:
        return mean
    total = mean.detach().clone()
    distrib.all_reduce_mean_([total])
    return mean + (total - mean.detach())
