"""Packages that only some formats need, and that are not installed with this one."""

import importlib


def require(name: str, extra: str, *packages: str) -> None:
    """Check that packages can be imported.

    Args:
        name: of the format, for the message.
        extra: of this package, that installs them.
        packages: to import.

    Raises:
        ValueError: some cannot; the message says how to install them.
    """
    missing = []
    for package in packages:
        try:
            importlib.import_module(package)
        except ImportError as error:
            missing.append(f'{package} ({error})')
    if missing:
        raise ValueError(
            f"the format {name!r} needs {', '.join(missing)}: pip install 'audiocodec[{extra}]'"
        )
