import pytest
import torch

from audiocodec import train
from audiocodec.adversarial import MultiBandSTFTDiscriminator, MultiResolutionSTFTDiscriminator
from audiocodec.adversarial.discriminators.base import normalize_peak
from audiocodec.recipe.parts import build_parts

KINDS = [MultiBandSTFTDiscriminator, MultiResolutionSTFTDiscriminator]
SMALL = {'n_ffts': [128, 64], 'filters': 4}


def audio(channels=1, length=500):
    return torch.randn(3, channels, length, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize('kind', KINDS)
def test_items_are_independent_and_memory_formats_agree(kind):
    discriminator = kind(in_channels=2, **SMALL)
    plain = kind(in_channels=2, channels_last=False, **SMALL)
    plain.load_state_dict(discriminator.state_dict())
    wav = audio(2)
    logits, features = discriminator(wav)
    alone, _ = discriminator(wav[1:2])
    torch.testing.assert_close(alone, [logit[1:2] for logit in logits])
    torch.testing.assert_close((logits, features), plain(wav))
    assert all(maps.is_contiguous(memory_format=torch.channels_last) for maps in features[0][:4])


def test_frames_follow_the_padding():
    frames = {
        padding: MultiBandSTFTDiscriminator(padding=padding, **SMALL)(audio())[0][0].shape[2]
        for padding in ('valid', 'center', 'same')
    }
    assert frames == {'valid': (500 - 128) // 32 + 1, 'center': 500 // 32 + 1, 'same': 16}


def test_spectra_are_float32_under_autocast():
    discriminator = MultiBandSTFTDiscriminator(**SMALL)
    with torch.autocast('cpu', torch.bfloat16):
        logits, _ = discriminator(audio())
        assert discriminator.discriminators[0].spectrum(audio().bfloat16()).dtype == torch.float32
    assert logits[0].dtype == torch.bfloat16


def test_peaks_are_equal_and_channels_keep_their_levels():
    wav = torch.tensor([[[1.0, 3.0], [0.0, 4.0]], [[0.0, 0.0], [0.0, 0.0]]])
    expected = torch.tensor([[[-0.4, 0.4], [-0.8, 0.8]], [[0.0, 0.0], [0.0, 0.0]]])
    torch.testing.assert_close(normalize_peak(wav, 0.8), expected)


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        ({'n_ffts': [66]}, 'n_fft=66'),
        ({'bands': [[0.5, 0.4]]}, 'bands'),
        ({'bands': [[0.0, 0.01]]}, 'contains no bin'),
        ({'padding': 'zeros'}, 'padding'),
        ({'peak': 0.0}, r'peak=0\.0'),
        ({'first_feature': 5}, 'first_feature=5'),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        MultiBandSTFTDiscriminator(**{**SMALL, **arguments})


def test_too_short_audio_is_refused():
    with pytest.raises(ValueError, match='audio of 40 samples'):
        MultiBandSTFTDiscriminator(**SMALL)(audio(length=40))


def test_dac_is_composed_of_both_discriminators():
    cfg = train.main.get_xp(['solver=compression/debug', 'adversarial=dac']).cfg
    build_parts(cfg)
    assert set(cfg.adversarial.discriminators) == {'mpd', 'mbstft'}
    assert cfg.adversarial.optimizer._target_ == 'torch.optim.AdamW'
    assert (cfg.adversarial.criterion, cfg.adversarial.normalize) == ('mse', False)


def test_vocos_is_composed_of_both_discriminators_with_its_losses():
    """See the losses of vocos 0.1.0: sums over layers, means over sub-discriminators."""
    small = ['discriminators.mpd.filters=1', 'discriminators.mrd.filters=2']
    overrides = ['adversarial=vocos', *(f'adversarial.{override}' for override in small)]
    cfg = train.main.get_xp(['solver=compression/debug', *overrides]).cfg
    trainer = build_parts(cfg).adversaries
    fake, real = 0.1 * audio(length=4000), 0.1 * audio(length=4000).flip(-1)
    losses = trainer.generator_losses(fake, real)
    assert set(losses) == {'adv_mpd', 'feat_mpd', 'adv_mrd', 'feat_mrd'}
    for name, number in {'mpd': 5, 'mrd': 3}.items():
        logits, of_fake = trainer.discriminators[name](fake)
        _, of_real = trainer.discriminators[name](real)
        assert len(logits) == number
        hinge = sum((1 - one).clamp(min=0).mean() for one in logits) / number
        torch.testing.assert_close(losses[f'adv_{name}'], hinge)
        pairs = [pair for maps in zip(of_fake, of_real) for pair in zip(*maps)]
        distance = sum((one - other).abs().mean() for one, other in pairs) / number
        torch.testing.assert_close(losses[f'feat_{name}'], distance)
    assert [len(maps) for maps in of_fake] == [5 * 4 + 1] * 3
