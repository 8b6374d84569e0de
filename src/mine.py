"""Mine hard negatives for files of pairs, by BM25 or an encoder: python src/mine.py in=PAIRS"""

import sys
from contextlib import nullcontext
from pathlib import Path

from omegaconf import DictConfig

from gte.build import listed, plain, script


def check(cfg: DictConfig) -> None:
    from gte.data.groups import family_of
    from gte.data.own_files import local_source
    from gte.early import check_models

    settings = plain(cfg)
    files = [name for name in listed(settings["in"]) if not Path(name).is_dir()]
    for name in [*files, *(listed(settings["corpus"]) or [])]:
        if Path(name).exists() or not family_of(name):
            local_source(Path(name))
    check_models([settings["checkpoint"]])


@script("mine", check, alone=("out",))
def main(cfg: DictConfig) -> None:
    from gte.data.columns import OF_FILES, Wanted
    from gte.data.mining import Dense, mine_files
    from gte.data.prompts import words_to_rank
    from gte.evaluation.bm25 import BM25_WORDS
    from gte.evaluation.model import load_model
    from gte.models.device import choose_devices, choose_precision
    from gte.prompts import check_prompts, unread_line
    from gte.ticker import still_at

    settings = plain(cfg)
    inputs, corpus = (listed(settings.pop(key)) or [] for key in ("in", "corpus"))
    out, raw = Path(settings.pop("out")), Path(settings.pop("paths")["raw"])
    checkpoint, devices = settings.pop("checkpoint"), choose_devices(settings.pop("device"))
    precision, batch_tokens = choose_precision(settings.pop("precision"), devices[0]), settings.pop("batch_tokens")
    dense, prompts = None, settings.pop("prompts")
    check_prompts(None if isinstance(prompts, dict) else prompts)
    if checkpoint not in BM25_WORDS:
        model = load_model(checkpoint, precision, batch_tokens, devices, sys.stderr.isatty())
        own = model.encoder.settings

        def words(sources: list[str]) -> dict:
            found = words_to_rank(prompts, sources, own)
            if (line := unread_line(own)) and prompts is None and not any(map(any, map(dict.values, found.values()))):
                print(line, flush=True)
            return found

        dense = Dense(model.finite, words, devices[0])
    stated = {key: settings.pop(key) for key in OF_FILES}
    wanted = Wanted(**stated | {"columns": stated["columns"] or {}}, prefix="")
    found = {"corpus": corpus, "raw": raw, "dense": dense, "by": str(checkpoint), "wanted": wanted}
    with nullcontext() if dense and sys.stderr.isatty() else still_at("mining"):
        for line in mine_files(inputs, out, **found, **settings):
            print(line, flush=True)
    if checkpoint not in BM25_WORDS and (line := model.cut()):
        print(line)


if __name__ == "__main__":
    main()
