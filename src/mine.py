"""Hard negatives for files of pairs: python src/mine.py in=PAIRS"""

import sys
from functools import partial
from pathlib import Path

from omegaconf import DictConfig

from gte.build import plain, script


@script("mine")
def main(cfg: DictConfig) -> None:
    from gte.data.columns import Wanted
    from gte.data.mining import mine_files
    from gte.data.ranking import rank_bm25, rank_dense
    from gte.evaluation.model import BM25_NAME, choose_devices, choose_precision, load_model
    from gte.prompts import KINDS, check_prompts, prompt_of, unread_line

    settings = plain(cfg)
    inputs, corpus = (listed(settings.pop(key)) for key in ("in", "corpus"))
    out, raw = Path(settings.pop("out")), Path(settings.pop("paths")["raw"])
    checkpoint, devices = settings.pop("checkpoint"), choose_devices(settings.pop("device"))
    precision, batch_tokens = choose_precision(settings.pop("precision"), devices[0]), settings.pop("batch_tokens")
    rank, prompts = rank_bm25, settings.pop("prompts")
    check_prompts(prompts, known=())
    if checkpoint != BM25_NAME:
        model = load_model(checkpoint, precision, batch_tokens, devices, sys.stderr.isatty(), prompts=prompts)
        if line := unread_line(model.encoder.settings):
            print(line, flush=True)
        queries, documents = (partial(model.finite, prompt=prompt_of(model.encoder.settings, kind)) for kind in KINDS)
        rank = partial(rank_dense, embed=documents, embed_queries=queries, device=devices[0])
    keys = ("columns", "score", "min_score", "header", "delimiter")
    stated = {key: settings.pop(key) for key in keys}
    wanted = Wanted(**stated | {"columns": stated["columns"] or {}}, prefix="")
    found = {"corpus": corpus, "raw": raw, "rank": rank, "by": str(checkpoint), "wanted": wanted}
    for line in mine_files(inputs, out, **found, **settings):
        print(line, flush=True)
    if checkpoint != BM25_NAME and (line := model.cut()):
        print(line)


def listed(value: str | list[str] | None) -> list[str]:
    """One or several names as a list."""
    return [value] if isinstance(value, str) else value or []


if __name__ == "__main__":
    main()
