"""Embed the texts of a file: python src/embed.py checkpoint=MODEL in=texts.jsonl out=embeddings.npy"""

import contextlib
import sys
from pathlib import Path

from omegaconf import DictConfig

from gte.build import script


def check(cfg: DictConfig) -> None:
    from gte.early import check_models
    from gte.errors import UserError
    from gte.inference.texts import check_source

    check_source(cfg["in"], cfg.format)
    if cfg.prompt is not None and cfg.prefix is not None:
        raise UserError(f"prompt={cfg.prompt} and prefix='{cfg.prefix}' are both words before each text; give one")
    check_models([cfg.checkpoint])


@script("embed", check, alone=("out",))
def main(cfg: DictConfig) -> None:
    work = Path(cfg.out)  # <out>.partial, which Hydra made
    try:
        embed(cfg, work.with_suffix(""), work)
    finally:
        with contextlib.suppress(OSError):  # goes only where nothing is in it
            work.rmdir()


def embed(cfg: DictConfig, out: Path, work: Path) -> None:
    from tqdm import tqdm

    from gte.inference.compact import scheme_of
    from gte.inference.embedder import Embedder, block_for, check_policies, embed_texts
    from gte.inference.texts import read_texts
    from gte.models.device import choose_device, choose_precision
    from gte.models.encoding import cut_line
    from gte.models.load import load_encoder, truncate
    from gte.prompts import find_prompt

    source = cfg["in"]
    policies = {"empty": cfg.empty, "unreadable": cfg.unreadable}
    check_policies(out, **policies, dtype=cfg.dtype)
    texts = read_texts(source, cfg.format, cfg.field, cfg.id)
    device = choose_device(cfg.device)
    precision = choose_precision(cfg.precision, device)
    encoder = load_encoder(cfg.checkpoint, cfg.trust_remote_code).to(device)
    truncate(encoder, cfg.truncate_dim)
    kept = {"dtype": cfg.dtype, "scheme": scheme_of(cfg.ranges, cfg.dtype, encoder.dimensions)}
    prefix = find_prompt(encoder.settings, cfg.prompt, cfg.prefix)
    embedder = Embedder(encoder, precision, cfg.batch_tokens, cfg.normalize, prefix)
    texts = tqdm(texts, unit=" rows", disable=not sys.stderr.isatty())
    account = embed_texts(texts, embedder, out, work, source=source, block=block_for(device), **policies, **kept)
    prompted = f", each text behind '{prefix}'" if prefix else ""
    print(f"{out}: {account}; {encoder.dimensions} dimensions, {precision}, kept as {cfg.dtype}{prompted}")
    if line := cut_line(encoder.counts, encoder.max_length):
        print(line)


if __name__ == "__main__":
    main()
