"""Search the texts of a folder by meaning: python src/search.py folder=DIR query="how are texts cut?" """

import re
import shutil
import sys
from pathlib import Path

from omegaconf import DictConfig

from gte.build import plain, script
from gte.overrides import quote, typed
from gte.settings import Settings


def check(cfg: DictConfig) -> None:
    from gte.early import check_models
    from gte.errors import UserError
    from gte.inference.passages import require_folder

    require_folder(Path(cfg.folder).expanduser())
    try:
        check_models([cfg.checkpoint])
    except UserError as error:
        if "checkpoint" in typed():
            raise
        raise UserError(f"{error}: checkpoint=MODEL; `make demo` makes this one") from error


@script("search", check)
def main(cfg: DictConfig) -> None:
    from gte.data.prompts import sources_of
    from gte.inference.compact import check_dtype
    from gte.inference.embedder import Embedder
    from gte.inference.index import as_table, index_file, update
    from gte.inference.passages import read_folder
    from gte.models.device import choose_device, choose_precision
    from gte.models.encoding import cut_line
    from gte.models.load import load_encoder, truncate
    from gte.prompts import check_prompts, unread_line
    from gte.remote import find_checkpoint

    prompts = plain(cfg)["prompts"]
    check_prompts(None if isinstance(prompts, dict) else prompts)
    check_dtype(cfg.dtype)
    find_checkpoint(cfg.checkpoint)
    folder = Path(cfg.folder).expanduser()
    passages, left_out = read_folder(folder, cfg.passage_chars, cfg.include)
    device = choose_device(cfg.device)
    encoder = load_encoder(cfg.checkpoint, cfg.trust_remote_code).to(device)
    truncate(encoder, cfg.truncate_dim)
    before = words_before(encoder.settings, prompts, cfg.prompt_source)
    if prompts is None and not any(before.values()) and (line := unread_line(encoder.settings)):
        print(
            line + (", prompt_source=NAME takes those of a source" if sources_of(encoder.settings) else ""), flush=True
        )
    precision, progress = choose_precision(cfg.precision, device), sys.stderr.isatty()
    embedder = Embedder(encoder, precision, prefix=before["document"], progress=progress)
    index = update(index_file(Path(cfg.out), folder), passages, embedder, cfg.dtype)
    files = len({passage.file for passage in passages})
    others = "".join(f", {count} files left out: {reason}" for reason, count in left_out.most_common())
    print(f"{folder}: {len(passages):,} passages of {files:,} files, {index.new:,} of them new{others}", flush=True)
    if index.redrawn:
        print(f"all were embedded again: the ranges of {cfg.dtype} had become too narrow", flush=True)
    if index.beyond:
        print(f"{index.beyond:,} new ones reach beyond the ranges of {cfg.dtype} and are cut to them", flush=True)
    if line := cut_line(encoder.counts, encoder.max_length):
        print(line, flush=True)
    width = shutil.get_terminal_size((120, 24)).columns
    for query in [cfg.query] if cfg.query is not None else queries():
        encoder.counts.clear()
        hits = index.search(query, embedder.prefixed(before["query"]), cfg.top)
        print(as_table(hits, width), flush=True)
        if encoder.counts["cut"]:
            print(f"the query has {encoder.max_length:,} tokens or more: what is beyond was cut", flush=True)


def words_before(settings: Settings, prompts: dict | None, source: str | None) -> dict[str, str]:
    """The words before queries and passages, of a source that the model was trained on where one is named."""
    from gte.data.prompts import sources_of, words_to_rank
    from gte.errors import UserError, did_you_mean

    named = list(prompts or {}) if any(isinstance(words, dict) for words in (prompts or {}).values()) else []
    known = [*sources_of(settings), *named]
    if source is not None and prompts is None and str(source) not in known:
        has = ", ".join(known) or "none"
        raise UserError(
            f"prompt_source={source}: the model names no prompts of it{did_you_mean(source, known)}; it has: {has}"
        )
    if source is None and named:
        raise UserError("prompts by source need the source whose texts these are like: prompt_source=NAME")
    name = "" if source is None else str(source)
    return words_to_rank(prompts, list(map(str, {**dict.fromkeys(named), name: None})), settings)[name]


def queries():
    """What the user types, until an empty line or the end of the input."""
    terminal = sys.stdin.isatty()
    if terminal:
        print("Type what you look for; an empty line ends.")
    try:
        while query := input("search> " if terminal else "").strip():
            yield query
    except (EOFError, KeyboardInterrupt):
        print()


def quoted(argument: str) -> str:
    """A query as Hydra and OmegaConf give it back as it was typed, with its quotes, backslashes and ${."""
    key, _, value = argument.partition("=")
    if key != "query":
        return argument
    value = re.sub(r"(\\*)\$\{", r"\1\1\\${", value)  # no interpolation; backslashes before one count double
    return f"query={quote(value)}"


def console() -> None:
    """The command line, whose query is taken as it is typed."""
    sys.argv[1:] = map(quoted, sys.argv[1:])
    main()


if __name__ == "__main__":
    console()
