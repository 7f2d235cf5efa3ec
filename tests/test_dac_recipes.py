"""The recipes of DAC hold the published options."""

import pytest
import torch

from audiocodec import train
from audiocodec.losses import MultiScaleLogMelLoss, WeightedSum
from audiocodec.models.formats import dac
from audiocodec.utils import config


@pytest.mark.parametrize(
    ('name', 'sample_rate', 'hop_length', 'n_q'),
    [('44khz', 44100, 512, 9), ('24khz', 24000, 320, 32), ('16khz', 16000, 320, 12)],
)
def test_options_are_the_published_ones(name, sample_rate, hop_length, n_q, monkeypatch, tmp_path):
    monkeypatch.setenv('AUDIOCODEC_DORA_DIR', str(tmp_path))
    cfg = train.main.get_xp([f'solver=compression/dac_{name}', 'dset=audio/example']).cfg
    plain = config.to_plain(cfg)
    with torch.device('meta'):
        model = config.build(plain['model'])
    assert (model.sample_rate, model.hop_length, model.total_codebooks) == (
        sample_rate,
        hop_length,
        n_q,
    )
    kwargs = dac.foreign_config(model)  # refuses what is not a DAC
    assert (kwargs['encoder_dim'], kwargs['decoder_dim'], kwargs['latent_dim']) == (64, 1536, 1024)
    assert (kwargs['codebook_size'], kwargs['codebook_dim'], kwargs['quantizer_dropout']) == (
        1024,
        8,
        0.5,
    )
    weights = {key: node.get('weight') for key, node in plain['losses'].items()}
    assert {key: weight for key, weight in weights.items() if weight} == {
        'adv': 1.0,
        'feat': 2.0,
        'logmel': 15.0,
        'commitment': 0.25,
        'codebook': 1.0,
    }
    assert config.locate(plain['losses']['logmel']['_target_']) is MultiScaleLogMelLoss
    assert config.locate(plain['balancer']['_target_']) is WeightedSum
    assert (cfg.dataset.batch_size, cfg.dataset.segment_duration) == (72, 0.38)
    assert (cfg.optim.max_norm, cfg.adversarial.max_norm) == (1000.0, 10.0)
    assert cfg.adversarial.criterion == 'mse'
    assert cfg.optim.schedule.gamma == 0.999996
    for optimizer in (cfg.optim.optimizer, cfg.adversarial.optimizer):
        assert config.locate(optimizer['_target_']) is torch.optim.AdamW
        assert (optimizer.lr, list(optimizer.betas)) == (1e-4, [0.8, 0.99])
