"""Optional packages, needed by some formats only."""

import importlib


def require(name: str, extra: str, *packages: str) -> None:
    """Check that packages can be imported.

    Args:
        name: name of the format, for the message.
        extra: extra of this package that installs them.
        packages: packages to import.

    Raises:
        ValueError: some cannot be imported; the message says how to install them.
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
