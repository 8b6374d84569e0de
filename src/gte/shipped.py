"""Files of the repository beside its code: in the checkout, or where `pip install .` has put them."""

from pathlib import Path

PACKAGE = Path(__file__).resolve().parent


def shipped(name: str) -> Path:
    """The folder of that name below the checkout, such as conf; of an installed package, its copy in gte/shipped."""
    installed = PACKAGE / "shipped" / name
    return installed if installed.is_dir() else PACKAGE.parents[1] / name
