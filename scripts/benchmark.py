#!/usr/bin/env python
"""Benchmark the project, alone or alternating with a peer.

python scripts/benchmark.py step --recipe base_24khz
"""

import argparse
import importlib
import sys
from collections.abc import Sequence

from benchmarks import common

COMMANDS = (
    'step',
    'quantizer',
    'kmeans',
    'loader',
    'files',
    'codec',
    'curve',
    'streaming',
    'evaluate',
    'tokens',
    'startup',
    'workers',
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return exit code 1 if the measurement fails."""
    argv = list(sys.argv[1:] if argv is None else argv)
    parser = argparse.ArgumentParser(
        description='Benchmark the project, alone or alternating with a peer.'
    )
    commands = parser.add_subparsers(dest='command', required=True)
    chosen = [argument for argument in argv[:1] if argument in COMMANDS]
    modules = {name: importlib.import_module(f'benchmarks.{name}') for name in chosen or COMMANDS}
    for name, module in modules.items():
        command = commands.add_parser(name, help=module.HELP, description=module.HELP)
        module.add_arguments(command)
        common.add_shared_arguments(command, module.DEFAULTS)
    args = parser.parse_args(argv)
    try:
        if args.against is not None:
            ours = [sys.executable, __file__, *common.without_peer(argv)]
            common.print_comparison(common.compare(ours, args.against, args.rounds))
            return 0
        options = {
            name: value if isinstance(value, int | float | list | None) else str(value)
            for name, value in vars(args).items()
            if name not in ('command', 'against', 'rounds')
        }
        common.print_result(
            {
                'benchmark': args.command,
                **options,
                **modules[args.command].run(args),
                **common.machine(args.device),
            }
        )
    except ValueError as error:
        print(f'error: {error}', file=sys.stderr)
        return 1
    return 0


if __name__ == '__main__':
    sys.exit(main())
