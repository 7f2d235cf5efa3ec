#!/usr/bin/env bash
# Train AudioCraft's MusicGen on a codec trained and exported here; compare its tokens with ours.
#
#     scripts/check_audiocraft.sh FOLDER
#
# FOLDER (created, 6 GB, kept) holds an environment with AudioCraft 1.3.0, which later runs use
# again, the codec (`solver=compression/debug`, one epoch) and MusicGen (`solver=musicgen/debug`,
# two epochs of ten updates), both trained on the example recordings, on the CPU.
# `python` is that of an environment with this package; ffmpeg must be installed.
# Environment variable: PYTHON, interpreter for AudioCraft; default: python3.10. PyTorch 2.1 has no
# wheels for Python 3.12 and later.
set -euo pipefail
if [ $# != 1 ]; then
    echo 'usage: scripts/check_audiocraft.sh FOLDER' >&2
    exit 2
fi
mkdir -p "$1"
folder=$(cd "$1" && pwd)
cd "$(dirname "$0")/.."
export PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH}
peer=$folder/audiocraft-1.3.0
bin=$folder/venv/bin

if [ ! -e "$folder/installed" ]; then
    "${PYTHON:-python3.10}" -m venv --clear "$folder/venv"
    # the source distribution, because the wheel would not have the configurations
    "$bin/pip" download -q --no-deps -d "$folder" audiocraft==1.3.0
    tar xzf "$peer.tar.gz" -C "$folder"
    # Its own requirements cannot be installed: PyAV 11 has no wheels any more. PyTorch 2.1 needs
    # older versions of NumPy and transformers than the newest. The last four are not imported here.
    {
        grep -vE '^(#|av|numpy|transformers|demucs|gradio|torchtext|torchvision)' \
            "$peer/requirements.txt"
        printf '%s\n' 'av>=12,<13' 'numpy<2' 'transformers>=4.31,<4.46' 'hydra-core<1.4'
    } > "$folder/requirements.txt"
    "$bin/pip" install -q -r "$folder/requirements.txt"
    touch "$folder/installed"
fi

rm -rf "$folder/codec" "$folder/musicgen"
python -m audiocodec.train solver=compression/debug dora.dir="$folder/codec" optim.epochs=1 \
    evaluate.every=null generate.every=null
xp=$(echo "$folder"/codec/xps/*)
audiocodec export "$xp" "$folder/codec.bin" --format audiocraft
for part in train valid evaluate; do
    audiocodec manifest --absolute "dataset/example/$part" "$folder/data/$part/data.jsonl"
done
python - "$xp" "$folder" << 'END'
import sys
from pathlib import Path

import torch

from audiocodec.data import load_manifest, read_segment
from audiocodec.solvers import CompressionSolver

folder = Path(sys.argv[2])
model = CompressionSolver.model_from_checkpoint(sys.argv[1])
items = []
for meta in load_manifest(folder / 'data' / 'evaluate' / 'data.jsonl'):
    wav = read_segment(meta.path, 0, -1, model.sample_rate, model.channels)[None]
    with torch.no_grad():
        codes, _ = model.encode(wav)
        items.append({'wav': wav, 'codes': codes, 'decoded': model.decode(codes)})
torch.save(items, folder / 'ours.th')
END

# Its paths contain the user's name. Text goes through a table, since the weights of T5 would be
# downloaded. A process that loads data would import everything anew, at each stage.
export USER=${USER:-user} AUDIOCRAFT_DORA_DIR=$folder/musicgen PYTHONWARNINGS=ignore
cd "$peer"
"$bin/dora" -P audiocraft run solver=musicgen/debug device=cpu sample_rate=16000 \
    "compression_model_checkpoint=//pretrained/$folder/codec.bin" \
    transformer_lm.n_q=8 transformer_lm.card=256 conditioners.description.model=lut \
    '+conditioners.description.lut={n_bins: 64, dim: 16, tokenizer: noop}' \
    "datasource.train=$folder/data/train" "datasource.valid=$folder/data/valid" \
    "datasource.evaluate=$folder/data/evaluate" "datasource.generate=$folder/data/evaluate" \
    dataset.num_workers=0 dataset.valid.num_samples=8 dataset.generate.num_samples=2
"$bin/python" - "$folder" << 'END'
import json
import math
import sys
from pathlib import Path

import soundfile
import torch
from audiocraft.solvers import CompressionSolver

folder = Path(sys.argv[1])
model = CompressionSolver.model_from_checkpoint(f'//pretrained/{folder}/codec.bin')
total = equal = 0
worst = 0.0
for item in torch.load(folder / 'ours.th'):
    with torch.no_grad():
        codes, _ = model.encode(item['wav'])
        decoded = model.decode(item['codes'])
    assert codes.shape == item['codes'].shape, (codes.shape, item['codes'].shape)
    total += codes.numel()
    equal += int((codes == item['codes']).sum())
    worst = max(worst, float((decoded - item['decoded']).abs().max()))
print(f'PyTorch {torch.__version__}: {equal} of {total} tokens equal ours,')
print(f'waveforms of the same tokens differ by at most {worst:.1e}')
(xp,) = (folder / 'musicgen' / 'xps').iterdir()
epochs = json.loads((xp / 'history.json').read_text())
losses = {stage: [epoch[stage]['ce'] for epoch in epochs] for stage in ('train', 'valid')}
for stage, values in losses.items():
    print(f'{stage}: cross entropy', *(f'{value:.3f}' for value in values))
samples = [soundfile.read(path) for path in xp.glob('samples/*/*.wav')]
print(len(samples), 'generated files, seconds:', [len(wav) / rate for wav, rate in samples])

assert equal > 0.999 * total  # two versions of PyTorch may choose between equidistant entries
assert worst < 1e-4
assert all(math.isfinite(loss) for values in losses.values() for loss in values)
assert all(last < first for first, last in losses.values())
assert samples and all(len(wav) == 5 * rate for wav, rate in samples)
print('passed')
END
