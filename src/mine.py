"""Hard negatives for a file of pairs: python src/mine.py in=PAIRS out=FOLDER"""

from pathlib import Path

from omegaconf import DictConfig

from gte.build import script


@script("mine")
def main(cfg: DictConfig) -> None:
    from gte.data.mining import mine_file

    settings = {key: cfg[key] for key in ("rows", "negatives", "skip", "depth", "seed")}
    print(mine_file(Path(cfg["in"]), Path(cfg.out), **settings))


if __name__ == "__main__":
    main()
