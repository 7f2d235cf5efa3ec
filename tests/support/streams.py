"""Small streams, with and without tables, of codes that every machine computes alike."""

import functools
import io

import numpy as np

from audiocodec.bitstream import BitstreamReader, BitstreamWriter, Header, Tables
from audiocodec.bitstream.tables import Level

CARDINALITY, LEVELS, DIMENSION = 24, 3, 4
MODEL = b'8 bytes!'


def draw(seed, low, high, shape):
    """Integers in [low, high) of a generator that is defined here: x -> 69069 x + 1 mod 2^32."""
    values = []
    for _ in range(int(np.prod(shape))):
        seed = (69069 * seed + 1) % 2**32
        values.append(low + (seed >> 8) % (high - low))
    return np.array(values).reshape(shape)


@functools.cache
def draw_tables():
    levels = []
    for k in range(LEVELS):
        levels.append(
            Level(
                draw(3 * k, -90, 91, (CARDINALITY, DIMENSION)).astype(np.int8),
                draw(3 * k + 1, -9000, 0, CARDINALITY).astype(np.int32),
                draw(3 * k + 2, -90, 91, (2 + k, CARDINALITY + 1, DIMENSION)).astype(np.int8),
            )
        )
    return Tables(levels, MODEL)


def draw_codes(frames, seed=1):
    """Codes [K, n] that the tables expect: what they decode noise to, in packets of 10 frames."""
    noise = draw(seed, 0, 256, 64 * (frames // 10 + 1)).astype(np.uint8).tobytes()
    parts = [
        draw_tables().decode(noise[64 * number :][:64], LEVELS, 10)
        for number in range(frames // 10 + 1)
    ]
    return np.concatenate(parts, axis=1)[:, :frames]


def describe(tables=None, **options):
    options = {
        'sample_rate': 8000,
        'channels': 1,
        'hop_length': 160,
        'num_codebooks': LEVELS,
        'cardinality': CARDINALITY,
        'frames_per_packet': 10,
        'stride': 1600,
        'model_hash': MODEL,
        'model': 'a model',
        **options,
    }
    return Header(tables_hash=bytes(8) if tables is None else tables.hash, **options)


def write(codes, tables=None, samples=None, **options):
    """The bytes of a stream of codes [K, n]."""
    file = io.BytesIO()
    writer = BitstreamWriter(file, describe(tables, **options), tables)
    writer.write(codes)
    writer.finish(codes.shape[1] * 160 if samples is None else samples)
    return file.getvalue()


def read(data, tables=None, **options):
    """Reader and all packets of a stream."""
    reader = BitstreamReader(io.BytesIO(data), **options)
    return reader, list(reader.packets(tables))
