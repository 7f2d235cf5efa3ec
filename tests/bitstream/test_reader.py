"""Streams are read in order, whatever was lost, damaged, repeated or exchanged."""

import io
import socket

import numpy as np
import pytest
from streams import CARDINALITY, LEVELS, describe, draw, draw_codes, draw_tables, read, write

from audiocodec.bitstream import BitstreamReader, BitstreamWriter, records
from audiocodec.bitstream.records import Record, Scanner

CODES = draw_codes(42)  # four packets of ten frames and one of two
SAMPLES = 42 * 160 - 30


def joined(packets):
    return np.concatenate([packet.codes for packet in packets], axis=1)


def parts(data):
    """The magic, and the bytes of each record."""
    found = Scanner().feed(data, True)
    return [records.MAGIC, *map(records.to_bytes, found)]


class Pipe(io.BytesIO):
    """What arrives byte by byte; `read(size)` of a pipe would wait for all of them."""

    def read1(self, size):
        return super().read(1)

    def read(self, size):
        raise AssertionError


@pytest.fixture(params=[None, 'tables'])
def tables(request):
    return None if request.param is None else draw_tables()


@pytest.fixture
def data(tables):
    return write(CODES, tables, SAMPLES)


def test_a_stream_returns(data, tables):
    reader, packets = read(data, tables)
    assert reader.header == describe(tables)
    assert [packet.number for packet in packets] == list(range(5))
    assert not any(packet.lost for packet in packets)
    assert (joined(packets) == CODES).all()
    assert reader.samples == SAMPLES
    assert str(reader.damage) == 'complete'


def test_it_can_be_read_while_it_is_written(tables):
    file = io.BytesIO()
    writer = BitstreamWriter(file, describe(tables), tables)
    for end in range(0, 43, 6):
        writer.write(CODES[:, max(0, end - 6) : end])
        reader, packets = read(file.getvalue(), tables)
        assert reader.samples is None
        assert str(reader.damage) == 'the end is missing'
        known = sum(packet.codes.shape[1] for packet in packets)
        assert known == end // 10 * 10  # whole packets
        if packets:
            assert (joined(packets) == CODES[:, :known]).all()


def test_every_wrong_byte_costs_its_packet_only(data, tables):
    """The arithmetic coder of EnCodec's own files loses everything after a wrong byte."""
    position = 0
    kinds = [None, None, *range(5), None, None]  # magic, header, packets, header, end
    for kind, part in zip(kinds, parts(data)):
        for place in range(position, position + len(part)):
            damaged = bytearray(data)
            damaged[place] ^= 0x5A
            reader, packets = read(bytes(damaged), tables)
            packets[-1] = packets[-1]._replace(codes=packets[-1].codes[:, :2])  # if no end is left
            lost = [packet.number for packet in packets if packet.lost]
            assert lost == [] if kind is None else [kind]
            assert reader.damage.lost == len(lost)
            intact = ~np.isin(np.arange(42) // 10, lost)
            assert (joined(packets)[:, intact] == CODES[:, intact]).all()
        position += len(part)
    assert position == len(data)


def test_lost_packets_repeat_the_frame_before(data, tables):
    magic, header, *packets, copy, end = parts(data)
    reader, found = read(b''.join((magic, header, packets[0], *packets[3:], copy, end)), tables)
    assert [packet.lost for packet in found] == [False, True, True, False, False]
    assert (found[1].codes == CODES[:, 9:10]).all()
    assert (joined(found)[:, 30:] == CODES[:, 30:]).all()
    assert str(reader.damage) == 'lost packets: 2'
    # the first and the last: nothing to repeat, and only as many frames as are missing
    reader, found = read(b''.join((magic, header, *packets[1:4], copy, end)), tables)
    assert [packet.lost for packet in found] == [True, False, False, False, True]
    assert (found[0].codes == 0).all()
    assert found[4].codes.shape == (LEVELS, 2)


@pytest.mark.parametrize('patience', [0, 1, 2, None])
def test_packets_in_another_order(data, tables, patience):
    magic, header, *packets, copy, end = parts(data)
    order = [packets[one] for one in (1, 2, 2, 0, 0, 4, 3)]
    stream = b''.join((magic, header, *order, copy, end))
    reader = BitstreamReader(Pipe(stream), patience=patience)
    found = list(reader.packets(tables))
    assert [packet.number for packet in found] == list(range(5))
    lost = {0: [0, 3], 1: [0]}.get(patience, [])
    assert [packet.number for packet in found if packet.lost] == lost
    assert reader.damage.repeated == 2 + len(lost)


def test_the_header_may_come_late_or_from_its_copy(data, tables):
    magic, header, *packets, copy, end = parts(data)
    for order in ((*packets, copy, end), (magic, *packets, end, header), (end, *packets, header)):
        reader, found = read(b''.join(order), tables)
        assert (joined(found) == CODES).all()
        assert reader.samples == SAMPLES
    with pytest.raises(ValueError, match='a file of `audiocodec encode`'):
        BitstreamReader(io.BytesIO(b''.join((magic, *packets, end))))
    with pytest.raises(ValueError, match='no header'):
        BitstreamReader(io.BytesIO(bytes(2**23)))


def test_a_listener_joins_a_live_stream():
    codes = draw_codes(700)
    _, _, *rest = parts(write(codes))
    reader, found = read(b''.join(rest[60:]), join=True)
    assert [packet.number for packet in found] == list(range(60, 70))
    assert (joined(found) == codes[:, 600:]).all()
    assert reader.damage.lost == 0


@pytest.mark.parametrize('finished', [True, False])
def test_seeking(finished):
    codes = draw_codes(1000)
    data = write(codes)
    if not finished:
        data = data[:-1]
    reader = BitstreamReader(io.BytesIO(data))
    for number in (50, 0, 99, 16, 31):
        reader.seek(number)
        found = list(reader.packets())
        assert found[0].number == number
        assert (joined(found) == codes[:, 10 * number :]).all()
        assert reader.damage.lost == 0
    reader.seek(101)
    assert list(reader.packets()) == []


def test_impossible_packets_are_lost(tables):
    magic, header, *packets, copy, end = parts(write(CODES, tables))
    for payload in (b'', b'\0', bytes(20), b'\x0b\0' + bytes(19), b'\x0a\x80' + b'\xff' * 19):
        wrong = records.to_bytes(Record(records.PACKET, 1, payload))
        stream = b''.join((magic, header, packets[0], wrong, *packets[2:], copy, end))
        reader, found = read(stream, tables)
        assert [packet.lost for packet in found] == [False, True, False, False, False]
        assert reader.damage.lost == 1


def test_absurd_numbers_are_ignored(tables):
    magic, header, *packets, copy, end = parts(write(CODES, tables))
    payload = Scanner().feed(packets[0], True)[0].payload
    far = records.to_bytes(Record(records.PACKET, 2**32 - 1, payload))
    last = Scanner().feed(end, True)[0]
    long = records.to_bytes(last._replace(number=2**32 - 1))
    stream = b''.join((magic, header, far, *packets, copy, long))
    reader, found = read(stream, tables)
    assert (joined(found) == CODES).all()
    assert reader.damage.lost == 0


def test_an_absurd_length_costs_little():
    data = write(CODES, samples=2**63, frames_per_packet=5000, stride=1)
    reader, found = read(data)
    assert len(found) == reader.header.max_gap + 1
    assert (found[0].codes == CODES).all()
    assert reader.damage.lost == 2**24 // 15000


def test_the_tables_must_be_those_of_the_header():
    tables = draw_tables()
    reader = BitstreamReader(io.BytesIO(write(CODES, tables)))
    for wrong, said in (
        (None, 'none were given'),
        (type(tables)(tables.levels[:2], bytes(8)), 'are'),
    ):
        with pytest.raises(ValueError, match=f'tables {tables.hash.hex()}.*{said}'):
            next(reader.packets(wrong))


def test_a_socket_delivers_each_packet_before_the_next_is_written(tables):
    ours, theirs = socket.socketpair()
    theirs.settimeout(30)
    with ours, theirs, ours.makefile('wb') as out, theirs.makefile('rb') as file:
        writer = BitstreamWriter(out, describe(tables), tables)
        packets = BitstreamReader(file).packets(tables)
        for number in range(4):
            part = CODES[:, 10 * number :][:, :10]
            writer.write(part)
            packet = next(packets)
            assert packet.number == number
            assert (packet.codes == part).all()
        writer.finish(40 * 160)
        ours.shutdown(socket.SHUT_WR)
        assert list(packets) == []


def test_a_live_stream_repeats_its_header():
    file = io.BytesIO()
    header = describe(frames_per_packet=1, stride=160)
    writer = BitstreamWriter(file, header)
    writer.write(np.tile(CODES, 4))
    reader = BitstreamReader(io.BytesIO(file.getvalue()[len(records.MAGIC) + 1 :]), join=True)
    assert reader.header == header
    assert [packet.number for packet in reader.packets()] == list(range(168))


def test_tables_never_need_more_bytes_than_a_fixed_width():
    """Codes that the tables do not expect are written without."""
    codes = draw(5, 0, CARDINALITY, (LEVELS, 300))
    plain, coded = write(codes), write(codes, draw_tables())
    assert len(coded) <= len(plain)
    _, packets = read(coded, draw_tables())
    assert (joined(packets) == codes).all()


@pytest.mark.parametrize('sizes', [{'num_codebooks': LEVELS + 1}, {'cardinality': 25}])
def test_tables_of_other_sizes_are_refused(sizes):
    """Also if a stream that someone made up names them."""
    header = describe(draw_tables(), **sizes)
    with pytest.raises(ValueError, match='tables for 3 codebooks of 24 entries cannot code'):
        BitstreamWriter(io.BytesIO(), header, draw_tables())
    made_up = records.to_bytes(Record(records.HEADER, 0, header.to_bytes()))
    with pytest.raises(ValueError, match='tables for 3 codebooks of 24 entries cannot code'):
        read(records.MAGIC + made_up, draw_tables())


@pytest.mark.parametrize('kept', [-10, 10])
@pytest.mark.parametrize('number', [16, 17, 35])
def test_seeking_where_bytes_were_lost_before(number, kept):
    """Then the table at the end is wrong."""
    codes = np.tile(CODES, 10)
    data = write(codes)
    place = len(data) // 8
    data = data[:place] + data[place + kept :]  # cut, or doubled
    reader = BitstreamReader(io.BytesIO(data))
    reader.seek(number)
    packets = list(reader.packets())
    assert not any(packet.lost for packet in packets)
    assert packets[0].number == number
    assert (joined(packets) == codes[:, 10 * number :]).all()
