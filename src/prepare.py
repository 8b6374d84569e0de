"""Make token shards of raw text pairs: python src/prepare.py data=demo"""

import shlex
import sys
from pathlib import Path

from omegaconf import DictConfig

from gte.build import plain, script
from gte.errors import UserError
from gte.overrides import typed


def check(cfg: DictConfig) -> None:
    from gte.data.groups import load_family
    from gte.data.own_files import require_path

    out = Path(cfg.out)
    if "data.dir" in typed() and Path(cfg.data.dir).resolve() != out.resolve():
        raise UserError(f"data.dir={cfg.data.dir} and out={out} are two folders for the same data; give one of them")
    if cfg.data.get("path") is not None:
        require_path(cfg.data.path, "data.")
    elif "raw" in cfg.data:
        for name in cfg.data.sources or []:
            load_family(str(name))


@script("prepare", check)
def main(cfg: DictConfig) -> None:
    from gte.data.prepare import prepare
    from gte.data.recipe import read_recipe

    out = Path(cfg.out)
    if out.is_dir() and not any(out.iterdir()):
        out.rmdir()  # Hydra made it; it comes into being when it is complete
    if out.is_relative_to(Path.cwd()):
        out = out.relative_to(Path.cwd())
    recipe = read_recipe(plain(cfg.data), fetch_again=cfg.force)
    command = shlex.join(["python", *sys.argv])
    prepare(recipe, out, engine=cfg.engine, workers=cfg.workers, force=cfg.force, command=command, dry_run=cfg.dry_run)


if __name__ == "__main__":
    main()
