"""Export of models: each format has a function that writes, reads back and compares on audio.

    from audiocodec.models import export
    report = export.export_hf('//sig/SIG', 'folder')      # or a file, a folder, a name, a model
    print(report)

The command `audiocodec export` does the same. docs/export.md compares the formats.
"""

import copy
import logging
import os
from collections.abc import Callable, Sequence
from pathlib import Path

from audiocodec.models import pretrained
from audiocodec.models.base import CompressionModel
from audiocodec.models.certificate import certify, load_clips
from audiocodec.models.certificate.clips import Clips
from audiocodec.models.export import bundle, onnx, parity, torch_export
from audiocodec.models.export.compact import DTYPES, compact_state, converted, save_compact
from audiocodec.models.export.parity import Codec, Report
from audiocodec.models.export.source import Source, open_source
from audiocodec.models.formats import audiocraft, dac, snac
from audiocodec.models.formats.families import Family, family_of
from audiocodec.models.options import node_of
from audiocodec.run import checkpoint
from audiocodec.utils.files import check_out

__all__ = [
    'DTYPES',
    'FORMATS',
    'SUFFIXES',
    'ParityError',
    'Report',
    'export',
    'export_audiocraft',
    'export_bundle',
    'export_compact',
    'export_descript',
    'export_hf',
    'export_onnx',
    'export_snac',
    'export_torch',
]

logger = logging.getLogger(__name__)

Sources = str | os.PathLike[str] | CompressionModel
Audio = Sequence[str | os.PathLike[str]] | None


class ParityError(ValueError):
    """The export does not compute the same as its source; the message is the report.

    Args:
        report: the comparison.
    """

    def __init__(self, report: Report) -> None:
        super().__init__(str(report))
        self.report = report


def export_compact(
    source: Sources, out: str | os.PathLike[str], audio: Audio = None, dtype: str = 'float32'
) -> Report:
    """Write the weights and configuration of a model to a .safetensors or PyTorch file.

    Args:
        source: a model; the signature of an experiment, as `SIG` or `//sig/SIG`; the folder of an
            experiment; a checkpoint or an exported file; or `//pretrained/NAME`.
        out: the file to write; .safetensors selects that format, any other suffix PyTorch's.
        audio: files, folders or manifests of audio to compare on; by default the example
            recordings.
        dtype: type of the weights in the file: float32, or float16 or bfloat16, which halve it.
            They are loaded as float32; the comparison is with the rounded weights.

    Returns:
        The comparison with the source, which is also written to `OUT.parity.json`.

    Raises:
        ParityError: the export does not compute the same.
        ValueError: the source cannot be read, its model was not built from a configuration, or
            `dtype` is unknown or cannot represent the weights.
    """

    def write(found: Source, path: Path) -> list[str]:
        node, state = node_of(found.model, 'compact'), found.model.state_dict()
        save_compact(node, state, path, dtype, **found.origin)
        if dtype == 'float32':
            return []
        return [_round(found.model, dtype, load_clips(found.model, audio))]

    return _export('compact', source, Path(out), write, _load_own, audio)


def export_bundle(source: Sources, out: str | os.PathLike[str], audio: Audio = None) -> Report:
    """Write everything needed for fine-tuning, without data paths; see `export_compact`.

    Raises:
        ParityError: the export does not compute the same.
        ValueError: the source is not a training checkpoint, and has nothing but the model.
    """

    def write(found: Source, path: Path) -> list[str]:
        if found.content is None:
            raise ValueError(
                f'{found.name}: a bundle needs the discriminators, optimizers and averages of a '
                'training checkpoint of audiocodec; use the format compact'
            )
        bundle.save(found.content, path)
        return []

    return _export('bundle', source, Path(out), write, _load_own, audio)


def export_audiocraft(source: Sources, out: str | os.PathLike[str], audio: Audio = None) -> Report:
    """Write a file for AudioCraft and its MusicGen training; see `export_compact`.

    The comparison reads it back with this package's importer, not with AudioCraft.

    Raises:
        ParityError: the export does not compute the same.
        ValueError: AudioCraft does not support an option; the message names it.
    """
    return _export(
        'audiocraft',
        source,
        Path(out),
        lambda found, path: audiocraft.save(found.model, path),
        _load_own,
        audio,
    )


def export_hf(source: Sources, out: str | os.PathLike[str], audio: Audio = None) -> Report:
    """Write a folder for `transformers`, with a model card; see `export_compact`.

    The report is `parity.json` in the folder.

    Raises:
        ParityError: the export does not compute the same.
        ValueError: `transformers` does not support an option (the message names it), or the extra
            `hf` is missing.
    """

    def write(found: Source, path: Path) -> list[str]:
        origin = ' '.join(f'{key} {value}' for key, value in found.origin.items())
        text = f'It is from the experiment {origin}.' if origin else ''
        families.append(family_of(found.model))
        return families[0].save(found.model, path, text)

    families: list[Family] = []
    return _export('hf', source, Path(out), write, lambda path: families[0].load(path), audio)


def export_descript(source: Sources, out: str | os.PathLike[str], audio: Audio = None) -> Report:
    """Write a weights file for `descript-audio-codec`; see `export_compact`.

    Raises:
        ParityError: the export does not compute the same.
        ValueError: the model is not a DAC; the message says why.
    """
    return _export(
        'descript',
        source,
        Path(out),
        lambda found, path: dac.save_package(found.model, path),
        _load_own,
        audio,
    )


def export_snac(source: Sources, out: str | os.PathLike[str], audio: Audio = None) -> Report:
    """Write a folder for the `snac` package; see `export_compact`.

    Raises:
        ParityError: the export does not compute the same.
        ValueError: the model is not a SNAC; the message says why.
    """

    def write(found: Source, path: Path) -> list[str]:
        snac.save(found.model, path)
        return ['read back with the importer of audiocodec, not with snac']

    return _export('snac', source, Path(out), write, _load_own, audio)


def export_onnx(
    source: Sources,
    out: str | os.PathLike[str],
    audio: Audio = None,
    stream_frames: int | None = None,
) -> Report:
    """Write a folder with `encoder.onnx` and `decoder.onnx`, for any batch size and length.

    With `stream_frames`, also `streaming_encoder.onnx` and `streaming_decoder.onnx` for a signal in
    chunks of so many frames. Otherwise like `export_hf`.

    Raises:
        ParityError: the export does not compute the same.
        ValueError: the model cannot be traced, or not be streamed, or the extra `onnx` is missing.
    """

    def write(found: Source, path: Path) -> list[str]:
        onnx.save(found.model, path, stream_frames)
        return []

    return _export('onnx', source, Path(out), write, onnx.Loaded, audio)


def export_torch(
    source: Sources,
    out: str | os.PathLike[str],
    audio: Audio = None,
    stream_frames: int | None = None,
) -> Report:
    """Write a folder with the `torch.export` programs `encoder.pt2` and `decoder.pt2`.

    With `stream_frames`, also `streaming_encoder.pt2` and `streaming_decoder.pt2` for a signal in
    chunks of so many frames. Otherwise like `export_hf`.

    Raises:
        ParityError: the export does not compute the same.
        ValueError: the model cannot be traced, or not be streamed.
    """

    def write(found: Source, path: Path) -> list[str]:
        torch_export.save(found.model, path, stream_frames)
        return []

    return _export('torch', source, Path(out), write, torch_export.Loaded, audio)


FORMATS: dict[str, Callable[..., Report]] = {
    'compact': export_compact,
    'bundle': export_bundle,
    'audiocraft': export_audiocraft,
    'descript': export_descript,
    'hf': export_hf,
    'onnx': export_onnx,
    'snac': export_snac,
    'torch': export_torch,
}

# formats with programs that take a signal in chunks, if asked to
STREAMING = ('onnx', 'torch')

# of the formats that are one file
SUFFIXES = {
    'audiocraft': '.bin',
    'bundle': '.th',
    'compact': checkpoint.SAFETENSORS,
    'descript': '.pth',
}


def export(
    source: Sources,
    out: str | os.PathLike[str],
    format: str = 'compact',
    audio: Audio = None,
    stream_frames: int | None = None,
    dtype: str | None = None,
) -> Report:
    """Write a model in one of `FORMATS`; see the function of that format.

    Raises:
        ValueError: unknown format, one that takes no `stream_frames` or no `dtype`, or as the
            function.
    """
    if format not in FORMATS:
        raise ValueError(f'format={format!r} is unknown: choose one of {", ".join(FORMATS)}')
    if dtype is not None:
        if format != 'compact':
            raise ValueError(
                f'dtype={dtype} is for the format compact only, not for {format}, which has the '
                "model's own"
            )
        return export_compact(source, out, audio, dtype)
    if stream_frames is None:
        return FORMATS[format](source, out, audio)
    if format not in STREAMING:
        raise ValueError(
            f'stream_frames={stream_frames} is for the formats {" and ".join(STREAMING)} only, not '
            f'for {format}: the package that reads it streams by itself, if it can'
        )
    return FORMATS[format](source, out, audio, stream_frames)


def _load_own(path: Path) -> Codec:
    return pretrained.load(str(path))


def _round(model: CompressionModel, dtype: str, clips: Clips) -> str:
    """Round the weights of a model to another type; return a note on what that changes."""
    exact = copy.deepcopy(model)
    rounded = converted(compact_state(model.state_dict()), dtype)
    model.load_state_dict({**model.state_dict(), **rounded})
    change = Report(dtype, 'float32')
    parity.compare(exact, model, clips, change)
    codes = ''
    if change.codes:
        codes = f'keeps {1 - change.codes_different / change.codes:.1%} of the codes, and '
    return (
        f'compared with the weights rounded to {dtype}. Rounding {codes}changes the waveform of '
        f'given codes by at most {change.wav_difference:.1e}'
    )


def _export(
    name: str,
    source: Sources,
    out: Path,
    write: Callable[[Source, Path], list[str]],
    read: Callable[[Path], Codec],
    audio: Audio,
) -> Report:
    """Write, read back, compare, and save the report."""
    _check_out(name, out)
    found = open_source(source)
    clips = load_clips(found.model, audio)
    report = Report(name, found.name, notes=write(found, out))
    loaded = read(out)
    parity.compare(found.model, loaded, clips, report)
    streamed = getattr(loaded, 'streamed', None)
    if streamed is not None:
        parity.compare(found.model, streamed, streamed.whole(clips), report)
        report.notes.append(f'compared in chunks of {streamed.frames} frames, too')
    if found.model.total_codebooks:
        report.certificate = certify(found.model, found.name, clips, brief=True)
    files = [out]
    if out.is_dir():
        files = sorted(path for path in out.iterdir() if path.name != 'parity.json')
    report.files = {path.name: path.stat().st_size for path in files}
    report.needed = parity.needed_bytes(found.model)
    report.save(out / 'parity.json' if out.is_dir() else out.with_name(f'{out.name}.parity.json'))
    if not report.passed:
        raise ParityError(report)
    logger.info('%s', report)
    return report


def _check_out(name: str, out: Path) -> None:
    """Refuse an unsuitable output path, before anything is computed."""
    try:
        check_out(out, folder=name not in SUFFIXES)
    except ValueError as error:
        raise ValueError(f'format {name}: {error}') from error
    if name == 'audiocraft' and out.suffix == checkpoint.SAFETENSORS:
        raise ValueError(f'{out}: AudioCraft reads PyTorch files; use another suffix, such as .bin')
