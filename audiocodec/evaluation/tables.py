"""Tables of an evaluation, for the terminal and as files."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from audiocodec.evaluation.rows import Row, label, write_csv, write_json
from audiocodec.utils.progress import plain_number

SUMMARY = 'summary.json'
SUMMARY_TABLE = 'summary.csv'
TOKENS = 'tokens.json'


def write_tables(folder: Path, summary: Sequence[Row], tokens: Sequence[Row]) -> list[Row]:
    """Write the summary (JSON and CSV) and the statistics of the codes (JSON).

    Returns:
        The statistics, with those of systems and rates that were evaluated earlier.
    """
    write_json(folder / SUMMARY, list(summary))
    write_csv(folder / SUMMARY_TABLE, summary)
    path = folder / TOKENS
    old = json.loads(path.read_text()) if path.exists() else []
    merged = {(row['system'], row['rate']): row for row in [*old, *tokens]}
    write_json(path, list(merged.values()))
    return list(merged.values())


def summary_table(
    summary: Sequence[Row], metrics: Mapping[str, Mapping[str, Any]], baseline: str | None = None
) -> str:
    """Format the means with their 95 % intervals, one block for each metric.

    Args:
        summary: see `summary.summarize`.
        metrics: description, unit and direction of each metric.
        baseline: name of the baseline, if the summary has differences.
    """
    width = max(len(_name(row)) for row in summary)
    blocks = []
    for metric, facts in metrics.items():
        arrow = 'higher' if facts['higher_is_better'] else 'lower'
        unit = f', {facts["unit"]}' if facts['unit'] else ''
        head = f'{metric}{unit} ({arrow} is better): {facts["description"]}'
        columns = f'{"":{width}}  {"kbps":>6}  {"mean":>8}  {"95 % interval":>17}  {"median":>8}'
        lines = [head, columns + (f'  {f"minus {baseline}":>26}' if baseline else '')]
        lines += [_line(row, metric, width, baseline) for row in summary if metric in row]
        blocks.append('\n'.join(lines))
    speeds = [f'speed, times real time\n{"":{width}}  {"encode":>8}  {"decode":>8}']
    for row in summary:
        figures = (_text(row[name], 8) for name in ('encode_speed', 'decode_speed'))
        speeds.append(f'{_name(row):{width}}  {"  ".join(figures)}')
    return '\n\n'.join([*blocks, '\n'.join(speeds)])


def _line(row: Row, metric: str, width: int, baseline: str | None) -> str:
    interval = _interval(row[f'{metric}_low'], row[f'{metric}_high'])
    line = (
        f'{_name(row):{width}}  {row["kbps"]:6.2f}  {_text(row[metric], 8)}  {interval:>17}  '
        f'{_text(row[f"{metric}_median"], 8)}'
    )
    if baseline:
        name = f'{metric}_difference'
        ends = _interval(row[f'{name}_low'], row[f'{name}_high'])
        line += f'  {_text(row[name], 8)} {ends:>17}'
    unscored = row[f'{metric}_unscored']
    return f'{line}  ({unscored} of {row["items"]} without a score)' if unscored else line


def token_table(tokens: Sequence[Row], summary: Sequence[Row]) -> str:
    """Format the statistics of the codes; use and perplexity are those of the worst level."""
    by_key = {(row['system'], row['rate']): row for row in summary}
    width = max(len(_name(row)) for row in tokens)
    lines = [
        'codes: kbps nominal, entropy-coded by level, and given the frame before; lowest use and '
        'perplexity of a level; fraction of codes that stay the same',
        f'{"":{width}}  {"kbps":>6}  {"entropy":>7}  {"given":>6}  {"use":>6}  {"perplexity":>10}  '
        f'{"shift":>6}  {"context":>7}  {"recoded":>7}',
    ]
    for row in tokens:
        stable = by_key.get((row['system'], row['rate']), {})
        kept = [stable.get(f'stable_{name}') for name in ('shift', 'context', 'recode')]
        shares = [
            f'{"" if value is None else f"{value:.1%}":>{size}}'
            for value, size in zip(kept, (6, 7, 7))
        ]
        lines.append(
            f'{_name(row):{width}}  {row["rate"]:6.2f}  {row["entropy_kbps"]:7.2f}  '
            f'{row["conditional_kbps"]:6.2f}  {min(row["usage"]):6.1%}  '
            f'{min(row["perplexity"]):10.1f}  {"  ".join(shares)}'
        )
    return '\n'.join(lines)


def system_lines(systems: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Describe the size of each model; `systems` is that of `evaluation.json`."""
    return [
        f'{name}: {plain_number(facts["parameters"] / 1e6, 3)} M parameters, '
        f'{plain_number(facts["multiply_adds"] / 1e9, 3)} G multiply-adds per second of audio'
        for name, facts in systems.items()
        if 'parameters' in facts
    ]


def unscored_lines(rows: Sequence[Row]) -> list[str]:
    """Name the metrics that could not score items, with the first item of each reason."""
    counts: Counter[tuple[str, str]] = Counter()
    first: dict[tuple[str, str], Row] = {}
    for row in rows:
        for metric, reason in (row.get('unscored') or {}).items():
            counts[metric, reason] += 1
            first.setdefault((metric, reason), row)
    lines = []
    for (metric, reason), count in counts.items():
        row = first[metric, reason]
        lines.append(
            f'{metric} has no score for {count} rows: {reason}, e.g. {row["path"]} at '
            f'{row["offset"]:g} s by {_name(row)}'
        )
    return lines


def _name(row: Row) -> str:
    return label(row['system'], row['rate'])


def _text(value: float | None, width: int) -> str:
    return f'{"-" if value is None else plain_number(value):>{width}}'


def _interval(low: float | None, high: float | None) -> str:
    if low is None or high is None:
        return ''
    return f'[{plain_number(low)}, {plain_number(high)}]'
