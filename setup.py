"""Which folders an installed package is made of; all else is in pyproject.toml."""

from setuptools import find_packages, setup

FOLDERS = {  # package -> folder: the scripts, and the files beside the code that they read
    "gte.scripts": "src",
    "hydra_plugins": "src/hydra_plugins",
    "gte.shipped.conf": "conf",
    "gte.shipped.experiments.paper": "experiments/paper",
}
DATA = {name: ["**/*.yaml", "*.csv", "*.md"] for name in FOLDERS if ".shipped." in name}

setup(
    packages=[*find_packages("src"), *FOLDERS],
    package_dir={"": "src", **FOLDERS},
    package_data=DATA,
    include_package_data=False,
)
