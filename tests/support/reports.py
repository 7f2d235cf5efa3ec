"""An evaluation and two runs as they lie on disk, made of noise, for the tests of reports."""

import json

from noise import noise

from audiocodec.data import write_audio

METRICS = {
    'mel': {'description': 'Mel distance', 'unit': '', 'higher_is_better': False},
    'sisnr': {'description': 'SI-SNR', 'unit': 'dB', 'higher_is_better': True},
}


def write_evaluation(
    folder, items=3, systems=(('ours', 3.0), ('ours', 6.0), ('Opus', 6.0)), seconds=1
):
    """Write an evaluation whose item N has a mel distance of N + place of the system / 10."""
    (folder / 'codes').mkdir(parents=True)
    rows = []
    for item in range(items):
        audio = folder / 'audio' / f'{item:03d}_item_{item}'
        write_audio(audio / 'reference.flac', 0.1 * noise(1, 24000 * seconds, seed=item), 24000)
        for place, (system, rate) in enumerate(systems):
            wav = 0.02 * noise(1, 24000 * seconds, seed=item + 10 * place)
            write_audio(audio / f'{system}@{rate:g}.flac', wav, 24000)
            rows.append(
                {
                    'system': system,
                    'rate': rate,
                    'item': item,
                    'path': f'item_{item}.wav',
                    'offset': 0.0,
                    'seconds': float(seconds),
                    'kbps': rate,
                    'delay': 0,
                    'encode_seconds': 0.1,
                    'decode_seconds': 0.1,
                    'mel': item + place / 10,
                    'sisnr': None if item == 0 else -float(item),
                }
            )
    (folder / 'rows.jsonl').write_text(''.join(json.dumps(row) + '\n' for row in rows))
    (folder / 'evaluation.json').write_text(json.dumps({'version': 1, 'metrics': METRICS}))
    return folder


def write_run(folder, epochs=3, value=1.0):
    """Write an experiment with the samples of its last epoch."""
    history = [
        {'train': {'mel': value / (epoch + 1)}, 'valid': {'mel': 2 * value / (epoch + 1)}}
        for epoch in range(epochs)
    ]
    history[0]['valid']['sisnr'] = float('nan')
    for epoch in (1, epochs):
        samples = folder / 'samples' / f'epoch_{epoch}'
        for kind in ('reference', 'reconstruction'):
            write_audio(samples / f'000_a.b.{kind}.wav', 0.1 * noise(1, 8000), 16000)
    (folder / 'history.json').write_text(json.dumps(history))
    return folder
