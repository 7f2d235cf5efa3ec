import io
import json
import tarfile

import numpy as np
import pytest
from safetensors import safe_open

from audiocodec.tokens import formats
from audiocodec.tokens.formats import FORMATS, Item

HEAD = json.dumps({'model': 'tiny', 'kbps': 0.45, 'cardinality': 8, 'num_codebooks': 3})


def items(dtype='uint16', lengths=(5, 1, 17), scale=False):
    rng = np.random.default_rng(0)
    return [
        Item(
            7 + number,
            rng.integers(60000, size=(3, length)).astype(dtype),
            {
                'path': f'/a/\udce4{number}.wav',
                'duration': length / 50,
                'sample_rate': 8000,
                'samples': 160 * length,
                'frames': length,
                **({'scale': [0.5] * length} if scale else {}),
            },
        )
        for number, length in enumerate(lengths)
    ]


def write(name, tmp_path, *args, **kwargs):
    path = tmp_path / f'{args}{kwargs}'
    with open(path, 'wb') as file:
        return str(path), FORMATS[name].write(file, items(*args, **kwargs), HEAD)


@pytest.fixture(params=FORMATS)
def name(request):
    if request.param == 'parquet':
        pytest.importorskip('pyarrow')
    return request.param


@pytest.mark.parametrize('dtype', ['uint16', 'int32'])
def test_parts_of_items_are_read(name, dtype, tmp_path):
    lengths = tuple(range(1, 41))  # more than a group of rows of Parquet
    path, offsets = write(name, tmp_path, dtype, lengths)
    for item, offset, length in zip(items(dtype, lengths), offsets, lengths):
        for begin, end in ((0, length), (length // 2, length), (0, 1)):
            found = FORMATS[name].read(path, offset, begin, end)
            assert np.array_equal(found, item.codes[:, begin:end])
            assert found.dtype == dtype


def test_equal_items_give_equal_bytes(name):
    files = [io.BytesIO() for _ in range(3)]
    for file in files:
        FORMATS[name].write(file, items(scale=True), HEAD)
    assert len({file.getvalue() for file in files}) == 1


def test_members_of_tars_are_those_of_webdataset(tmp_path):
    path, offsets = write('webdataset', tmp_path, scale=True)
    with tarfile.open(path) as archive:
        members = archive.getmembers()
        assert [member.name for member in members] == [
            f'{number:09d}.{kind}' for number in (7, 8, 9) for kind in ('json', 'npy')
        ]
        assert [member.offset_data for member in members[1::2]] == offsets
        assert {(member.mtime, member.uid, member.gid) for member in members} == {(0, 0, 0)}
        for item, member in zip(items(scale=True), members[::2]):
            assert json.load(archive.extractfile(member)) == item.info


def test_tables_have_columns_of_the_index(tmp_path):
    parquet = pytest.importorskip('pyarrow.parquet')
    path, _ = write('parquet', tmp_path, scale=True)
    table = parquet.read_table(path)
    assert json.loads(table.schema.metadata[b'audiocodec']) == json.loads(HEAD)
    for row, item in zip(table.to_pylist(), items(scale=True)):
        codes = np.array(row.pop('codes'))
        assert np.array_equal(codes, item.codes)
        assert row.pop('path') == f'/a/\\udce4{item.number - 7}.wav'
        assert (
            row.items() == {key: value for key, value in item.info.items() if key != 'path'}.items()
        )


def test_tensors_have_the_head(tmp_path):
    path, offsets = write('safetensors', tmp_path)
    assert offsets == [0, 5, 6]
    with safe_open(path, 'np') as file:
        assert file.keys() == ['codes']
        assert file.get_slice('codes').get_shape() == [23, 3]
        assert json.loads(file.metadata()['audiocodec']) == json.loads(HEAD)


def test_unknown_formats_and_missing_packages_are_named(monkeypatch):
    with pytest.raises(ValueError, match="format 'hdf5': expected one of safetensors, npy"):
        formats.get_format('hdf5')
    monkeypatch.setattr(FORMATS['parquet'], 'packages', ('no_such_package',))
    with pytest.raises(ValueError, match=r"format parquet needs no_such_package .*\[parquet\]'"):
        formats.get_format('parquet')
