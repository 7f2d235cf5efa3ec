"""Warnings about codebooks and discriminators, and the keys that they advise."""

import re

import pytest
from omegaconf import OmegaConf

from audiocodec import train
from audiocodec.solvers.health import codebook_warning, discriminator_warning, guessing_warning
from audiocodec.utils import config, paths


def test_codebooks_below_the_usage_in_both_epochs_are_named_with_their_latest():
    history = [
        {'usage_1': 0.1, 'usage_2': 0.1, 'usage_3': 0.9, 'usage_4': 0.4, 'codebook_usage': 0.1},
        {'usage_1': 0.9, 'usage_2': 0.3, 'usage_3': 0.9, 'usage_4': 0.49, 'codebook_usage': 0.1},
        {'usage_1': 0.3, 'usage_2': 0.2, 'usage_3': 0.6, 'usage_4': 0.12, 'codebook_usage': 0.1},
    ]
    assert '2 of 4 codebooks' in codebook_warning(history)
    assert 'level (usage): 2 (20%), 4 (12%)' in codebook_warning(history)
    assert '4 of 4 codebooks' in codebook_warning(history, threshold=0.95)
    assert 'level (usage): 2 (20%), 4 (12%)' in codebook_warning(history, epochs=3)
    assert codebook_warning(history, threshold=0.2) is None


@pytest.mark.parametrize(
    'history',
    [
        [],
        [{'usage_1': 0.0}],
        [{'usage_1': 0.5}, {'usage_1': 0.0}],
        [{'usage_1': 0.0}, {'usage_1': 0.5}],
        [{'codebook_usage': 0.0}] * 3,
    ],
)
def test_no_warning_about_codebooks_too_early_or_in_use(history):
    assert codebook_warning(history) is None


def test_a_discriminator_has_won_when_it_is_right_on_both():
    metrics = {
        'd_one_real_acc': 0.999,
        'd_one_fake_acc': 0.985,
        'd_two_real_acc': 1.0,
        'd_two_fake_acc': 0.97,
        'd_three_real_acc': 0.5,
        'd_three_fake_acc': 1.0,
        'd_one': 0.0,
    }
    assert 'one (real 99.9%, fake 98.5%).' in discriminator_warning(metrics)
    assert 'two' not in discriminator_warning(metrics)
    assert 'one (real 99.9%, fake 98.5%), two (real 100.0%, fake 97.0%).' in discriminator_warning(
        metrics, 0.96
    )
    assert discriminator_warning(metrics, 0.99) is None
    assert discriminator_warning({}) is None


def test_a_discriminator_guesses_when_it_says_the_same_of_both_in_two_epochs():
    constant = {'d_one_real_acc': 0.83, 'd_one_fake_acc': 0.17}
    other = {'d_one_real_acc': 0.2, 'd_one_fake_acc': 0.82, 'd_two_real_acc': 0.5}
    learning = {'d_one_real_acc': 0.6, 'd_one_fake_acc': 0.5}
    text = guessing_warning([learning, other, constant])
    assert 'in the last 2 epochs: one (real 83.0%, fake 17.0%).' in text
    assert 'one (real 20.0%, fake 82.0%)' in guessing_warning([constant, other])
    assert 'two' not in guessing_warning([constant, other])  # in one epoch only
    assert guessing_warning([constant, learning]) is None
    assert guessing_warning([learning, constant]) is None
    assert 'one' in guessing_warning([constant, learning], threshold=0.56)


@pytest.mark.parametrize(
    'history', [[], [{'d_one_real_acc': 0.5, 'd_one_fake_acc': 0.5}], [{}, {'mel': 0.1}]]
)
def test_no_warning_about_guesses_too_early_or_without_discriminators(history):
    assert guessing_warning(history) is None


def test_the_advice_about_discriminators_names_keys_that_exist():
    for text in (
        discriminator_warning({'d_a_real_acc': 1.0, 'd_a_fake_acc': 1.0}),
        guessing_warning([{'d_a_real_acc': 0.5, 'd_a_fake_acc': 0.5}] * 2),
    ):
        assert missing_keys(text, train.main.get_xp([]).cfg) == []


QUANTIZERS = sorted(path.stem for path in (paths.ROOT / 'config' / 'quantizer').glob('*.yaml'))


@pytest.mark.parametrize('name', QUANTIZERS)
def test_the_advice_about_codebooks_names_keys_that_exist(name):
    cfg = train.main.get_xp([f'quantizer={name}']).cfg
    section = config.source_section(config.unresolved(cfg), 'model.quantizer')
    advice = config.locate(cfg.quantizer._target_).unused_codes_advice.format(section=section)
    text = codebook_warning([{'usage_1': 0.0}] * 2, advice=advice)
    assert text.endswith(advice)
    assert missing_keys(text, cfg) == []
    if name == 'rvq':
        assert 'Try rvq.kmeans_init=true; a higher rvq.threshold_ema_dead_code' in text


def missing_keys(text, cfg):
    keys = re.findall(r'\b(?:rvq|quantizer|dataset|adversarial|losses)\.[\w.]*\w', text)
    return [key for key in keys if OmegaConf.select(cfg, key, default='absent') == 'absent']
