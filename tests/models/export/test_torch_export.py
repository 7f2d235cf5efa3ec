import json
import subprocess
import sys
import zipfile

import pytest
import torch

from audiocodec.models import export

# what a user has: PyTorch and the folder
USE = """
import sys, torch
folder = sys.argv[1]
tensors = torch.load(folder + '/tensors.th', weights_only=True)
encoder, decoder = (
    torch.export.load(f'{folder}/{part}.pt2').module() for part in ('encoder', 'decoder')
)
with torch.no_grad():
    for (wav, codes, scale, decoded) in tensors:
        found, *scales = encoder(wav)
        assert torch.equal(found, codes), wav.shape
        torch.testing.assert_close(decoder(codes, *scales), decoded, rtol=0, atol=1e-5)
assert not [name for name in sys.modules if name.startswith('audiocodec')]
"""


@pytest.mark.slow
@pytest.mark.skipif(
    torch.__version__ < '2.9', reason='torch.export of 2.8 cannot trace an LSTM for any length'
)
def test_programs_run_without_this_package_for_any_batch_and_length(
    make_codec, short_audio, tmp_path
):
    # every translated part except reflection padding: scale, group norms, LSTM
    model = make_codec('stereo', ratios=[8, 5])
    report = export.export_torch(model, tmp_path, [short_audio])
    assert report.passed
    assert report.wav_difference < 1e-5
    assert sorted(report.files) == ['config.json', 'decoder.pt2', 'encoder.pt2']
    assert json.loads((tmp_path / 'config.json').read_text())['codebooks'] == 4
    tensors = []
    for batch, length in ((1, 41), (3, 320), (2, 5001)):
        wav = 0.1 * torch.randn(batch, model.channels, length)
        codes, scale = model.encode(wav)
        with torch.no_grad():
            tensors.append((wav, codes, scale, model.decode(codes, scale)))
    torch.save(tensors, tmp_path / 'tensors.th')
    subprocess.run([sys.executable, '-c', USE, str(tmp_path)], check=True, cwd=tmp_path)
    with zipfile.ZipFile(tmp_path / 'encoder.pt2') as archive:
        assert not any(b'program.py' in archive.read(entry) for entry in archive.namelist())
