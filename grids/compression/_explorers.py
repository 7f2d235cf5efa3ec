"""Which metrics `dora grid` shows, and how."""

from collections.abc import Mapping
from typing import Any

import treetable as tt
from dora import Explorer


class CompressionExplorer(Explorer):
    """A table with the last metrics of each stage of every experiment in a grid."""

    COLUMNS: Mapping[str, Mapping[str, str]] = {
        'train': {'g_loss': '.3f', 'l1': '.4f', 'msspec': '.3f', 'mel': '.3f', 'commitment': '.3f',
                  'codebook_usage': '.1%', 'adv_msstftd': '.3f', 'feat_msstftd': '.3f', 'd_msstftd': '.3f',
                  'duration': '.0f'},
        'valid': {'l1': '.4f', 'msspec': '.3f', 'mel': '.3f', 'sisnr': '.2f', 'bandwidth': '.2f'},
        'evaluate': {'sisnr': '.2f', 'mel': '.3f', 'visqol': '.2f'},
    }

    def get_grid_meta(self) -> list[Any]:
        """Columns that tell the experiments apart."""
        return [tt.leaf('index', align='>'), tt.leaf('name', wrap=100), tt.leaf('state'), tt.leaf('sig', align='>'),
                tt.leaf('sid', align='<')]

    def get_grid_metrics(self) -> list[Any]:
        """Columns of metrics, by stage; those that no experiment has are left out by treetable."""
        return [tt.group(stage, [tt.leaf('epoch', 'd')] * (stage == 'train')
                         + [tt.leaf(name, form) for name, form in columns.items()], align='>')
                for stage, columns in self.COLUMNS.items()]

    def process_history(self, history: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
        """The latest metrics of each stage; stages that do not run every epoch keep their last values.

        Args:
            history: one dict an epoch, stage -> metric -> value.
        """
        latest: dict[str, dict[str, Any]] = {stage: {} for stage in self.COLUMNS}
        for stages in history:
            latest.update({stage: dict(metrics) for stage, metrics in stages.items() if stage in latest})
        if history:
            latest['train']['epoch'] = len(history)
        return latest
