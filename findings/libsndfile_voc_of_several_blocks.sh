#!/usr/bin/env bash
# soundfile 0.14.0 (libsndfile 1.2.2): of a VOC file whose samples are in several blocks, as FFmpeg writes them, libsndfile
# takes the headers of the blocks for samples. The file is longer than its audio, and from the second block on, 16-bit
# samples are put together from the wrong bytes: loud noise, without an error.
#
# Seen: 16,030 samples instead of 16,000; the first block (1,024 samples) is right; after it the mean error is 0.74 of the
# signal. FFmpeg's own decoder reads 16,000, all right.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q soundfile==0.14.0 numpy==2.2.6 av==18.1.0
"$folder/venv/bin/python" - "$folder/a.voc" <<'PYTHON'
import sys

import av
import numpy as np
import soundfile

path, rate = sys.argv[1], 16000
wav = (0.5 * np.sin(np.arange(rate) * 0.05) * 32767).astype(np.int16)
with av.open(path, 'w') as container:
    stream = container.add_stream('pcm_s16le', rate=rate, layout='mono')
    for begin in range(0, rate, 1024):
        frame = av.AudioFrame.from_ndarray(wav[None, begin : begin + 1024], 's16', 'mono')
        frame.sample_rate, frame.pts = rate, begin
        container.mux(stream.encode(frame))
    container.mux(stream.encode(None))
with av.open(path) as container:
    other = np.concatenate([frame.to_ndarray()[0] for frame in container.decode(audio=0)])
assert np.array_equal(other, wav)
found, _ = soundfile.read(path, dtype='int16')
print(f'libsndfile {soundfile.__libsndfile_version__}: {len(found)} samples of {rate}')
assert len(found) > rate
assert np.array_equal(found[:1024], wav[:1024])
error = np.abs(found[1024:rate].astype(float) - wav[1024:]).mean() / np.abs(wav.astype(float)).mean()
print(f'mean error after the first block: {error:.2f} of the signal')
assert error > 0.5
PYTHON
