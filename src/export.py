"""Write a model directory to use or publish: python src/export.py checkpoint=RUN_DIR out=DIR"""

from pathlib import Path

from omegaconf import DictConfig

from gte.build import plain, script


def check(cfg: DictConfig) -> None:
    from gte.early import check_models, check_result
    from gte.errors import UserError

    if cfg.mix_share is not None and cfg.mix_with is None:
        raise UserError(f"mix_share={cfg.mix_share:g} is the share of another model: name it by mix_with=")
    check_result(Path(cfg.out))
    check_models([model for model in (cfg.checkpoint, cfg.mix_with) if model is not None])


@script("export", check, alone=("out",))
def main(cfg: DictConfig) -> None:
    from gte.models.export import Weights, check_push, export, push

    out = Path(cfg.out)
    if cfg.push:
        check_push(cfg.push)
    settings = plain(cfg)
    taken = ("results", "onnx", "int8", "sts", "license", "language", "truncate_dim", "trust_remote_code")
    options = {key: settings[key] for key in taken}
    weights = Weights(*(settings[key] for key in ("average_last", "mix_with", "mix_share")))
    for comparison in export(cfg.checkpoint, out, cfg.name or cfg.push or out.name, weights=weights, **options):
        print(comparison)
    print(f"exported to {out}: load it with sentence_transformers.SentenceTransformer('{out}')")
    if cfg.push:
        print(f"pushed to {push(out, cfg.push, cfg.private)}")


if __name__ == "__main__":
    main()
