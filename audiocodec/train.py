"""The entry point of `dora run`, `dora grid` and `dora launch`, and their counterparts for notebooks.

From a list of overrides to a run: compose the configuration (Hydra), give it a signature and a folder (Dora), check it,
build the solver, run it.
"""

import contextlib
import copy
import functools
import json
import logging
import os
import re
import shutil
import subprocess
import sys
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, cast

import dora
from dora.hydra import HydraMain, _compare_config
from dora.xp import XP
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from audiocodec.utils import config, logs, paths
from audiocodec.utils.config import ConfigError
from audiocodec.utils.errors import InterruptedRunError, RunError

if TYPE_CHECKING:
    from audiocodec.solvers.base import StandardSolver

logger = logging.getLogger(__name__)


class CodecMain(HydraMain):
    """Dora's main, with the messages and the habits of this project.

    - What is wrong with the overrides is raised at once, as a `ConfigError`.
    - Experiments go to `dora.dir`, else the environment's AUDIOCODEC_DORA_DIR, else `outputs/` beside `config/`.
    - The configuration is composed once; Hydra's own main, which would compose it again, is not used.
    """

    def _get_dora(self) -> dora.conf.DoraConfig:
        if self._base_cfg.dora.dir is None:
            self._base_cfg.dora.dir = str(paths.experiments_folder())
        return super()._get_dora()

    def get_xp(self, argv: Sequence[str]) -> XP:
        """The experiment that a list of overrides stands for.

        Raises:
            ConfigError: for unknown groups and keys and values that cannot be read, all of them at once; where there
                are some, also for values of the other overrides that `validate` would not accept.
        """
        composed = self._composed(tuple(argv), frozenset(
            (path, path.stat().st_mtime_ns) for path in self.full_config_path.rglob('*.yaml')))
        cfg, where = copy.deepcopy(composed.cfg), self.dora
        if cfg.dora.dir is None:
            cfg.dora.dir = str(where.dir)
        elif not isinstance(cfg.dora.dir, str):
            raise ConfigError(f'dora.dir={cfg.dora.dir}: expected a path, or null for the default')
        else:
            where = replace(where, dir=Path(cfg.dora.dir))
        return XP(dora=where, cfg=cfg, argv=list(composed.argv), delta=composed.delta)

    @functools.lru_cache(maxsize=16)  # noqa: B019 - there is one main, and it lives as long as the process
    def _composed(self, argv: tuple[str, ...], files: frozenset[tuple[Path, int]]) -> XP:
        """Check and compose a configuration, once: Dora asks for it three times before a run begins.

        Args:
            argv: overrides.
            files: of all configurations, with the times of their last change: after one, it is composed again.
        """
        problems = self._override_problems(argv)
        if problems:
            good = [argument for argument in argv if argument not in problems]
            raise ConfigError(dict.fromkeys([*problems.values(), *self._value_problems(good)]))
        _compare_config.__defaults__[0].clear()  # Dora leaves keys in it after an error, and signatures would be others
        with _readable_errors():
            xp = super().get_xp(argv)
            OmegaConf.resolve(xp.cfg)
        return xp

    def init_xp(self, xp: XP) -> XP:
        """Make the experiment's folder, and write down the overrides that `get_argv_from_sig` reads."""
        xp.folder.mkdir(parents=True, exist_ok=True)
        temporary = xp.folder / f'.argv.json.{os.getpid()}'
        temporary.write_text(json.dumps(xp.argv))
        temporary.replace(xp.folder / '.argv.json')
        paths.note_experiment(xp.folder)
        return xp

    def get_argv_from_sig(self, sig: str) -> Sequence[str]:
        """The overrides that an experiment was last run or initialised with.

        Raises:
            ConfigError: if there is no such experiment; the message says where it was looked for.
        """
        return cast(list[str], json.loads((self._folder_of(sig) / '.argv.json').read_text()))

    def get_xp_from_sig(self, sig: str) -> XP:
        """The experiment of a signature, in the folder in which it is found; raises as `get_argv_from_sig`."""
        xp = self.get_xp(self.get_argv_from_sig(sig))
        xp.cfg.dora.dir = str(self._folder_of(sig).parent.parent)
        return XP(dora=replace(xp.dora, dir=Path(xp.cfg.dora.dir)), cfg=xp.cfg, argv=xp.argv, delta=xp.delta)

    def _folder_of(self, sig: str) -> Path:
        places = paths.experiment_places(sig, Path(self.dora.dir))
        for folder in places:
            if (folder / '.argv.json').exists():
                return folder
        raise ConfigError(f'no experiment with signature {sig!r} under '
                          f'{" or ".join(str(folder.parent) for folder in places)}: run it first, or set '
                          'AUDIOCODEC_DORA_DIR to where it was run')

    def get_slurm_config(self) -> dora.conf.SlurmConfig:
        """Slurm's options from the configuration; without a partition, the cluster's default, which Dora must name."""
        slurm = super().get_slurm_config()
        if not slurm.partition and shutil.which('sinfo'):
            found = subprocess.run(['sinfo', '--noheader', '--format=%P'], capture_output=True, text=True)
            partitions = found.stdout.split()
            slurm.partition = next((name.rstrip('*') for name in partitions if name.endswith('*')), '')
        return slurm

    def get_name_parts(self, xp: XP) -> OrderedDict[str, Any]:
        """What tells an experiment apart in a table: the overrides that were typed, less those without a signature."""
        pairs = (argument.split('=', 1) for argument in xp.argv)
        named = ((key.lstrip('+'), value) for key, value in pairs)
        return OrderedDict((key, value) for key, value in named if not self.dora.is_excluded(key))

    def _get_config_groups(self) -> list[str]:
        """Every group that can be chosen: also those, like `solver`, whose options all lie in sub-folders."""
        parts = [group.split('/') for group in super()._get_config_groups()]
        return sorted({'/'.join(names[:depth]) for names in parts for depth in range(1, len(names) + 1)})

    def _main(self) -> Any:
        return self.main(dora.get_xp().cfg)

    def _override_problems(self, argv: Sequence[str]) -> dict[str, str]:
        """What is wrong with overrides, found before Hydra, which stops at the first one and knows no neighbours."""
        problems = {}
        parsed: dict[str, Any] = {}
        with self._hydra_search() as loader:
            parser = OverridesParser.create(config_loader=loader)
            groups = set(self._config_groups)
            for argument in argv:
                problem = _form_problem(argument)
                if problem is None:
                    try:
                        parsed[argument], = parser.parse_overrides([argument])
                        problem = _choice_problem(loader, groups, parsed[argument])
                    except OverrideParseException as error:
                        problem = f'override {argument!r} cannot be read: {error.args[0].splitlines()[0]}'
                if problem is not None:
                    problems[argument] = problem
        chosen = [argument for argument, override in parsed.items()
                  if argument not in problems and str(override.key_or_group) in groups]
        with _readable_errors():
            plain = _unresolved(self._get_config(chosen))
        known = list(config.leaf_keys(plain))
        for argument, override in parsed.items():
            key = str(override.key_or_group)
            if key in groups or argument in problems:
                continue
            if isinstance(config.select(plain, key), dict) and not isinstance(override.value(), dict):
                problems[argument] = (f"{argument}: '{key}' is a section, which keeps its form; turn a part off "
                                      'through its own switch, e.g. losses.l1.weight=null')
            elif not override.is_add() and not override.is_force_add() and key not in known:
                problems[argument] = f"{argument}: there is no key '{key}'{config.nearest(key, [*known, *groups])}"
        return problems

    def _value_problems(self, argv: Sequence[str]) -> list[str]:
        """What validation says of these overrides, which are well-formed, among other ones that are not.

        What it says of other keys may come of those, and is left out.
        """
        from audiocodec.solvers import validate

        keys = [argument.split('=')[0].lstrip('+') for argument in argv]
        try:
            with _readable_errors():
                cfg = super().get_xp(argv).cfg
                OmegaConf.resolve(cfg)
            validate(cfg)
        except ConfigError as error:
            return [problem for problem in error.problems if any(key in problem for key in keys)]
        return []

    @contextlib.contextmanager
    def _hydra_search(self) -> Iterator[Any]:
        from hydra import initialize_config_dir
        with initialize_config_dir(str(self.full_config_path.resolve()), job_name='train', **self.hydra_kwargs):
            hydra = GlobalHydra.instance().hydra
            assert hydra is not None
            yield hydra.config_loader


def _unresolved(cfg: DictConfig) -> dict[str, Any]:
    return cast(dict[str, Any], OmegaConf.to_container(cfg))


def _options(loader: Any, group: str, prefix: str = '') -> list[str]:
    """All options of a config group, those of its sub-groups included; names that begin with _ are parts."""
    from hydra.core.object_type import ObjectType
    here = f'{group}/{prefix}'.rstrip('/')
    names = [prefix + name for name in loader.get_group_options(here, ObjectType.CONFIG) if not name.startswith('_')]
    for sub in loader.get_group_options(here, ObjectType.GROUP):
        names += _options(loader, group, f'{prefix}{sub}/')
    return names


def _form_problem(argument: str) -> str | None:
    """What is wrong with an override at first sight."""
    if argument.startswith('~'):
        return (f'{argument}: keys cannot be deleted, the signature needs them all; turn a part off through its own '
                'switch, e.g. losses.l1.weight=null')
    if '=' not in argument:
        return f'override {argument!r}: expected key=value, e.g. dataset.batch_size=16'
    return None


def _choice_problem(loader: Any, groups: set[str], override: Any) -> str | None:
    """What is wrong with an override that chooses an option of a group, if it does."""
    key, value = str(override.key_or_group), override.value()
    if key not in groups or override.is_add():
        return None
    options = _options(loader, key)
    if value in options:
        return None
    return f"{key}={value}: no such option{config.nearest(str(value), options)} (there are: {', '.join(options)})"


@contextlib.contextmanager
def _readable_errors() -> Iterator[None]:
    """Turn what Hydra and OmegaConf say of a user's input into one message."""
    try:
        yield
    except MissingConfigException as error:
        raise ConfigError(str(error).split('\nCheck that')[0]) from error
    except (HydraException, OmegaConfBaseException) as error:
        cause = error.__cause__ or error
        raise ConfigError(re.sub(r'\s*\n\s*', '; ', str(cause).strip())) from error


def show_config_errors(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """An `excepthook`: what a user can mend is a message; everything else keeps its traceback."""
    if isinstance(error, ConfigError | RunError):
        print(f'Error: {error}', file=sys.stderr)
    else:
        sys.__excepthook__(kind, error, trace)


if os.path.basename(sys.argv[0]) in ('dora', '__main__.py'):  # under the dora command, never in a notebook
    sys.excepthook = show_config_errors


def get_solver(cfg: DictConfig) -> 'StandardSolver':
    """Check a configuration and build its solver, within the current experiment.

    Raises:
        ConfigError: everything that is wrong with the configuration, before any training.
    """
    from audiocodec.solvers import SOLVERS, validate

    config.allow_targets(*cfg.allow_targets)
    validate(cfg)
    return SOLVERS[cfg.solver](cfg)


def get_solver_from_xp(xp: XP, override_cfg: Mapping[str, Any] | None = None) -> 'StandardSolver':
    """Build the solver of an experiment and load its last checkpoint, from any working directory.

    Args:
        xp: from `main.get_xp` or `main.get_xp_from_sig`.
        override_cfg: nested values that replace the experiment's, e.g. `{'dataset': {'batch_size': 8}}`.
    """
    xp.cfg.execute_only, xp.cfg.show = None, False  # the experiment's last command may have asked for one stage alone
    if override_cfg:
        unknown = [key for key in config.leaf_keys(override_cfg) if OmegaConf.select(xp.cfg, key, default='?') == '?']
        if unknown:
            known = list(config.leaf_keys(_unresolved(xp.cfg)))
            raise ConfigError([f"there is no key '{key}'{config.nearest(key, known)}" for key in unknown])
        xp.cfg = OmegaConf.merge(xp.cfg, override_cfg)
    with xp.enter(stack=True):
        solver = get_solver(xp.cfg)
        solver.restore()
    return solver


def get_solver_from_sig(sig: str, override_cfg: Mapping[str, Any] | None = None) -> 'StandardSolver':
    """Build the solver of the experiment with signature `sig` and load its last checkpoint (see above)."""
    return get_solver_from_xp(main.get_xp_from_sig(sig), override_cfg)


def _codec_main(run: Callable[[DictConfig], None]) -> CodecMain:
    return CodecMain(run, config_name='config', config_path='../config', version_base='1.3')


@_codec_main  # Dora pickles it by this name
def main(cfg: DictConfig) -> None:
    """Run the experiment that Dora has entered."""
    from audiocodec.solvers.launch import find_place

    xp = dora.get_xp()
    logs.setup(xp.folder, find_place().rank, cfg.logging.level)
    with config.shown_as_messages():
        solver = get_solver(cfg)
    logger.info('experiment %s in %s', xp.sig, xp.folder)
    try:
        solver.run()
    except InterruptedRunError as error:
        sys.exit(error.exit_code)


if __name__ == '__main__':
    main()
