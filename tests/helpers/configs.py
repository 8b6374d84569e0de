"""The configuration that a script composes."""

from conftest import ROOT
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig

CONF = ROOT / "conf"


def composed(*overrides: str, name: str = "train") -> DictConfig:
    """A script's settings with these overrides, composed in this process."""
    GlobalHydra.instance().clear()
    with initialize_config_dir(version_base="1.3", config_dir=str(CONF)):
        return compose(name, overrides=[*overrides, "out=somewhere"], return_hydra_config=False)
