#!/usr/bin/env bash
# soundfile 0.14.0 (libsndfile 1.2.2), 5.1 sound in OGG.
#
# Vorbis comes in the order of Vorbis (front left, center, front right, back left, back right, low frequencies), while the
# same sound as FLAC or WAV comes in the order of WAV (front left, front right, center, low, back left, back right). Who
# mixes to stereo by channel number sends the center to the right. Opus of more than two channels opens, but reading with
# soundfile fails: "Supported file format but file is malformed", although FFmpeg reads it.
#
# Seen: levels 0.1, 0.3, 0.2, 0.5, 0.6, 0.06 for channels written with 0.1, 0.2, 0.3, 0.05, 0.5, 0.6; the error.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
command -v ffmpeg > /dev/null || { echo 'needs ffmpeg with libvorbis and libopus (Debian: ffmpeg)'; exit 1; }
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q soundfile==0.14.0 numpy==2.2.6
tones='0.1*sin(2*PI*300*t)|0.2*sin(2*PI*300*t)|0.3*sin(2*PI*300*t)|0.05*sin(2*PI*80*t)|0.5*sin(2*PI*300*t)|0.6*sin(2*PI*300*t)'
ffmpeg -loglevel error -f lavfi -i "aevalsrc=$tones:c=5.1:s=48000:d=2" "$folder/a.wav"
ffmpeg -loglevel error -i "$folder/a.wav" -c:a libvorbis "$folder/a.ogg"
ffmpeg -loglevel error -i "$folder/a.wav" -c:a libopus -mapping_family 1 "$folder/a.opus"
"$folder/venv/bin/python" - "$folder" <<'PYTHON'
import sys

import numpy as np
import soundfile

folder = sys.argv[1]
levels = {}
for name in ('a.wav', 'a.ogg'):
    wav, _ = soundfile.read(f'{folder}/{name}')
    levels[name] = np.sqrt(2 * (wav[20000:60000] ** 2).mean(0)).round(2).tolist()
    print(name, levels[name])
assert levels['a.wav'] == [0.1, 0.2, 0.3, 0.05, 0.5, 0.6]
assert np.allclose(levels['a.ogg'], [0.1, 0.3, 0.2, 0.5, 0.6, 0.05], atol=0.02), levels
try:
    soundfile.read(f'{folder}/a.opus')
except soundfile.LibsndfileError as error:
    print('a.opus:', error)
else:
    raise SystemExit('Opus with six channels is read now')
PYTHON
