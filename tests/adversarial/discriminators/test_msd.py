import pytest
import torch
from torch import nn

from audiocodec.adversarial import MultiScaleDiscriminator
from audiocodec.adversarial.discriminators import ScaleDiscriminator


def geometry(discriminator):
    """Kernel size, stride, padding, groups and filters of the inner convolutions."""
    return [
        (
            conv.conv.kernel_size[0],
            conv.conv.stride[0],
            conv.conv.padding[0],
            conv.conv.groups,
            conv.conv.out_channels,
        )
        for conv in discriminator.convs[1:-1]
    ]


def test_default_geometry_follows_the_scales():
    discriminator = ScaleDiscriminator(filters=8, max_filters=100, downsample_scales=[4, 2])
    assert geometry(discriminator) == [(41, 4, 20, 2, 32), (21, 2, 10, 8, 64)]
    assert discriminator.convs[0][1].conv.kernel_size == (15,)
    assert discriminator.convs[-1].conv.kernel_size == (5,)
    assert discriminator.convs[-1].conv.out_channels == 100
    assert discriminator.conv_post.conv.kernel_size == (3,)


def test_geometry_can_be_set_per_scale():
    discriminator = ScaleDiscriminator(
        filters=8,
        downsample_scales=[4, 2],
        inner_kernel_sizes=[5, 3],
        strides=[2, 1],
        paddings=[0, 1],
        groups=[1, 4],
    )
    assert geometry(discriminator) == [(5, 2, 0, 1, 32), (3, 1, 1, 4, 64)]


def test_first_layer_is_padded_as_asked():
    reflecting = ScaleDiscriminator(filters=4, max_filters=8)
    constant = ScaleDiscriminator(
        filters=4, max_filters=8, pad='ConstantPad1d', pad_params={'value': 0.5}
    )
    assert isinstance(reflecting.convs[0][0], nn.ReflectionPad1d)
    assert constant.convs[0][0].value == 0.5
    assert (reflecting.min_length, constant.min_length) == (8, 1)


def test_logits_are_the_last_feature_map():
    logits, features = ScaleDiscriminator(filters=4, max_filters=8)(torch.randn(2, 1, 1024))
    assert [maps.shape[-1] for maps in features] == [1024, 256, 64, 16, 4, 4, 4]
    assert features[-1] is logits


def test_downsample_halves_the_audio_between_scales():
    torch.manual_seed(0)
    wav = torch.randn(1, 1, 4096)
    full = MultiScaleDiscriminator(filters=4, max_filters=16)(wav)[1]
    pooled = MultiScaleDiscriminator(filters=4, max_filters=16, downsample=True)(wav)[1]
    assert [maps[0].shape[-1] for maps in full] == [4096, 4096, 4096]
    assert [maps[0].shape[-1] for maps in pooled] == [4096, 2049, 1025]


def test_too_short_audio_is_refused():
    discriminator = MultiScaleDiscriminator(filters=4, max_filters=8)
    logits, _ = discriminator(torch.randn(1, 1, 8))
    assert all(logit.isfinite().all() for logit in logits)
    with pytest.raises(ValueError, match=r'audio of 7 samples is too short .* at least 8 samples'):
        discriminator(torch.randn(1, 1, 7))


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        ({'scale_norms': []}, 'at least one'),
        ({'kernel_sizes': [4, 3]}, r'kernel_sizes=\[4, 3\]: expected two odd sizes'),
        ({'groups': [2]}, r'groups=\[2\]: expected 4 values, one per scale'),
        ({'groups': [3, 1, 1, 1]}, 'groups=3 .* must divide its 16 input and 64 output channels'),
        ({'pad': 'Pad'}, "pad='Pad' is not a 1-D padding"),
        ({'downsample_factor': 0}, 'downsample_factor=0'),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        MultiScaleDiscriminator(**arguments)
