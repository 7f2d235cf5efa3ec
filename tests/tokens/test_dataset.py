import json
import pickle

import pytest
import torch
from torch.utils.data import DataLoader

from audiocodec.data import read_segment
from audiocodec.tokens import TokenDataset
from audiocodec.tokens.formats import FORMATS


@pytest.fixture(scope='module', params=FORMATS)
def folder(request, make, tmp_path_factory):
    """A folder of tokens in each format."""
    out = tmp_path_factory.mktemp('tokens') / request.param
    if request.param == 'parquet':
        pytest.importorskip('pyarrow')
    make(out, layout=request.param)
    return out


def test_items_are_the_codes_of_each_file_alone(folder, model, audio):
    dataset = TokenDataset(folder)
    assert len(dataset) == 7
    fast = model.for_cpu()
    for number, (codes, info) in enumerate(dataset):
        path = audio / f'item_{number}.wav'
        expected, _ = fast.encode(read_segment(path, 0, -1, 8000, 1)[None])
        assert torch.equal(codes, expected[0])
        assert number == 6 or all(len(row.unique()) > 2 for row in codes)
        assert codes.dtype == torch.int64
        samples = info['samples']
        assert info['path'] == str(path)
        assert info['frames'] == codes.shape[1] == model.frames(samples)
        assert info['duration'] == samples / 8000
        assert info['sample_rate'] == 8000
        assert info['start'] == 0


def test_segments_are_drawn_from_files_that_are_long_enough(folder):
    whole = {info['path']: codes for codes, info in TokenDataset(folder)}
    dataset = TokenDataset(folder, min_frames=35, max_frames=75, segment_frames=20)
    assert sorted(dataset.frames) == [35, 50, 75]
    torch.manual_seed(0)
    starts = set()
    for _ in range(30):
        for codes, info in dataset:
            start = info['start']
            assert torch.equal(codes, whole[info['path']][:, start : start + 20])
            if info['frames'] == 35:
                starts.add(start)
    assert min(starts) == 0
    assert max(starts) == 15


def test_segments_of_short_files_are_whole(folder):
    lengths = [codes.shape[1] for codes, _ in TokenDataset(folder, segment_frames=16)]
    assert lengths == [16, 16, 16, 16, 16, 16, 3]


def test_processes_of_a_loader_read_it(folder):
    dataset = TokenDataset(folder, min_frames=16)
    dataset[0]
    loader = DataLoader(dataset, batch_size=None, num_workers=2)
    for (codes, info), (expected, _) in zip(loader, dataset):
        assert torch.equal(codes, expected)
        assert info['frames'] == codes.shape[1]
    again = pickle.loads(pickle.dumps(dataset))
    assert torch.equal(again[2].codes, dataset[2].codes)


def test_what_is_not_a_folder_of_tokens_is_refused(tmp_path, make):
    with pytest.raises(ValueError, match=r'no folder of tokens \(tokens.json is missing\)'):
        TokenDataset(tmp_path)
    (tmp_path / 'unfinished').mkdir()
    with pytest.raises(ValueError, match='its tokens are not complete: run the same audiocodec'):
        TokenDataset(tmp_path)
    make(tmp_path / 'out')
    with pytest.raises(ValueError, match='none of its 7 items has from 5 to 4 frames'):
        TokenDataset(tmp_path / 'out', min_frames=5, max_frames=4)
    with pytest.raises(ValueError, match='segment_frames=0: expected at least 1'):
        TokenDataset(tmp_path / 'out', segment_frames=0)
    shard = tmp_path / 'out' / '000001.safetensors'
    size = shard.stat().st_size
    shard.write_bytes(shard.read_bytes()[:-1])
    with pytest.raises(ValueError, match=f'has {size - 1} bytes instead of {size}: copy it again'):
        TokenDataset(tmp_path / 'out')
    head = json.loads((tmp_path / 'out' / 'tokens.json').read_text())
    (tmp_path / 'out' / 'tokens.json').write_text(json.dumps({**head, 'version': 'x 2'}))
    with pytest.raises(ValueError, match="expected version 'audiocodec tokens 1', got 'x 2'"):
        TokenDataset(tmp_path / 'out')
