import json
from pathlib import Path

import torch
import yaml
from tiny_codecs import tiny_codec

from audiocodec.cli.main import main as audiocodec
from audiocodec.data import AudioDataset, load_source
from audiocodec.run import checkpoint
from audiocodec.utils import config

ROOT = Path(__file__).parents[3]
MODEL = tiny_codec()
AUDIO = ROOT / 'dataset' / 'example' / 'valid'


def run(*argv):
    return audiocodec(['usage', *map(str, argv)])


def save(path, node=MODEL, dead=()):
    torch.manual_seed(0)
    model = config.build(node)
    for level in dead:
        model.quantizer.codebooks.embed[level, 1:] = (
            1e3  # all but one entry far away from everything
        )
    checkpoint.save(
        {
            'format': checkpoint.MODEL_FORMAT,
            'version': 1,
            'config': yaml.safe_dump({'model': node}),
            'state': model.state_dict(),
        },
        path,
    )
    return model.eval()


def test_the_figures_are_those_of_the_codes(tmp_path, capsys):
    model = save(tmp_path / 'model.bin')
    code = run(
        tmp_path / 'model.bin',
        AUDIO,
        '--items',
        5,
        '--seconds',
        0.5,
        '--json',
        tmp_path / 'usage.json',
    )
    dataset = AudioDataset(load_source(AUDIO), 8000, 1, segment_duration=0.5, num_samples=5)
    codes = torch.cat([model.encode(dataset[index][None])[0] for index in range(5)], dim=-1)
    rows = json.loads((tmp_path / 'usage.json').read_text())
    assert [row['used'] for row in rows] == [len(codes[:, level].unique()) for level in range(3)]
    assert [row['usage'] for row in rows] == [row['used'] / 8 for row in rows]
    assert {row['frames'] for row in rows} == {5 * 25}
    assert all(1 <= row['perplexity'] <= row['used'] for row in rows)
    assert code == any(row['usage'] < 0.5 for row in rows)
    said = capsys.readouterr().out
    assert (
        f'    1  {rows[0]["used"]:6d}  {rows[0]["usage"]:6.1%}  {rows[0]["perplexity"]:10.1f}'
        in said
    )
    assert '125 frames are too few for 8 entries' in said


def test_a_dead_level_is_pointed_at(tmp_path, capsys):
    node = {**MODEL, 'encoder': {**MODEL['encoder'], 'init': 'lecun_normal'}}  # latents that differ
    save(tmp_path / 'model.bin', node, dead=[1])
    assert run(tmp_path / 'model.bin', AUDIO, '--items', 3, '--threshold', 0.2) == 1
    low = [line for line in capsys.readouterr().out.splitlines() if line.endswith('<- low')]
    assert [line.split()[:3] for line in low] == [['2', '1', '12.5%']]
    assert run(tmp_path / 'model.bin', AUDIO, '--items', 3, '--threshold', 0.1) == 0


def test_what_cannot_be_measured_is_said_in_a_line(tmp_path, capsys):
    save(
        tmp_path / 'none.bin',
        {**MODEL, 'quantizer': {'_target_': 'audiocodec.quantization.NoQuantizer', 'dimension': 4}},
    )
    for argv, message in [
        (('none.bin', AUDIO), 'it has no codebooks'),
        (('nothing.bin', AUDIO), 'nothing.bin'),
        (('none.bin', tmp_path / 'empty'), 'no codebooks'),
    ]:
        assert run(tmp_path / argv[0], argv[1]) == 1
        said = capsys.readouterr()
        assert said.out == ''
        assert message in said.err
