#!/usr/bin/env bash
# PyAV 18.1.0 (FFmpeg 8): two Ogg Vorbis files joined (a chained file, as radio streams are) decode to more samples than
# the two have. At the border, the decoder overlaps the last block of the first stream with the first block of the second,
# and returns this as audio: every later sample comes late. libsndfile 1.2.2 reads the first stream alone, and says that
# was all.
#
# Seen: 2 x 22,050 samples: FFmpeg 45,184, 1,084 too many (512 with files of oggenc); libsndfile 22,050.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q soundfile==0.14.0 numpy==2.2.6 av==18.1.0
"$folder/venv/bin/python" - "$folder" <<'PYTHON'
import sys

import av
import numpy as np
import soundfile

folder, rate = sys.argv[1], 22050
for number in range(2):
    soundfile.write(f'{folder}/{number}.ogg', 0.3 * np.sin(np.arange(rate) * 0.05 * (1 + number)), rate)
with open(f'{folder}/both.ogg', 'wb') as file:
    for number in range(2):
        with open(f'{folder}/{number}.ogg', 'rb') as part:
            file.write(part.read())
with av.open(f'{folder}/both.ogg') as container:
    decoded = sum(frame.samples for frame in container.decode(audio=0))
known = soundfile.info(f'{folder}/both.ogg').frames
print(f'of {2 * rate} samples: FFmpeg {decoded}, libsndfile {known}')
assert known == rate
assert decoded > 2 * rate + 500, decoded
PYTHON
