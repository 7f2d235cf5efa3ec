"""The table of a grid, in `dora grid` and `audiocodec grid`: its metrics and their formats."""

from collections.abc import Callable, Mapping
from typing import Any

import treetable as tt
from dora import Explorer, Launcher


class CompressionExplorer(Explorer):
    """Table of the latest metrics of each stage, one row per experiment of a grid."""

    COLUMNS: Mapping[str, Mapping[str, str]] = {
        'train': {
            'g_loss': '.3f',
            'l1': '.4f',
            'msspec': '.3f',
            'mel': '.3f',
            'commitment': '.3f',
            'codebook_usage': '.1%',
            'adv_msstftd': '.3f',
            'feat_msstftd': '.3f',
            'd_msstftd': '.3f',
            'duration': '.0f',
        },
        'valid': {'l1': '.4f', 'msspec': '.3f', 'mel': '.3f', 'sisnr': '.2f', 'bandwidth': '.2f'},
        'evaluate': {'sisnr': '.2f', 'mel': '.3f', 'visqol': '.2f'},
    }

    def __init__(self, explore: Callable[[Launcher], None]) -> None:
        super().__init__(explore)
        # (stage, metric) pairs in the histories so far; Dora asks for the columns after the rows.
        self.seen: set[tuple[str, str]] = set()

    def get_grid_meta(self) -> list[Any]:
        """Return the columns that identify an experiment."""
        return [
            tt.leaf('index', align='>'),
            tt.leaf('name', wrap=100),
            tt.leaf('state'),
            tt.leaf('sig', align='>'),
            tt.leaf('sid', align='<'),
        ]

    def get_grid_metrics(self) -> list[Any]:
        """Return the columns of metrics, grouped by stage, that any experiment has reported."""
        groups = []
        for stage, columns in self.COLUMNS.items():
            leaves = [tt.leaf('epoch', 'd')] if stage == 'train' else []
            leaves += [
                tt.leaf(name, form) for name, form in columns.items() if (stage, name) in self.seen
            ]
            if leaves:
                groups.append(tt.group(stage, leaves, align='>'))
        return groups

    def process_history(self, history: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
        """Return the latest metrics of each stage; stages that skip epochs keep their last values.

        Args:
            history: one dict per epoch, stage -> metric -> value.
        """
        self.seen.update(
            (stage, name)
            for stages in history
            for stage, metrics in stages.items()
            for name in metrics
        )
        latest: dict[str, dict[str, Any]] = {stage: {} for stage in self.COLUMNS}
        for stages in history:
            latest.update(
                {stage: dict(metrics) for stage, metrics in stages.items() if stage in latest}
            )
        if history:
            latest['train']['epoch'] = len(history)
        return latest
