"""Hard negatives for files of pairs: python src/mine.py in=PAIRS out=FOLDER"""

import sys
from functools import partial
from pathlib import Path

from omegaconf import DictConfig

from gte.build import plain, script


@script("mine")
def main(cfg: DictConfig) -> None:
    from gte.data.mining import mine_files
    from gte.data.ranking import rank_bm25, rank_dense
    from gte.evaluation.model import BM25_NAME, EncoderModel, choose_device, choose_precision
    from gte.hub import load_encoder

    settings = plain(cfg)
    inputs, corpus = (listed(settings.pop(key)) for key in ("in", "corpus"))
    checkpoint, device = settings.pop("checkpoint"), choose_device(settings.pop("device"))
    precision, batch_tokens = choose_precision(settings.pop("precision"), device), settings.pop("batch_tokens")
    rank = rank_bm25
    if checkpoint != BM25_NAME:
        encoder = load_encoder(checkpoint).to(device)
        model = EncoderModel(encoder, precision, batch_tokens, progress=sys.stderr.isatty(), cache_bytes=0)
        rank = partial(rank_dense, embed=model.embed, device=device)
    out, raw = Path(settings.pop("out")), Path(settings.pop("paths")["raw"])
    for line in mine_files(inputs, out, corpus=corpus, raw=raw, rank=rank, **settings):
        print(line, flush=True)


def listed(value: str | list[str] | None) -> list[str]:
    """One or several names as a list."""
    return [value] if isinstance(value, str) else value or []


if __name__ == "__main__":
    main()
