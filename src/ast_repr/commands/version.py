"""Print the versions of this package, Python and PyTorch, and the shipped model."""

import platform
from argparse import Namespace
from importlib import metadata

from .. import cli, pretrained


def main(args: Namespace) -> None:
    """Print a line for each."""
    for package in ("ast_repr", "torch"):
        print(f"{package} {_version(package)}")
    print(f"Python {platform.python_version()}")
    print(f"model {pretrained.shipped_model()}")


def _version(package):
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:  # run in a checkout
        return "not installed"


def parse() -> cli.Parser:
    """Return the parser of the options."""
    return cli.parser(__doc__)
