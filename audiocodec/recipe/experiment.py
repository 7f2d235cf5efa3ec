"""Experiments: from a list of overrides to a configuration, a signature and a folder (Dora)."""

import copy
import fnmatch
import json
import os
import re
import shutil
import subprocess
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import dora
from dora.hydra import HydraMain
from dora.xp import XP
from omegaconf import OmegaConf

from audiocodec.recipe.compose import (
    Composed,
    compose,
    config_groups,
    files_stamp,
    readable_errors,
)
from audiocodec.recipe.overrides import key_of, spell
from audiocodec.recipe.signature import signature_delta
from audiocodec.run.launch import slurm_of_site
from audiocodec.utils import config, files, paths
from audiocodec.utils.config import ConfigError
from audiocodec.utils.errors import RunError


class CodecMain(HydraMain):
    """Dora's main with the messages and folders of this project.

    - All problems of the overrides are raised at once, in a `ConfigError`.
    - Experiments are in `dora.dir`, by default `paths.experiments_folder()`; grids are in
      `paths.grid_package()`.
    - The configuration is composed only once; Hydra's own main would compose it again, and
      Dora asks three times for the experiment that it runs.
    """

    _last: tuple[Any, XP] | None = None  # what the last experiment depended on, and itself

    def _get_dora(self) -> dora.conf.DoraConfig:
        if self._base_cfg.dora.dir is None:
            self._base_cfg.dora.dir = str(paths.experiments_folder())
        if self._base_cfg.dora.grid_package is None:
            self._base_cfg.dora.grid_package = paths.grid_package()
        return super()._get_dora()

    def get_xp(self, argv: Sequence[str]) -> XP:
        """Return the experiment of a list of overrides.

        Raises:
            ConfigError: unknown groups or keys, or unreadable values. The message then also lists
                the problems that `build_parts` reports for the other overrides.
        """
        state = (tuple(argv), os.getcwd(), frozenset(os.environ.items()), self.dora.dir)
        key = (*state, files_stamp(self.full_config_path))
        if self._last is None or self._last[0] != key:
            self._last = key, self._compose_xp(argv)
        xp = self._last[1]
        return XP(xp.dora, copy.deepcopy(xp.cfg), list(xp.argv), xp.delta, xp.sig)

    def _compose_xp(self, argv: Sequence[str]) -> XP:
        composed = compose(self.full_config_path, argv)
        if composed.problems:
            problems = [*composed.problems.values(), *_value_problems(composed)]
            raise ConfigError(dict.fromkeys(problems))
        where = self.dora
        # one expression, since Dora's own test tries every pattern for every key
        excluded = re.compile('|'.join(map(fnmatch.translate, where.exclude)) or '(?!)')
        delta = signature_delta(composed.root, composed.cfg, lambda key: bool(excluded.match(key)))
        with readable_errors():
            config.to_plain(composed.cfg)  # every interpolation can be resolved
        # Not resolved: which key a value is copied from is part of messages about it.
        cfg = OmegaConf.create(config.unresolved(composed.cfg), flags={'struct': True})
        if cfg.dora.dir is None:
            cfg.dora.dir = str(where.dir)
        elif not isinstance(cfg.dora.dir, str):
            raise ConfigError(f'dora.dir={cfg.dora.dir}: expected a path, or null for the default')
        else:
            where = replace(where, dir=paths.find(cfg.dora.dir))
        return XP(dora=where, cfg=cfg, argv=list(composed.argv), delta=delta)

    def init_xp(self, xp: XP) -> XP:
        """Create the experiment's folder and save the overrides for `get_argv_from_sig`.

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
        """Return the overrides that an experiment was last run or initialized with.

        Raises:
            ConfigError: no such experiment; the message lists the folders searched.
        """
        return cast(list[str], json.loads((self._folder_of(sig) / '.argv.json').read_text()))

    def _folder_of(self, sig: str) -> Path:
        places = paths.experiment_places(sig, Path(self.dora.dir))
        for folder in places:
            if (folder / '.argv.json').exists():
                return folder
        searched = ' or '.join(str(folder.parent) for folder in places)
        raise ConfigError(
            f'no experiment with signature {sig!r} under {searched}: run it first, or set '
            'AUDIOCODEC_DORA_DIR to where it was run'
        )

    def value_to_argv(self, arg: Any) -> list[str]:
        """Turn the overrides of a grid (strings, mappings, lists of these) into arguments.

        Dora's own version escapes strings to ASCII, which Hydra does not undo.
        """
        if isinstance(arg, Mapping):
            groups = self._config_groups
            return [
                f'{key}={value if key in groups else spell(value)}' for key, value in arg.items()
            ]
        return super().value_to_argv(arg)

    def get_xp_from_sig(self, sig: str) -> XP:
        """Return the experiment with a signature, in the folder where it is found.

        It keeps its signature even if the same overrides now have another one, because the
        recipes have changed.

        Raises:
            ConfigError: see `get_argv_from_sig`.
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
        """Return Slurm's options.

        Dora requires a partition; without one, the cluster's default is looked up.
        """
        slurm = self.slurm_options()
        if not slurm.partition and shutil.which('sinfo'):
            found = subprocess.run(
                ['sinfo', '--noheader', '--format=%P'], capture_output=True, text=True
            )
            defaults = [name for name in found.stdout.split() if name.endswith('*')]
            slurm.partition = defaults[0].rstrip('*') if defaults else ''
        return slurm

    def slurm_options(self) -> dora.conf.SlurmConfig:
        """Read Slurm's options, from the configuration and of the site, without asking Slurm."""
        slurm = super().get_slurm_config()
        for name, value in slurm_of_site(vars(slurm)).items():
            setattr(slurm, name, value)
        return slurm

    def get_name_parts(self, xp: XP) -> OrderedDict[str, Any]:
        """Name an experiment in Dora's tables by the typed overrides that are in the signature."""
        named = ((key_of(argument), argument.partition('=')[2]) for argument in xp.argv)
        return OrderedDict((key, value) for key, value in named if not self.dora.is_excluded(key))

    def _get_config_groups(self) -> list[str]:
        return config_groups(self.full_config_path)

    def _main(self) -> Any:
        return self.main(dora.get_xp().cfg)


def _value_problems(composed: Composed) -> list[str]:
    """Return the problems of the valid overrides when others are malformed.

    Problems of other keys are left out: they may be caused by the malformed overrides.
    """
    from audiocodec.recipe.parts import build_parts  # only needed here, and slow to import

    keys = [key_of(argument) for argument in composed.argv if argument not in composed.problems]
    try:
        build_parts(composed.cfg)
    except ConfigError as error:
        return [problem for problem in error.problems if any(key in problem for key in keys)]
    return []
