"""Write a directory to publish: python src/export.py checkpoint=RUN_DIR out=DIR"""

from pathlib import Path

from omegaconf import DictConfig

from gte.build import script


@script("export")
def main(cfg: DictConfig) -> None:
    from gte.hub import export

    out = Path(cfg.out)
    export(cfg.checkpoint, out, cfg.name or out.name)
    print(f"exported to {out}: load it with sentence_transformers.SentenceTransformer('{out}')")


if __name__ == "__main__":
    main()
