"""The notebook runs from top to bottom, on an experiment in place of the reader's."""

import json
from pathlib import Path

import matplotlib
import pytest
import torch
import yaml

from audiocodec.run import checkpoint
from audiocodec.utils import config

NOTEBOOK = Path(__file__).parent.parent / 'docs' / 'tokens.ipynb'
SEANET = {'dimension': 8, 'n_filters': 4, 'n_residual_layers': 1, 'ratios': [8, 5, 4], 'lstm': 0}


@pytest.fixture
def experiment(tmp_path, monkeypatch):
    """A signature with a checkpoint, of a stereo model that takes the loudness out, so that there
    is a scale.
    """
    node = {
        '_target_': 'audiocodec.models.EncodecModel',
        'sample_rate': 16000,
        'channels': 2,
        'renormalize': True,
        'encoder': {'_target_': 'audiocodec.modules.SEANetEncoder', 'channels': 2, **SEANET},
        'decoder': {'_target_': 'audiocodec.modules.SEANetDecoder', 'channels': 2, **SEANET},
        'quantizer': {
            '_target_': 'audiocodec.quantization.ResidualVectorQuantizer',
            'dimension': 8,
            'n_q': 6,
            'bins': 16,
            'kmeans_init': False,
        },
    }
    torch.manual_seed(0)
    folder = tmp_path / 'outputs' / 'xps' / '0a1b2c3d'
    folder.mkdir(parents=True)
    checkpoint.save(
        {
            'format': checkpoint.CHECKPOINT_FORMAT,
            'version': 1,
            'sig': '0a1b2c3d',
            'epoch': 1,
            'config': yaml.safe_dump({'model': node}),
            'state': {'model': config.build(node).state_dict()},
        },
        folder / 'checkpoint.th',
    )
    monkeypatch.setenv('AUDIOCODEC_DORA_DIR', str(tmp_path / 'outputs'))
    return '//sig/0a1b2c3d'


def test_it_runs_from_top_to_bottom(experiment, monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)  # wherever the notebook's kernel was started
    matplotlib.use('Agg')
    cells = [
        cell for cell in json.loads(NOTEBOOK.read_text())['cells'] if cell['cell_type'] == 'code'
    ]
    assert all(cell['outputs'] == [] and cell['execution_count'] is None for cell in cells)
    found = {}
    for cell in cells:
        code = ''.join(cell['source'])
        if 'parameters' in cell['metadata'].get('tags', []):
            code = code.replace('audiocodec/small_24khz', experiment)
        exec(compile(code, str(NOTEBOOK), 'exec'), found)
    matplotlib.pyplot.close('all')
    codes = found['codes']
    assert codes.shape == (2, 6, 300)
    assert torch.equal(found['spliced'], torch.cat([codes[:1, :, :150], codes[1:, :, 150:]], 2))
    assert torch.equal(found['stutter'][..., :20], codes[:1][..., [*range(10), *range(10)]])
    assert torch.equal(
        found['stutter'][..., 20:40], codes[:1][..., [*range(10, 20), *range(10, 20)]]
    )
    assert {sound.shape for sound in found['sounds'].values()} == {(1, 2, 48000)}
    assert (found['sounds']['decoded'] - found['sounds']['noise']).abs().max() > 0
    assert sorted(found['at_bandwidth']) == [1, 2, 4, 6]
    assert (
        '16000 Hz, 2 channel(s), 100 frames/s of 6 tokens out of 16: 2.4 kbps'
        in capsys.readouterr().out
    )
