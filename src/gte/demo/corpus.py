"""The demo corpus: text pairs mined from the Python standard library and the packages that requirements.txt pins.

Nothing is imported or stored: sources are read as text, so the corpus is the same wherever the same versions are
installed. What is held out for evaluation is held out by module, before any pair is made.
"""

import gc
import gzip
import importlib.metadata
import json
import os
import re
import sysconfig
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from itertools import compress
from operator import not_
from pathlib import Path
from typing import NamedTuple

from gte.data.cleaning import normalize
from gte.demo import docstring
from gte.demo import pairs as demo_pairs
from gte.demo.pysource import Item, read_source
from gte.demo.tasks import build_tasks, contains_any, draw, texts_of
from gte.errors import UserError
from gte.files import whole

STDLIB = "python"
PINNED = (
    "bm25s",
    "daft",
    "datasets",
    "hydra-core",
    "matplotlib",
    "mteb",
    "numpy",
    "omegaconf",
    "pandas",
    "pyarrow",
    "pytorch-lightning",
    "scikit-learn",
    "scipy",
    "sentence-transformers",
    "torch",
    "torchmetrics",
    "transformers",
    "wandb",
)
# Distributions, and modules with all that is below them. Between them: configuration, retrieval, text and data
# handling, networking, concurrency, signal processing, geometry.
HELD_OUT = (
    *("bm25s", "datasets", "hydra-core", "omegaconf", "sentence-transformers"),
    *("asyncio", "concurrent", "email", "http", "json", "logging", "multiprocessing", "unittest", "urllib", "xml"),
    *("scipy.cluster", "scipy.ndimage", "scipy.signal", "scipy.spatial"),
)
# Some systems install these parts of the standard library separately, newer Pythons have no distutils and lib2to3.
NOT_STDLIB = {"ensurepip", "distutils", "idlelib", "lib2to3", "tkinter", "turtledemo", "site-packages", "dist-packages"}
SKIPPED = re.compile(r"_*tests?(_.*)?|_*testing(_.*)?|conftest|.*vendor(ed)?|_*externals?|array_api_.*|mocks|distutils")
# A third of all source text for a tenth of the pairs; in the largest, one model's text is much like the next.
LEFT_OUT = {"transformers/models", "mteb/models", "torch/ao", "torch/distributed", "torch/fx", "torch/onnx"}
MAX_PER_PACKAGE = 4_000  # pairs of one kind from one package, drawn by hash: torch alone has a quarter of everything
MAX_PER_DOCUMENT = 3  # pairs of one kind with the same document: more would be false negatives of each other
MAX_PER_QUERY = 3  # a query with more documents than this is too general to be one ("Return the name.")
CITED = ("hyperlink", "see_also")


class Row(NamedTuple):
    """One pair; `places` are the modules it was made from, the first its own."""

    kind: str
    query: str
    document: str
    package: str
    places: tuple[str, ...]


def mine(
    out: Path | str, packages: list[str] | None = None, held_out: Iterable[str] = HELD_OUT, queries: int = 400
) -> dict[str, int]:
    """Write `out/<kind>/<kind>.jsonl.gz` and the held-out tasks `out/eval/<Task>/`.

    No text of a held-out task occurs in a pair: neither by itself, nor, from eight words on, within a longer text.

    Args:
        out: the raw folder of data=demo.
        packages: distribution names, "python" for the standard library; None is the list of the demo.
        held_out: packages, or modules, of which the tasks are made.
        queries: of a retrieval task, at most.
    Returns: the pairs of each kind.
    Raises: UserError for a package that is not installed.
    """
    out = Path(out)
    rows = list(collect([STDLIB, *PINNED] if packages is None else packages))
    places = {place for row in rows for place in (row.package, *row.places)}
    held_out = {place for place in places if is_below(place, held_out)}
    chosen = [row.package in held_out or not held_out.isdisjoint(row.places) for row in rows]
    tasks = build_tasks(distinct(compress(rows, chosen), answers=MAX_PER_QUERY), queries)
    rows = balanced(distinct(compress(rows, map(not_, chosen))))
    leaked = contains_any([text for row in rows for text in (row.query, row.document)], texts_of(tasks))
    rows = [row for i, row in enumerate(rows) if not leaked[2 * i] and not leaked[2 * i + 1]]
    counts = Counter(row.kind for row in rows)
    for kind in sorted(counts):
        pairs = ({"query": row.query, "pos": row.document} for row in rows if row.kind == kind)
        write_jsonl(out / kind / f"{kind}.jsonl.gz", pairs)
    for task, files in tasks.items():
        write_task(out / "eval" / task, files)
    return {kind: counts[kind] for kind in sorted(counts)}


def is_below(place: str, names: Iterable[str]) -> bool:
    """True where the dotted name is one of the names or inside one of them."""
    return any(place == name or place.startswith(f"{name}.") for name in names)


def collect(packages: list[str]) -> Iterator[Row]:
    """Every pair of every kind, in an order that only the packages' texts and names decide."""
    items: list[tuple[str, Item]] = []
    enabled = gc.isenabled()
    gc.disable()  # syntax trees are many small objects without cycles: looking for some costs a fifth of the time
    try:
        for package in packages:
            for path, name in package_files(package):
                text = path.read_text(encoding="utf-8", errors="replace")
                if name.endswith(".py"):
                    yield from _from_source(text, name.removesuffix(".py"), package, items)
                else:
                    yield from _from_page(text, name, package)
            if package != STDLIB:
                yield from _from_metadata(package)
    finally:
        if enabled:
            gc.enable()
    references = demo_pairs.References([item for _, item in items])
    for kind in CITED:
        for package, item in items:
            for query, document, targets in getattr(references, kind)(item):
                yield Row(kind, query, document, package, (item.module, *(target.module for target in targets)))


def package_files(package: str) -> Iterator[tuple[Path, str]]:
    """(path, name) of the package's sources and pages in order of name: `a.b.py` for module a.b, else the path."""
    if package == STDLIB:
        root = Path(sysconfig.get_path("stdlib"))
        files = []
        for folder, folders, names in os.walk(root):
            folders[:] = [name for name in folders if name not in NOT_STDLIB and "-" not in name]
            files += [Path(folder, name).relative_to(root) for name in names if name.endswith(".py")]
    else:
        root = Path(distribution(package).locate_file(""))
        files = [Path(str(file)) for file in distribution(package).files or ()]
    for file in sorted(files, key=Path.as_posix):
        if file.suffix not in (".py", ".md", ".rst") or not _is_kept(file):
            continue
        if (root / file).is_file():
            module = ".".join(file.with_suffix("").parts).removesuffix(".__init__")
            yield root / file, f"{module}.py" if file.suffix == ".py" else file.as_posix()


def _is_kept(file: Path) -> bool:
    *folders, stem = file.with_suffix("").parts
    if any(folder.startswith(("_", ".")) and folder != "_core" for folder in folders):
        return False
    if any(SKIPPED.fullmatch(part) for part in (*folders, stem)) or any(f.endswith("-info") for f in folders):
        return False
    if file.suffix != ".py":
        return not re.search(r"(?i)licen[sc]e|template|notice", stem)
    return "/".join(folders[:2]) not in LEFT_OUT


def distribution(package: str) -> importlib.metadata.Distribution:
    """The installed distribution; a UserError where there is none."""
    try:
        return importlib.metadata.distribution(package)
    except importlib.metadata.PackageNotFoundError:
        raise UserError(
            f"the demo corpus is mined from installed packages and {package} is not installed: "
            "run pip install -r requirements.txt"
        ) from None


def _from_source(text: str, module: str, package: str, items: list[tuple[str, Item]]) -> Iterator[Row]:
    try:
        source = read_source(text, module)
    except (SyntaxError, ValueError):  # for another version of Python
        return
    for kind in (demo_pairs.comment_code, demo_pairs.error_function, demo_pairs.dataset_description):
        for query, document in kind(source):
            yield Row(kind.__name__, query, document, package, (module,))
    for item in source.items:
        doc = docstring.parse(item.doc)
        for kind in demo_pairs.ITEM_KINDS:
            for query, document in kind(item, doc):
                yield Row(kind.__name__, query, document, package, (item.module, module))
        items.append((package, item))
    if module == "pydoc_data.topics":
        for name, page in sorted(source.strings.items()):
            headings = [section.heading for section in docstring.split_sections(page) if section.heading]
            for query, document in demo_pairs.page_sections(page, docstring.clean(headings[0]) if headings else name):
                yield Row("heading_section", query, document, package, (module,))


def _from_page(text: str, name: str, package: str) -> Iterator[Row]:
    top, stem = name.split("/")[0], Path(name).stem
    if stem.lower() in ("changelog", "changes", "news"):
        for query, document in demo_pairs.changelog_entries(text, top):
            yield Row("version_note", query, document, package, (top,))
    elif "/" in name:
        for query, document in demo_pairs.page_sections(text, f"{top} {stem}".replace("_", " ")):
            yield Row("heading_section", query, document, package, (top,))


def _from_metadata(package: str) -> Iterator[Row]:
    metadata = distribution(package).metadata
    readme = metadata.get_payload() or metadata.get("Description") or ""
    for query, document in demo_pairs.page_sections(readme, package):
        yield Row("heading_section", query, document, package, ())
    if demo_pairs.readable(metadata.get("Summary") or "", 3):
        yield Row("name_summary", package, metadata["Summary"], package, ())


def distinct(rows: Iterable[Row], answers: int = 1) -> list[Row]:
    """The rows, by first occurrence of their query, with at most `answers` documents a query and MAX_PER_DOCUMENT
    queries a document in one kind, each pair once in all kinds, and without queries that more than MAX_PER_QUERY
    documents answer. Case and white space make no difference."""
    found: dict[tuple[str, str], dict[str, Row]] = defaultdict(dict)
    for row in rows:
        found[row.kind, normalize(row.query)].setdefault(normalize(row.document), row)
    kept, seen, uses = [], set(), Counter()
    for (kind, query), documents in found.items():
        if len(documents) > MAX_PER_QUERY:
            continue
        for document, row in list(documents.items())[:answers]:
            uses[kind, document] += 1
            if query != document and (query, document) not in seen and uses[kind, document] <= MAX_PER_DOCUMENT:
                seen.add((query, document))
                kept.append(row)
    return kept


def balanced(rows: list[Row]) -> list[Row]:
    """The rows, in order, with at most MAX_PER_PACKAGE of a kind from each package, drawn by hash."""
    groups = defaultdict(list)
    for i, row in enumerate(rows):
        groups[row.kind, row.package].append(i)
    kept = []
    for (kind, _), group in groups.items():
        if len(group) > MAX_PER_PACKAGE:
            group = draw(group, kind, key=lambda i: rows[i].query)[:MAX_PER_PACKAGE]
        kept += group
    return [rows[i] for i in sorted(kept)]


def write_jsonl(path: Path, rows: Iterable[dict]) -> None:
    """Writes gzip-compressed lines of JSON. The bytes depend on the rows alone; it appears complete or not."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with (
        whole(path) as partial,
        open(partial, "wb") as raw,
        gzip.GzipFile("", "wb", compresslevel=2, fileobj=raw, mtime=0) as file,
    ):
        for row in rows:
            file.write((json.dumps(row, ensure_ascii=False) + "\n").encode("utf-8", "replace"))


def write_task(folder: Path, files: dict[str, list]) -> None:
    """Writes a held-out task's files; the folder appears complete, in place of an older one."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with whole(folder) as partial:
        for name, rows in files.items():
            if name.endswith(".tsv"):
                (partial / name).parent.mkdir(parents=True, exist_ok=True)
                lines = "".join("\t".join(map(str, row)) + "\n" for row in rows)
                (partial / name).write_text(lines, encoding="utf-8")
            else:
                write_jsonl(partial / name, rows)
