"""The demo corpus of the packages that are really installed."""

import random
import re
from collections import Counter, defaultdict
from pathlib import Path
from typing import NamedTuple

import pytest
from conftest import ROOT
from demo_corpus import pairs, read

from gte.data.cleaning import normalize
from gte.data.locate import locate
from gte.data.records import Pair
from gte.data.sources import load_source
from gte.demo import corpus as demo
from gte.demo import pairs as demo_pairs
from gte.demo import tasks as demo_tasks

KINDS = {path.stem for path in (ROOT / "conf/source/demo").glob("*.yaml")}


# all that is held out, and a fifth of the rest; mteb describes data sets
PART = ("python", "scipy", "mteb", *(name for name in demo.HELD_OUT if name in demo.PINNED))


class Mined(NamedTuple):
    """A corpus: its folder, the pairs of each kind, and whether it is of all packages."""

    out: Path
    counts: dict[str, int]
    is_whole: bool


@pytest.fixture(scope="session", params=["part", pytest.param("whole", marks=pytest.mark.slow)])
def corpus(request, tmp_path_factory) -> Mined:
    out, is_whole = tmp_path_factory.mktemp("demo"), request.param == "whole"
    return Mined(out, demo.mine(out, None if is_whole else list(PART)), is_whole)


def test_pinned_packages_are_those_of_requirements():
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    pinned = {match[1] for line in lines if (match := re.match(r"([\w.-]+)==", line))}
    assert set(demo.PINNED) <= pinned


def test_corpus_has_sixty_thousand_distinct_pairs_of_many_kinds_and_sizes(corpus):
    out, counts, is_whole = corpus
    assert set(counts) == KINDS and len(counts) >= 6
    distinct = {pair for kind in counts for pair in pairs(out, kind)}
    assert len(distinct) == sum(counts.values()) >= (60_000 if is_whole else 20_000)
    assert max(counts.values()) > 10 * min(counts.values()) and min(counts.values()) >= (500 if is_whole else 20)
    assert max(counts.values()) < sum(counts.values()) / 4  # no kind is the corpus
    texts = [text for pair in distinct for text in pair]
    assert max(map(len, texts)) <= demo_pairs.LIMIT and all(text.strip() for text in texts)


def test_every_source_config_reads_every_pair_of_its_kind(corpus):
    out, counts, is_whole = corpus
    for kind, count in counts.items():
        source = load_source(kind)
        (raw,) = locate(source, out)
        records = list(source.read(raw))
        assert len(records) == count and all(isinstance(record, Pair) for record in records)
        assert [(record.query, record.document) for record in records[:100]] == pairs(out, kind)[:100]
        assert source.estimate and source.pairs / count > 0.5
        assert source.pairs / count < 2 or not is_whole


def held_out_texts(out: Path) -> dict[str, list[str]]:
    found = defaultdict(list)
    for path in sorted((out / "eval").rglob("*.jsonl.gz")):
        for row in read(path):
            found[path.parent.name] += [row[name] for name in ("text", "sentence1", "sentence2") if name in row]
    return found


def test_no_held_out_text_occurs_in_a_training_pair(corpus):
    out, counts, is_whole = corpus
    found = held_out_texts(out)
    assert all(len(texts) > 1000 for texts in found.values()) and len(found) == 6
    held_out = {normalize(text) for texts in found.values() for text in texts}
    long = {text for text in held_out if len(text) >= demo_tasks.CHARACTERS}
    assert len(long) > 5000
    training = {normalize(text) for kind in counts for pair in pairs(out, kind) for text in pair}
    assert len(training) > (100_000 if is_whole else 30_000)
    assert not long & training
    # within longer texts: a sample by plain search, the rest is test_leaks_are_found_...
    everything = "\n".join(f" {text} " for text in sorted(training))
    sample = random.Random(0).sample(sorted(t for t in long if len(t.split()) >= demo_tasks.WORDS), 40)
    assert not [text for text in sample if f" {text} " in everything]
    known = next(text for text in training if len(text.split()) >= 20)
    assert f" {known} " in everything  # the search can find


def test_no_training_pair_names_a_held_out_module_as_its_own(corpus):
    out, _, is_whole = corpus
    names = [query for query, _ in pairs(out, "name_summary")]
    assert len(names) > (10_000 if is_whole else 3_000)
    assert not [name for name in names if demo.is_below(name, demo.HELD_OUT)]
    targets = [document.split(":")[0] for _, document in pairs(out, "hyperlink")]
    assert len(targets) > (1_000 if is_whole else 100)
    assert not [name for name in targets if demo.is_below(name, demo.HELD_OUT)]


@pytest.mark.parametrize("task", list(demo_tasks.RETRIEVAL))
def test_retrieval_tasks_are_whole_and_of_a_size_for_a_laptop(corpus, task):
    folder = corpus.out / "eval" / task
    documents, queries = read(folder / "corpus.jsonl.gz"), read(folder / "queries.jsonl.gz")
    assert 1_000 <= len(documents) <= 3_000 and 300 <= len(queries) <= 500
    header, *lines = (folder / "qrels/test.tsv").read_text().splitlines()
    judged = [line.split("\t") for line in lines]
    assert header == "query-id\tcorpus-id\tscore" and {score for *_, score in judged} == {"1"}
    assert {q for q, *_ in judged} == {row["_id"] for row in queries}
    assert {d for _, d, _ in judged} < {row["_id"] for row in documents}
    texts = [normalize(row["text"]) for row in documents]
    assert len(set(texts)) == len(texts)
    asked = [normalize(row["text"]) for row in queries]
    assert len(set(asked)) == len(asked) and not set(asked) & set(texts)


def test_kinds_are_balanced_in_clustering_and_scores_in_relatedness(corpus):
    for task in ("DemoSourceKind", "DemoTopic"):
        labels = Counter(row["label"] for row in read(corpus.out / "eval" / task / "test.jsonl.gz"))
        assert len(labels) >= 6 and max(labels.values()) <= 3 * min(labels.values())
        modules = {demo_tasks.topic(name) for name in demo.HELD_OUT} - {"hydra-core", "sentence-transformers"}
        modules |= {"hydra", "sentence_transformers"}  # as they are imported
        assert set(labels) <= (KINDS if task == "DemoSourceKind" else modules)
    related = read(corpus.out / "eval/DemoRelatedness/test.jsonl.gz")
    scores = Counter(row["score"] for row in related)
    assert set(scores) == {0, 1, 2} and min(scores.values()) >= 150 and max(scores.values()) <= 2 * min(scores.values())

    def overlap(row):
        a, b = (set(re.findall(r"\w+", row[name].lower())) for name in ("sentence1", "sentence2"))
        return len(a & b) / len(a | b)

    assert max(map(overlap, related)) <= 1 / 3
    assert len({(row["sentence1"], row["sentence2"]) for row in related}) == len(related)
