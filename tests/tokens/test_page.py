"""The code of docs/tokens.md, in one namespace."""

import re
from pathlib import Path

import torch
from items import write_items
from noise import noise

PAGE = Path(__file__).parents[2] / 'docs' / 'tokens.md'


def test_code_of_the_page_runs(make, model, tmp_path, monkeypatch):
    source = write_items(tmp_path / 'audio', [1.5, 1.7, 1.6, 2.0])
    make(tmp_path / 'tokens', source)
    monkeypatch.chdir(tmp_path)
    training, decoding = re.findall(r'```python\n(.*?)```', PAGE.read_text(), re.DOTALL)
    torch.manual_seed(0)
    found = {}
    exec(training, found)
    assert found['steps'].shape == (4, 3, 1 + 75 + 2)
    assert found['steps'][0, :, 0].tolist() == [8, 8, 8]
    assert 1.5 < found['loss'].item() < 3  # log(9) = 2.2 before training
    wav, lengths = noise(2, 1, 900), [900, 500]
    found.update(codec=model, wav=wav, lengths=lengths)
    exec(decoding, found)
    assert found['frames'] == [6, 4]
    assert found['wav_hat'].shape == (2, 1, 960)
