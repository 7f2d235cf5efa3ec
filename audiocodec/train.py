"""Entry point of `dora run`, `dora grid` and `dora launch`, and their functions for notebooks."""

import atexit
import gc
import logging
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import dora
from dora.xp import XP
from omegaconf import DictConfig

from audiocodec.recipe.experiment import CodecMain
from audiocodec.recipe.overrides import spell
from audiocodec.run import logs
from audiocodec.utils import config, paths
from audiocodec.utils.config import ConfigError
from audiocodec.utils.errors import InterruptedRunError, RunError

if TYPE_CHECKING:
    from audiocodec.solvers.base import StandardSolver

logger = logging.getLogger(__name__)


def show_config_errors(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    """An `excepthook` that shows errors a user can fix as messages, others with their traceback."""
    if isinstance(error, ConfigError | RunError):
        print(f'Error: {error}', file=sys.stderr)
    else:
        sys.__excepthook__(kind, error, trace)


# Only under Dora's command: other programs that import this module keep their own hook.
_command = Path(sys.argv[0])
if _command.name == 'dora' or _command.parts[-2:] == ('dora', '__main__.py'):
    sys.excepthook = show_config_errors


def get_solver(cfg: DictConfig) -> 'StandardSolver':
    """Check a configuration and build its solver, within the current experiment.

    Raises:
        ConfigError: with every problem of the configuration, before any training.
    """
    # Imported here so that commands that do not train, such as `dora info`, start sooner.
    from audiocodec.recipe.parts import build_parts
    from audiocodec.solvers import SOLVERS

    if cfg.solver not in SOLVERS:
        raise ConfigError(f'solver={cfg.solver}: no such solver (available: {", ".join(SOLVERS)})')
    return SOLVERS[cfg.solver](cfg, build_parts(cfg))


def show(cfg: DictConfig) -> None:
    """Check a configuration and print its model, sizes and rates, without building its solver.

    Raises:
        ConfigError: with every problem of the configuration.
    """
    # The loop and its loggers take longer to import than the recipe to build.
    from audiocodec.recipe.describe import describe
    from audiocodec.recipe.parts import build_parts

    parts = build_parts(cfg)
    print(describe(cfg, parts.model, parts.adversaries))


def get_solver_from_xp(xp: XP, override_cfg: Mapping[str, Any] | None = None) -> 'StandardSolver':
    """Build the solver of an experiment and load its last checkpoint, from any working directory.

    Args:
        xp: from `main.get_xp` or `main.get_xp_from_sig`.
        override_cfg: values that replace the experiment's, nested or by dotted key:
            `{'dataset': {'batch_size': 8}}`, `{'dataset.batch_size': 8}`.

    Raises:
        ConfigError: keys that do not exist, or values that are not accepted.
    """
    values = dict(config.leaf_items(override_cfg or {}))
    if values:
        # Composed again, so that interpolations follow the new values.
        folder = f'dora.dir={spell(str(xp.dora.dir))}'
        changed = main.get_xp([*xp.argv, *main.value_to_argv(values), folder])
        xp = XP(dora=xp.dora, cfg=changed.cfg, argv=xp.argv, delta=xp.delta, sig=xp.sig)
    # The experiment's last command may have run a single stage.
    xp.cfg.execute_only = None
    with xp.enter(stack=True):
        solver = get_solver(xp.cfg)
        solver.restore()
    return solver


def get_solver_from_sig(
    sig: str, override_cfg: Mapping[str, Any] | None = None
) -> 'StandardSolver':
    """Build the solver of an experiment by signature; see `get_solver_from_xp`."""
    return get_solver_from_xp(main.get_xp_from_sig(sig), override_cfg)


def _codec_main(run: Callable[[DictConfig], None]) -> CodecMain:
    # Dora finds this file by the name, which is `__mp_main__` in processes spawned under torchrun.
    run.__module__ = 'audiocodec.train'
    return CodecMain(
        run, config_name='config', config_path=str(paths.ROOT / 'config'), version_base='1.3'
    )


@_codec_main  # Dora pickles the result by this name
def main(cfg: DictConfig) -> None:
    """Run the experiment that Dora has entered."""
    from audiocodec.run import records
    from audiocodec.run.launch import find_place, leave_workers

    xp = dora.get_xp()
    logs.setup(xp.folder, find_place().rank, cfg.logging.level)
    with config.shown_as_messages():
        if cfg.show:
            show(cfg)
            atexit.register(gc.freeze)  # the last search for garbage would take 0.3 s
            return
        solver = get_solver(cfg)
    logger.info('experiment %s in %s', xp.sig, xp.folder)
    try:
        with records.recorded(xp.folder, cfg, solver):
            solver.run()
    except InterruptedRunError as error:
        leave_workers()
        sys.exit(error.exit_code)
    leave_workers()


if __name__ == '__main__':  # under torchrun
    sys.excepthook = show_config_errors
    main()
