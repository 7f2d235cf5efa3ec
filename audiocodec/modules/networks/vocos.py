"""Vocos decoder: ConvNeXt blocks at the frame rate, and an inverse STFT for the waveform.

See Vocos, arXiv 2306.00814, and WavTokenizer, arXiv 2408.16532, which adds attention.
"""

import math

import torch
from torch import nn
from torch.nn import functional as F

from audiocodec.dsp.istft import check_istft, first_sample, istft
from audiocodec.kernels.conv import FastConv1d
from audiocodec.modules.checks import require_int
from audiocodec.modules.reach import Reach, overlapping, reads

MAX_MAGNITUDE = 100.0  # of a bin of the spectrum


class AdaLayerNorm(nn.Module):
    """Layer norm with a scale and a shift per condition, of which the first is used.

    WavTokenizer was trained with four conditions, one per bandwidth as in Vocos. The four
    bandwidths are equal, and its inference uses the first.

    Args:
        num_embeddings: number of conditions.
        dim: channels.
        eps: added to the variance.
    """

    def __init__(self, num_embeddings: int, dim: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.eps = eps
        self.scale = nn.Embedding(num_embeddings, dim)
        self.shift = nn.Embedding(num_embeddings, dim)
        nn.init.ones_(self.scale.weight)
        nn.init.zeros_(self.shift.weight)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map [..., dim] to the same shape."""
        scale, shift = self.scale.weight[0], self.shift.weight[0]
        return F.layer_norm(x, x.shape[-1:], scale, shift, self.eps)


def make_layer_norm(dim: int, num_embeddings: int | None, eps: float) -> nn.Module:
    """Create an `AdaLayerNorm`, or a plain layer norm if there are no conditions."""
    if num_embeddings is None:
        return nn.LayerNorm(dim, eps=eps)
    return AdaLayerNorm(num_embeddings, dim, eps)


class ConvNeXtBlock(nn.Module):
    """ConvNeXt block for signals (arXiv 2201.03545): depthwise convolution, then an MLP per frame.

    Args:
        dim: input and output channels.
        intermediate_dim: channels inside the MLP.
        layer_scale: initial factor of the residual branch, learned per channel (LayerScale, arXiv
            2103.17239).
        num_embeddings: see `make_layer_norm`.
        eps: of the norm.
    """

    def __init__(
        self,
        dim: int,
        intermediate_dim: int,
        layer_scale: float,
        num_embeddings: int | None = None,
        eps: float = 1e-6,
    ) -> None:
        super().__init__()
        self.dwconv = FastConv1d(dim, dim, 7, padding=3, groups=dim)
        self.norm = make_layer_norm(dim, num_embeddings, eps)
        self.pwconv1 = nn.Linear(dim, intermediate_dim)
        self.act = nn.GELU()
        self.pwconv2 = nn.Linear(intermediate_dim, dim)
        self.gamma = nn.Parameter(torch.full((dim,), layer_scale))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map [B, dim, T] to [B, dim, T]."""
        y = self.norm(self.dwconv(x).transpose(1, 2))
        y = self.gamma * self.pwconv2(self.act(self.pwconv1(y)))
        return x + y.transpose(1, 2)

    def reads(self, first: float, last: float, recurrence: bool = True) -> Reach:
        """Return what the convolution reads, which includes the shortcut; see `reach`."""
        return reads(self.dwconv, first, last, recurrence)


class GroupNormResBlock(nn.Module):
    """Residual block of two convolutions, each after a group norm and SiLU.

    Args:
        dim: input and output channels.
        num_groups: groups of the norms.
        dropout: probability of dropout before the second convolution.
        eps: of the norms.
    """

    def __init__(self, dim: int, num_groups: int, dropout: float, eps: float) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(num_groups, dim, eps)
        self.conv1 = FastConv1d(dim, dim, 3, padding=1)
        self.norm2 = nn.GroupNorm(num_groups, dim, eps)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = FastConv1d(dim, dim, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map [B, dim, T] to [B, dim, T]."""
        y = self.conv1(F.silu(self.norm1(x)))
        return x + self.conv2(self.dropout(F.silu(self.norm2(y))))


class SelfAttention1d(nn.Module):
    """Self-attention with a single head, over all frames, after a group norm; residual.

    Args:
        dim: input and output channels.
        num_groups: groups of the norm.
        eps: of the norm.
    """

    def __init__(self, dim: int, num_groups: int, eps: float) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(num_groups, dim, eps)
        self.q = FastConv1d(dim, dim, 1)
        self.k = FastConv1d(dim, dim, 1)
        self.v = FastConv1d(dim, dim, 1)
        self.proj_out = FastConv1d(dim, dim, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map [B, dim, T] to [B, dim, T]."""
        y = self.norm(x)
        query, key, value = (part(y).transpose(1, 2) for part in (self.q, self.k, self.v))
        y = F.scaled_dot_product_attention(query[:, None], key[:, None], value[:, None])[:, 0]
        return x + self.proj_out(y.transpose(1, 2))


class ISTFTHead(nn.Module):
    """Predicts log magnitudes and phases of an STFT, and inverts it (Vocos, section 3.3).

    Computed in float32, also under autocast.

    Args:
        dim: input channels.
        n_fft: samples of the FFT and of its Hann window.
        hop_length: samples per frame.
        channels: channels of the waveform.
        padding: `same` or `center`, see `istft`.

    Raises:
        ValueError: sizes that do not fit.
    """

    window: torch.Tensor

    def __init__(
        self, dim: int, n_fft: int, hop_length: int, channels: int = 1, padding: str = 'same'
    ) -> None:
        super().__init__()
        check_istft(n_fft, hop_length, padding)
        self.n_fft = n_fft
        self.hop_length = hop_length
        self.channels = channels
        self.padding = padding
        self.linear = nn.Linear(dim, channels * (n_fft + 2))
        self.register_buffer('window', torch.hann_window(n_fft), persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map frames [B, T_frames, dim] to a waveform [B, channels, T_frames * hop_length]."""
        predicted = self.linear(x)
        # There are no complex numbers in half precision.
        with torch.autocast(x.device.type, enabled=False):
            predicted = predicted.to(torch.promote_types(predicted.dtype, torch.float32))
            predicted = predicted.unflatten(-1, (self.channels, self.n_fft + 2)).transpose(1, 2)
            log_magnitude, phase = predicted.flatten(0, 1).chunk(2, dim=-1)
            # Limited before the exponential: behind it, the gradient of an overflow would be NaN.
            magnitude = log_magnitude.clamp(max=math.log(MAX_MAGNITUDE)).exp()
            spectrum = torch.polar(magnitude, phase)
            window = self.window.to(predicted.dtype)
            wav = istft(spectrum, window, self.hop_length, self.padding)
            return wav.unflatten(0, (x.shape[0], self.channels))

    def reads(self, first: float, last: float, recurrence: bool = True) -> Reach:
        """Return the frames whose windows cover the samples; see `reach`."""
        left = first_sample(self.n_fft, self.hop_length, self.padding)
        # the first value of the window is zero
        return overlapping(first + left - 1, last + left - 1, self.n_fft - 1, self.hop_length)


class VocosDecoder(nn.Module):
    """Decoder from latents to waveform, with a single upsampling: the inverse STFT.

    With `attention`, frames pass four residual blocks with self-attention in the middle (the
    "pos_net" of WavTokenizer) before the ConvNeXt blocks. Its group norms and its attention span
    the whole item. Without, this is the decoder of Vocos. Never causal.

    Args:
        channels: channels of the waveform.
        dimension: channels of the latents.
        hop_length: samples per frame.
        dim: channels of the blocks.
        intermediate_dim: channels inside the MLPs of the ConvNeXt blocks.
        num_layers: ConvNeXt blocks.
        n_fft: samples of the FFT and of its window; None: 4 * hop_length.
        padding: of the inverse STFT: `same`, or `center` (half a hop earlier), see `istft`.
        attention: whether to use the blocks of WavTokenizer.
        num_groups: groups of their norms, of at least 2 channels each.
        dropout: their probability of dropout.
        layer_scale_init_value: see `ConvNeXtBlock`; None: 1 / num_layers.
        adanorm_num_embeddings: conditions of the layer norms, see `AdaLayerNorm`; None for plain
            layer norms.
        norm_eps: added to the variance in all norms.

    Attributes:
        causal: False.

    Raises:
        ValueError: an argument out of range, or sizes that do not fit.
    """

    causal = False

    def __init__(
        self,
        channels: int = 1,
        dimension: int = 512,
        hop_length: int = 320,
        dim: int = 768,
        intermediate_dim: int = 2304,
        num_layers: int = 12,
        n_fft: int | None = None,
        padding: str = 'same',
        attention: bool = True,
        num_groups: int = 32,
        dropout: float = 0.1,
        layer_scale_init_value: float | None = None,
        adanorm_num_embeddings: int | None = None,
        norm_eps: float = 1e-6,
    ) -> None:
        super().__init__()
        sizes = {
            'channels': channels,
            'dimension': dimension,
            'hop_length': hop_length,
            'dim': dim,
            'intermediate_dim': intermediate_dim,
            'num_layers': num_layers,
            'n_fft': 4 * hop_length if n_fft is None else n_fft,
            'num_groups': num_groups,
            'adanorm_num_embeddings': 1
            if adanorm_num_embeddings is None
            else adanorm_num_embeddings,
        }
        for name, value in sizes.items():
            require_int(name, value)
        if attention:
            _check_groups(dim, num_groups)
        _check(dropout, norm_eps)
        self.channels = channels
        self.dimension = dimension
        self.hop_length = hop_length
        scale = 1 / num_layers if layer_scale_init_value is None else layer_scale_init_value
        self.embed = FastConv1d(dimension, dim, 7, padding=3)
        self.norm = make_layer_norm(dim, adanorm_num_embeddings, norm_eps)
        self.convnext = nn.Sequential(
            *[
                ConvNeXtBlock(dim, intermediate_dim, scale, adanorm_num_embeddings, norm_eps)
                for _ in range(num_layers)
            ]
        )
        self.final_layer_norm = nn.LayerNorm(dim, eps=norm_eps)
        # As published: the blocks below keep the initialization of PyTorch.
        self.apply(_initialize)
        self.pos_net = nn.Sequential()
        if attention:
            self.pos_net = _position_net(dim, num_groups, dropout, norm_eps)
        self.head = ISTFTHead(dim, sizes['n_fft'], hop_length, channels, padding)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map latents [B, dimension, T_frames] to [B, channels, T_frames * hop_length]."""
        x = self.pos_net(self.embed(x))
        x = self.norm(x.transpose(1, 2)).transpose(1, 2)
        return self.head(self.final_layer_norm(self.convnext(x).transpose(1, 2)))

    def reads(self, first: float, last: float, recurrence: bool = True) -> Reach:
        """Return what the layers read: everything with attention; see `reach`."""
        if len(self.pos_net):
            return Reach(-math.inf, math.inf)
        for part in (self.head, self.convnext, self.embed):
            first, last = reads(part, first, last, recurrence)
        return Reach(first, last)


def _check_groups(dim: int, num_groups: int) -> None:
    """Check the groups of the norms. With one channel each, a single frame has no variance."""
    if dim % num_groups or dim == num_groups:
        accepted = [groups for groups in range(1, dim) if dim % groups == 0]
        nearest = min(accepted, key=lambda groups: abs(groups - num_groups), default=None)
        advice = 'raise dim' if nearest is None else f'try num_groups={nearest}'
        raise ValueError(
            f'num_groups={num_groups}: expected a divisor of dim={dim} with at least 2 channels '
            f'per group: {advice}'
        )


def _check(dropout: float, norm_eps: float) -> None:
    if not 0 <= dropout < 1:
        raise ValueError(f'dropout={dropout}: must be in [0, 1)')
    if not norm_eps > 0:
        raise ValueError(f'norm_eps={norm_eps}: must be positive')


def _position_net(dim: int, num_groups: int, dropout: float, eps: float) -> nn.Sequential:
    """Create the blocks between the first convolution and the ConvNeXt blocks of WavTokenizer."""
    blocks = [GroupNormResBlock(dim, num_groups, dropout, eps) for _ in range(4)]
    attention = SelfAttention1d(dim, num_groups, eps)
    return nn.Sequential(*blocks[:2], attention, *blocks[2:], nn.GroupNorm(num_groups, dim, eps))


def _initialize(module: nn.Module) -> None:
    """Draw weights as Vocos does: truncated normal with a deviation of 0.02, and no biases."""
    if isinstance(module, nn.Conv1d | nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
