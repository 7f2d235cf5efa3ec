"""The entry point of `dora run`, `dora grid` and `dora launch`, and their counterparts for
notebooks.

From a list of overrides to a run: compose the configuration (Hydra), give it a signature and a
folder (Dora), check it, build the solver, run it.
"""

import json
import logging
import os
import shutil
import subprocess
import sys
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, cast

import dora
from dora.hydra import HydraMain
from dora.xp import XP
from omegaconf import DictConfig, OmegaConf

from audiocodec.recipe.compose import Composed, compose, config_groups, readable_errors
from audiocodec.recipe.overrides import key_of, spell
from audiocodec.recipe.signature import signature_delta
from audiocodec.run import logs
from audiocodec.utils import config, files, paths
from audiocodec.utils.config import ConfigError
from audiocodec.utils.errors import InterruptedRunError, RunError

if TYPE_CHECKING:
    from audiocodec.solvers.base import StandardSolver

logger = logging.getLogger(__name__)


class CodecMain(HydraMain):
    """Dora's main, with the messages and the habits of this project.

    - What is wrong with the overrides is raised at once, as a `ConfigError`.
    - Experiments go to `dora.dir`, else to `paths.experiments_folder()`; grids come from
      `paths.grid_package()`.
    - The configuration is composed once; Hydra's own main, which would compose it again, is not
    used.
    """

    def _get_dora(self) -> dora.conf.DoraConfig:
        if self._base_cfg.dora.dir is None:
            self._base_cfg.dora.dir = str(paths.experiments_folder())
        if self._base_cfg.dora.grid_package is None:
            self._base_cfg.dora.grid_package = paths.grid_package()
        return super()._get_dora()

    def get_xp(self, argv: Sequence[str]) -> XP:
        """The experiment that a list of overrides stands for.

        Raises:
            ConfigError: for unknown groups and keys and values that cannot be read, all of them at
                once; then also for values of the other overrides that `build_parts`
                would not accept.
        """
        composed = compose(self.full_config_path, argv)
        if composed.problems:
            raise ConfigError(
                dict.fromkeys([*composed.problems.values(), *_value_problems(composed)])
            )
        where = self.dora
        delta = signature_delta(composed.root, composed.cfg, where.is_excluded)
        with readable_errors():
            cfg = OmegaConf.create(config.to_plain(composed.cfg), flags={'struct': True})
        if cfg.dora.dir is None:
            cfg.dora.dir = str(where.dir)
        elif not isinstance(cfg.dora.dir, str):
            raise ConfigError(f'dora.dir={cfg.dora.dir}: expected a path, or null for the default')
        else:
            where = replace(where, dir=paths.find(cfg.dora.dir))
        return XP(dora=where, cfg=cfg, argv=list(composed.argv), delta=delta)

    def init_xp(self, xp: XP) -> XP:
        """Make the experiment's folder, and write down the overrides that `get_argv_from_sig`
        reads.

        Raises:
            RunError: the folder cannot be written to.
        """
        temporary = xp.folder / f'.argv.json.{os.getpid()}'
        try:
            xp.folder.mkdir(parents=True, exist_ok=True)
            temporary.write_text(json.dumps(xp.argv))
            temporary.replace(xp.folder / '.argv.json')
        except OSError as error:
            advice = files.advice(error, xp.dora.dir)
            raise RunError(f'cannot write in {xp.folder}: {error.strerror}{advice}') from error
        paths.note_experiment(xp.folder)
        return xp

    def get_argv_from_sig(self, sig: str) -> Sequence[str]:
        """The overrides that an experiment was last run or initialised with.

        Raises:
            ConfigError: if there is no such experiment; the message says where it was looked for.
        """
        return cast(list[str], json.loads((self._folder_of(sig) / '.argv.json').read_text()))

    def _folder_of(self, sig: str) -> Path:
        places = paths.experiment_places(sig, Path(self.dora.dir))
        for folder in places:
            if (folder / '.argv.json').exists():
                return folder
        raise ConfigError(
            f'no experiment with signature {sig!r} under '
            f'{" or ".join(str(folder.parent) for folder in places)}: run it first, or set '
            'AUDIOCODEC_DORA_DIR to where it was run'
        )

    def value_to_argv(self, arg: Any) -> list[str]:
        """Turns what a grid gives (overrides as text or as mappings, and lists of these) into
        arguments.

        Dora's own writes strings as ASCII, which Hydra does not read back.
        """
        if isinstance(arg, Mapping):
            return [
                f'{key}={value if key in self._config_groups else spell(value)}'
                for key, value in arg.items()
            ]
        return super().value_to_argv(arg)

    def get_xp_from_sig(self, sig: str) -> XP:
        """The experiment with a signature, in the folder in which it is found.

        It keeps its signature even if the same overrides would give another one today.

        Raises:
            ConfigError: as `get_argv_from_sig`.
        """
        xp = self.get_xp(self.get_argv_from_sig(sig))
        xp.cfg.dora.dir = str(self._folder_of(sig).parent.parent)
        return XP(
            dora=replace(xp.dora, dir=Path(xp.cfg.dora.dir)),
            cfg=xp.cfg,
            argv=xp.argv,
            delta=xp.delta,
            sig=sig,
        )

    def get_slurm_config(self) -> dora.conf.SlurmConfig:
        """Slurm's options from the configuration; without a partition, the cluster's default, which
        Dora must name.
        """
        slurm = super().get_slurm_config()
        if not slurm.partition and shutil.which('sinfo'):
            found = subprocess.run(
                ['sinfo', '--noheader', '--format=%P'], capture_output=True, text=True
            )
            partitions = found.stdout.split()
            slurm.partition = next(
                (name.rstrip('*') for name in partitions if name.endswith('*')), ''
            )
        return slurm

    def get_name_parts(self, xp: XP) -> OrderedDict[str, Any]:
        """What tells an experiment apart in a table: the overrides that were typed, less those
        without a signature.
        """
        named = ((key_of(argument), argument.partition('=')[2]) for argument in xp.argv)
        return OrderedDict((key, value) for key, value in named if not self.dora.is_excluded(key))

    def _get_config_groups(self) -> list[str]:
        return config_groups(self.full_config_path)

    def _main(self) -> Any:
        return self.main(dora.get_xp().cfg)


def _value_problems(composed: Composed) -> list[str]:
    """Problems of the overrides that are well-formed, among others that are not.

    Problems of other keys may follow from those, and are left out.
    """
    from audiocodec.recipe.parts import build_parts

    keys = [key_of(argument) for argument in composed.argv if argument not in composed.problems]
    try:
        build_parts(composed.cfg)
    except ConfigError as error:
        return [problem for problem in error.problems if any(key in problem for key in keys)]
    return []


def show_config_errors(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    """An `excepthook`: what a user can mend is a message; everything else keeps its traceback."""
    if isinstance(error, ConfigError | RunError):
        print(f'Error: {error}', file=sys.stderr)
    else:
        sys.__excepthook__(kind, error, trace)


if os.path.basename(sys.argv[0]) in (
    'dora',
    '__main__.py',
):  # under the dora command, never in a notebook
    sys.excepthook = show_config_errors


def get_solver(cfg: DictConfig) -> 'StandardSolver':
    """Check a configuration and build its solver, within the current experiment.

    Raises:
        ConfigError: everything that is wrong with the configuration, before any training.
    """
    from audiocodec.recipe.parts import build_parts
    from audiocodec.solvers import SOLVERS

    config.allow_targets(*cfg.allow_targets)
    if cfg.solver not in SOLVERS:
        raise ConfigError(
            f'solver={cfg.solver}: there is no such solver (there are: {", ".join(SOLVERS)})'
        )
    return SOLVERS[cfg.solver](cfg, build_parts(cfg))


def get_solver_from_xp(xp: XP, override_cfg: Mapping[str, Any] | None = None) -> 'StandardSolver':
    """Build the solver of an experiment and load its last checkpoint, from any working directory.

    Args:
        xp: from `main.get_xp` or `main.get_xp_from_sig`.
        override_cfg: values that replace the experiment's, nested or by dotted key:
            `{'dataset': {'batch_size': 8}}`, `{'dataset.batch_size': 8}`.

    Raises:
        ConfigError: for keys that do not exist, and values that are not accepted.
    """
    values = dict(config.leaf_items(override_cfg or {}))
    if values:  # composed again, so that what refers to a value follows it
        changed = main.get_xp(
            [*xp.argv, *main.value_to_argv(values), f'dora.dir={spell(str(xp.dora.dir))}']
        )
        xp = XP(dora=xp.dora, cfg=changed.cfg, argv=xp.argv, delta=xp.delta, sig=xp.sig)
    xp.cfg.execute_only, xp.cfg.show = (
        None,
        False,
    )  # the experiment's last command may have asked for one stage alone
    with xp.enter(stack=True):
        solver = get_solver(xp.cfg)
        solver.restore()
    return solver


def get_solver_from_sig(
    sig: str, override_cfg: Mapping[str, Any] | None = None
) -> 'StandardSolver':
    """Build the solver of the experiment with signature `sig` and load its last checkpoint (see
    above).
    """
    return get_solver_from_xp(main.get_xp_from_sig(sig), override_cfg)


def _codec_main(run: Callable[[DictConfig], None]) -> CodecMain:
    return CodecMain(
        run, config_name='config', config_path=str(paths.ROOT / 'config'), version_base='1.3'
    )


@_codec_main  # Dora pickles it by this name
def main(cfg: DictConfig) -> None:
    """Run the experiment that Dora has entered."""
    from audiocodec.run.launch import find_place

    xp = dora.get_xp()
    logs.setup(xp.folder, find_place().rank, cfg.logging.level)
    with config.shown_as_messages():
        solver = get_solver(cfg)
    logger.info('experiment %s in %s', xp.sig, xp.folder)
    try:
        solver.run()
    except InterruptedRunError as error:
        sys.exit(error.exit_code)


if __name__ == '__main__':  # under torchrun
    sys.excepthook = show_config_errors
    main()
