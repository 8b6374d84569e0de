"""Decontamination: the pairs left out are those that sets of word tuples find, whatever they come in."""

import gzip
import json
import random
import unicodedata
from collections import Counter
from itertools import islice
from pathlib import Path

import pyarrow as pa
import pytest
from conftest import shared_dir

from gte.data import contamination, pairs
from gte.data.contamination import REASONS, Contamination, Decontamination, EvaluationTexts
from gte.data.own_files import infer_sources
from gte.data.prepare import prepare
from gte.data.recipe import Recipe, read_decontamination
from gte.data.shards import Manifest
from gte.data.task_folder import Folder
from gte.errors import UserError

WORDS = ["red", "green", "blue", "warm", "cold", "left", "right"]


def text_of(rng: random.Random, longest: int) -> str:
    """Words of a small vocabulary, in any case, between blanks and punctuation."""
    words = [rng.choice([word, word.title(), word.upper()]) for word in rng.choices(WORDS, k=rng.randint(1, longest))]
    return "".join(word + rng.choice([" ", ", ", "... ", "\n", "_"]) for word in words)


def words_of(text: str) -> tuple[str, ...]:
    """The oracle's words: all that is no letter becomes a blank."""
    return tuple("".join(letter if letter.isalnum() else " " for letter in text.lower()).split())


def grams_of(words: tuple[str, ...], n: int) -> set[tuple[str, ...]]:
    return {words[start : start + n] for start in range(len(words) - n + 1)}


def match(text: str, evaluation: str, settings: Decontamination) -> str | None:
    """By sets of tuples: "exact", "ngram" or nothing."""
    words, other = words_of(text), words_of(evaluation)
    if len(other) < settings.min_words:
        return None
    if words == other:
        return "exact"
    if settings.ngram is None:
        return None
    shared, of_it = grams_of(words, settings.ngram) & grams_of(other, settings.ngram), grams_of(other, settings.ngram)
    return "ngram" if shared and len(shared) >= settings.overlap * len(of_it) else None


def make_tasks(folder: Path, rng: random.Random, longest: int = 12) -> dict[str, list[str]]:
    """Tasks of several shapes, and the texts of each that count, some of them twice."""
    texts = {name: [text_of(rng, longest) for _ in range(30)] for name in ("Pairs", "Search", "Labels")}
    texts["Labels"] += texts["Pairs"][:3] + texts["Labels"][:3]

    def write(file: str, rows: list[dict]) -> None:
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        data = "\n".join(map(json.dumps, rows)).encode()
        (folder / file).write_bytes(gzip.compress(data) if file.endswith(".gz") else data)

    pairs, search = texts["Pairs"], texts["Search"]
    rows = [{"sentence1": a, "sentence2": b, "score": 1} for a, b in zip(pairs, pairs[::-1], strict=True)]
    write("Pairs/test.jsonl.gz", rows)
    write("Labels/en/test.jsonl", [{"text": text, "label": "warm cold left"} for text in texts["Labels"]])
    write("Labels/en/train.jsonl", [{"text": "a training split may be trained on", "label": 1}])
    write("Search/queries.jsonl", [{"_id": str(i), "text": text} for i, text in enumerate(search[:20])])
    write("Search/corpus.jsonl", [{"_id": str(i), "title": "", "text": text} for i, text in enumerate(search[20:])])
    (folder / "Search" / "qrels").mkdir()
    (folder / "Search" / "qrels" / "test.tsv").write_text(
        "query-id\tcorpus-id\tscore\n" + "".join(f"{i}\t{i % 10}\t1\n" for i in range(20))
    )
    return texts


def write_qrels(path: Path, queries: list[int]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [{"query-id": str(query), "corpus-id": "0", "score": 1} for query in queries]
    if ".tsv" not in path.name:
        path.write_text("\n".join(map(json.dumps, rows)))
        return
    text = "query-id\tcorpus-id\tscore\n" + "".join("\t".join(map(str, row.values())) + "\n" for row in rows)
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())


@pytest.mark.parametrize("identity", ["_id", "id", "number"])
@pytest.mark.parametrize(("qrels", "asked"), [
    ({"train.tsv": [0, 1, 2, 3], "test.tsv": [4, 5]}, [4, 5]),
    ({"train.tsv": [0, 1, 2], "test.tsv.gz": [4, 2], "dev.jsonl": [5]}, [2, 4, 5]),  # one that both ask is tested
    ({"train.jsonl": [0, 1], "test.jsonl": [3]}, [3]),
    ({"test.tsv": [3]}, [3]),
    ({"train.tsv": [0, 1]}, [0, 1]),  # as of NanoBEIR: its only split is that which is scored
    ({}, list(range(6))),
])  # fmt: skip
def test_queries_that_training_splits_alone_ask_may_be_trained_on(tmp_path, identity, qrels, asked):
    for part in ("Search", "Forums/en"):
        folder = tmp_path / part
        for name, queries in qrels.items():
            write_qrels(folder / "qrels" / name, queries)
        folder.mkdir(parents=True, exist_ok=True)
        key, of = ("_id", int) if identity == "number" else (identity, str)
        rows = [{key: of(n), "text": f"this is query {n}"} for n in range(6)]
        (folder / "queries.jsonl").write_text("\n".join(map(json.dumps, rows)))
        (folder / "corpus.jsonl").write_text(json.dumps({"_id": "0", "text": "one document for all"}))
    found = list(contamination.evaluation_texts(Decontamination(tmp_path)))
    for task in ("Search", "Forums"):
        texts = {text for name, _, text in found if name == task}
        assert texts == {f"this is query {n}" for n in asked} | {"one document for all"}


def test_pairs_on_training_queries_of_a_retrieval_task_are_kept(tmp_path):
    tasks = tmp_path / "tasks" / "Search"
    write_qrels(tasks / "qrels" / "train.tsv", list(range(40)))
    write_qrels(tasks / "qrels" / "test.tsv", list(range(40, 50)))
    rows = [{"_id": str(n), "text": f"what is the meaning of {n}"} for n in range(50)]
    (tasks / "queries.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (tasks / "corpus.jsonl").write_text(json.dumps({"_id": "0", "text": "no text that a pair has"}))
    (tmp_path / "raw").mkdir()
    pairs = [{"query": row["text"], "pos": f"an answer to {row['_id']}"} for row in rows]
    (tmp_path / "raw" / "a.jsonl").write_text("\n".join(map(json.dumps, pairs)))
    settings = Decontamination(tmp_path / "tasks")
    recipe = Recipe("test", infer_sources(tmp_path / "raw"), tmp_path / "raw", vocab_size=300, decontaminate=settings)
    facts = prepare(recipe, tmp_path / "out", report=lambda line: None).sources["a"]
    assert (facts["kept"], facts["rejected"]) == (40, {"text of an evaluation set": 10})
    before = settings.stamp()
    write_qrels(tasks / "qrels" / "train.tsv", list(range(30)))
    assert settings.stamp() == before
    write_qrels(tasks / "qrels" / "test.tsv", list(range(39, 50)))
    assert settings.stamp() != before


@pytest.mark.parametrize("overlap", [None, 0.0, 0.4, 1.0])
@pytest.mark.parametrize("seed", range(3))
def test_texts_are_found_as_sets_of_word_tuples_find_them(tmp_path, seed, overlap):
    rng = random.Random(seed)
    tasks = make_tasks(tmp_path, rng)
    settings = Decontamination(tmp_path, ngram=None if overlap is None else 4, overlap=overlap or 0.0, min_words=3)
    evaluation = EvaluationTexts(settings)
    texts = [text_of(rng, 25) for _ in range(400)] + tasks["Pairs"][:5] + ["?!", ""]
    found = evaluation.find(texts)
    seen = Counter()
    for number, text in enumerate(texts):
        by_set = {name: {match(text, other, settings) for other in others} for name, others in tasks.items()}
        wanted = {(name, reason) for name, reasons in by_set.items() for reason in reasons if reason}
        got = {(evaluation.origins[owner][0], reason) for owner, (reason, _) in found.get(number, {}).items()}
        assert got == wanted, text
        for reason, words in found.get(number, {}).values():
            assert words in " ".join(words_of(text)) and (len(words.split()) == 4 or reason == "exact")
        seen.update(reason for _, reason in wanted)
    assert seen["exact"] >= 5 and len(found) < len(texts) and (seen["ngram"] >= 5) == (overlap is not None)
    distinct = {name: {words_of(text) for text in others if len(words_of(text)) >= 3} for name, others in tasks.items()}
    assert evaluation.sets == {name: len(others) for name, others in sorted(distinct.items())}


def test_an_n_gram_of_very_many_evaluation_texts_tells_none_of_them(tmp_path, monkeypatch):
    monkeypatch.setattr(contamination, "COMMON", 3)
    (tmp_path / "Task").mkdir()
    for count, found in ((3, True), (4, False)):
        rows = [{"text": f"thank you for calling us number {number}"} for number in range(count)]
        (tmp_path / "Task" / "test.jsonl").write_text("\n".join(map(json.dumps, rows)))
        evaluation = EvaluationTexts(Decontamination(tmp_path, ngram=5))
        assert bool(evaluation.find(["they said thank you for calling us and hung up"])) is found
        assert list(evaluation.find(["thank you for calling us number 2"])) == [0]


@pytest.mark.parametrize("texts", [("queries",), ("documents",), ("queries", "documents")])
def test_queries_and_documents_are_those_of_the_tasks_shapes(tmp_path, texts):
    files = {
        "Search/queries.jsonl": {"_id": "1", "text": "query one"},
        "Search/corpus.jsonl": {"_id": "1", "title": "document one", "text": "document two"},
        "Rank/test.jsonl": {"query": "query two", "positive": ["document three"], "negative": ["document four"]},
        "Sum/test.jsonl": {"text": "query three", "human_summaries": ["document five"], "relevance": [[1.0]]},
        "Code/ruby_test.jsonl": {"docstring": "query four", "code": "document six", "url": "neither"},
        "Clusters/test.jsonl": {"sentences": ["query five", "query six"], "labels": ["neither", "neither"]},
    }
    for file, row in files.items():
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).write_text(json.dumps(row))
    found = {text for _, _, text in contamination.evaluation_texts(Decontamination(tmp_path, texts))}
    numbers = ("one", "two", "three", "four", "five", "six")
    wanted = {"queries": {f"query {n}" for n in numbers}, "documents": {f"document {n}" for n in numbers}}
    assert found == set().union(*(wanted[role] for role in texts))


def prepared_pairs(folder: Path) -> tuple[Path, dict[str, list[str]]]:
    """(raw folder, texts of the tasks in folder/tasks): pairs of which some hold texts of the tasks."""
    rng = random.Random(8)
    tasks = make_tasks(folder / "tasks", rng)
    (folder / "raw").mkdir()
    for name in ("first", "second"):
        rows = [[text_of(rng, 6), text_of(rng, 6)] for _ in range(500)]
        rows += [[rng.choice(tasks["Search"]), text_of(rng, 6)] for _ in range(20)]
        for _ in range(20):
            rows.append([text_of(rng, 6), f"{text_of(rng, 3)} {rng.choice(tasks['Pairs'])} {text_of(rng, 3)}"])
        rows += rows[:50] + rows[-30:]
        (folder / "raw" / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return folder / "raw", tasks


def test_contaminated_pairs_are_left_out_counted_and_shown_and_no_other_is(tmp_path, monkeypatch):
    raw, tasks = prepared_pairs(tmp_path)
    settings = Decontamination(tmp_path / "tasks", ngram=6, min_words=5)
    recipe = Recipe("test", infer_sources(raw), raw, vocab_size=300, decontaminate=settings, max_rejected=0)
    said = []
    monkeypatch.setattr(contamination, "ROWS", 37)
    manifest = prepare(recipe, tmp_path / "out", report=said.append)
    plain = prepare(Recipe("test", infer_sources(raw), raw, vocab_size=300), tmp_path / "plain", report=said.append)
    report = json.loads((tmp_path / "out" / "decontamination.json").read_text())
    assert not (tmp_path / "plain" / "decontamination.json").exists()
    counts = {name: Counter() for name in tasks}
    for source in ("first", "second"):
        left, right = (read(tmp_path / folder, source) for folder in ("out", "plain"))
        wanted, reasons = {}, Counter()
        for key, row in right.items():
            found = {name: {match(text, other, settings) for text in key for other in tasks[name]} for name in tasks}
            for name, kinds in found.items():
                for kind in [kind for kind in ("exact", "ngram") if kind in kinds][:1]:
                    counts[name][source, kind] += 1
            kinds = set().union(*found.values()) - {None}
            if kinds:
                reasons[REASONS["exact" if "exact" in kinds else "ngram"]] += 1
            else:
                wanted[key] = row
        assert left == wanted and min(reasons.values()) > 10
        facts, plain_facts = manifest.sources[source], plain.sources[source]
        assert facts["rejected"] == reasons and report["pairs left out"][source] == reasons.total()
        assert facts["kept"] + reasons.total() == plain_facts["kept"]
        assert (facts["read"], facts["duplicates"]) == (plain_facts["read"], plain_facts["duplicates"])
        for example in facts["examples"]:
            assert any(row == (example["file"], example["row"]) for key, row in right.items() if key not in wanted)
    for name, sources in report["by evaluation set"].items():
        found = {(source, kind): count for source, kinds in sources.items() for kind, count in kinds.items() if count}
        assert found == counts[name]
    for example in report["examples"]:
        place, _, line = example["evaluation text"].rpartition(":")
        opened = gzip.open if place.endswith(".gz") else open
        with opened(tmp_path / "tasks" / place, "rt") as file:
            texts = [text for text in json.loads(file.readlines()[int(line) - 1]).values() if isinstance(text, str)]
        assert place.startswith(example["set"]) and any(example["words"] in " ".join(words_of(t)) for t in texts)
    assert {example["source"] for example in report["examples"]} == {"first", "second"}
    words = {name: set(map(words_of, texts)) for name, texts in tasks.items()}
    assert report["too short to look for"] == {name: sum(len(one) < 5 for one in words[name]) for name in words}
    total = sum(report["pairs left out"].values())
    assert f"decontamination: {total:,} pairs left out, see decontamination.json" in said
    assert Manifest.load(tmp_path / "out").configuration["decontaminate"]["ngram"] == 6


def test_a_source_of_which_no_pair_is_left_is_one_line_with_its_reasons_and_no_folder(tmp_path):
    tasks = make_tasks(tmp_path / "tasks", random.Random(8))
    texts = sorted({text for text in tasks["Search"] if len(words_of(text)) >= 4})
    (tmp_path / "raw").mkdir()
    rows = [[text, f"an answer to {number}"] for number, text in enumerate(texts)]
    rows += [*rows[:3], ["a query", ""]]
    (tmp_path / "raw" / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    sources = infer_sources(tmp_path / "raw")
    settings = Decontamination(tmp_path / "tasks", ngram=None)
    recipe = Recipe("test", sources, tmp_path / "raw", vocab_size=300, max_rejected=0.5, decontaminate=settings)
    with pytest.raises(UserError) as error:
        prepare(recipe, tmp_path / "out", report=lambda line: None)
    counts = f"(empty document 1, text of an evaluation set {len(texts)}, duplicate 3)"
    said = (
        f"source a: no pair is left of {len(texts) + 4} rows {counts}; skip it, or look for other texts than those of "
    )
    assert str(error.value).startswith(said) and "Search: data.decontaminate.folder=" in str(error.value)
    assert "\n" not in str(error.value) and not (tmp_path / "out").exists()
    rows.append(["a query of no task", "and its document"])
    (tmp_path / "raw" / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert prepare(recipe, tmp_path / "out", report=lambda line: None).sources["a"]["kept"] == 1


def read(out: Path, source: str) -> dict[tuple[str, str], tuple[str, int]]:
    rows = pa.parquet.read_table(out / "pairs" / f"{source}.parquet").to_pylist()
    return {(row["query"], row["document"]): (row["file"], row["row"]) for row in rows}


def test_the_evaluation_folder_is_part_of_the_configuration(tmp_path):
    raw, _ = prepared_pairs(tmp_path)
    recipe = Recipe("test", infer_sources(raw), raw, decontaminate=Decontamination(tmp_path / "tasks"))
    before = recipe.configuration(recipe.locate())
    assert before == recipe.configuration(recipe.locate())
    with open(tmp_path / "tasks" / "Labels" / "en" / "test.jsonl", "a") as file:
        file.write("\n")
    assert before != recipe.configuration(recipe.locate())


def test_what_the_hub_client_keeps_beside_its_files_is_no_part_of_a_task(tmp_path):
    make_tasks(tmp_path, random.Random(0))
    before = list(contamination.evaluation_texts(Decontamination(tmp_path)))
    for task in ("Pairs", "Labels", "Search"):
        notes = tmp_path / task / ".cache" / "huggingface" / "download" / "corpus.jsonl.gz.metadata"
        notes.parent.mkdir(parents=True)
        notes.write_text("a commit\nan etag\n1.0\n")
    assert list(contamination.evaluation_texts(Decontamination(tmp_path))) == before
    Folder(tmp_path / "Labels").check()


@pytest.mark.parametrize(
    ("facts", "line"),
    [
        ({"folder": "nowhere"}, "evaluation folder nowhere does not exist"),
        ({"ngram": 1}, "ngram=1 must be at least 2 or null"),
        ({"overlap": 2}, "overlap=2 a share"),
        ({"texts": ["titles"]}, "must name queries, documents or both"),
        ({"texts": []}, "must name queries, documents or both"),
        ({"words": 3}, r"data\.decontaminate: .*'words'"),
        ({"min_words": 99}, "holds no text to look for"),
    ],
)
def test_faulty_settings_are_answered_with_one_line(tmp_path, facts, line):
    make_tasks(tmp_path, random.Random(0))
    stated = {"folder": str(tmp_path), "texts": ["queries", "documents"], "ngram": 13, "overlap": 0, "min_words": 4}
    with pytest.raises(UserError, match=line) as error:
        settings = read_decontamination(stated | facts)
        settings.check()
        EvaluationTexts(settings)
    assert "\n" not in str(error.value)
    assert read_decontamination({**stated, "folder": None}) is None


@pytest.mark.parametrize(
    "text",
    [
        "Où est le café très célèbre?", "Which is the ﬁrst oﬃce of ＡＢＣ１２３?", "die Straße nach Süden heute",
        "今天天气怎么样我们", "ひらがなとカタカナの文", "พรุ่งนี้ฝนจะตก", "आज मौसम कैसा है यहाँ",
        "İstanbul nerede bulunur acaba", "Πού είναι ο δρόμος",
    ],
)  # fmt: skip
def test_a_text_is_found_in_whatever_form_it_is_written(tmp_path, text):
    (tmp_path / "Task").mkdir()
    rows = [{"text": text}, {"text": "three short words"}, {"text": "ab 今天"}, {"text": "three, SHORT words"}]
    (tmp_path / "Task" / "test.jsonl").write_text("\n".join(map(json.dumps, rows)))
    evaluation = EvaluationTexts(Decontamination(tmp_path))
    assert (evaluation.sets, evaluation.short) == ({"Task": 1}, {"Task": 2})
    forms = [unicodedata.normalize(form, text) for form in ("NFC", "NFD", "NFKC", "NFKD")]
    forms += [text.replace("e", "e\u00ad").replace("天", "天\u200b"), f"\ufeff{text}", text.replace(" ", "\u00a0\n")]
    forms += [f"«{text}。…»", unicodedata.normalize("NFD", text).upper()]
    others = [f"{text} not", text[1:], text.replace(" ", " b ", 1) + "b"]
    assert [number for number in evaluation.find([*forms, *others])] == list(range(len(forms)))


def test_a_run_of_characters_tells_a_text_that_writes_no_spaces(tmp_path):
    (tmp_path / "Task").mkdir()
    (tmp_path / "Task" / "test.jsonl").write_text(json.dumps({"text": "我们今天去公园玩吧,你说好不好呢"}))
    evaluation = EvaluationTexts(Decontamination(tmp_path))
    found = evaluation.find(["他问我们今天去公园玩吧你说好不对", "他问我们今天去公园玩吧你说不好", "公园"])
    assert {number: [match for match, _ in owners.values()] for number, owners in found.items()} == {0: ["ngram"]}


def test_a_faulty_evaluation_file_is_named_with_its_line(tmp_path):
    make_tasks(tmp_path, random.Random(0))
    with open(tmp_path / "Search" / "queries.jsonl", "a") as file:
        file.write("\n[1]")
    with pytest.raises(UserError, match=r"Search/queries\.jsonl:21: expected a JSON object a line"):
        EvaluationTexts(Decontamination(tmp_path))


def test_real_glosses_in_real_evaluation_sets_are_found_as_python_sets_find_them(tmp_path):
    """STS 2012 and 2013 took sentences from WordNet, so a corpus of its glosses is contaminated."""
    with gzip.open(shared_dir("data/pairs") / "wordnet_glosses.jsonl.gz", "rt") as lines:
        rows = [json.loads(line) for line in islice(lines, 20_000)]
    for name in ("STS12", "STS13", "SciFact"):
        (tmp_path / name).symlink_to(shared_dir("data/eval") / name)
    settings = Decontamination(tmp_path)
    texts = [words_of(text) for _, _, text in contamination.evaluation_texts(settings)]
    wholes = {words for words in texts if len(words) >= 4}
    grams = set().union(*(grams_of(words, 13) for words in texts))
    found = Contamination(EvaluationTexts(settings))
    table = pa.table({
        "query": [row["query"] for row in rows], "document": [row["pos"] for row in rows],
        "file": ["f"] * len(rows), "row": range(len(rows)),
    })  # fmt: skip
    kept = set(found.clean(table).column("row").to_pylist())
    for number, row in enumerate(rows):
        sides = [words_of(row["query"]), words_of(row["pos"])]
        wanted = any(words in wholes or grams_of(words, 13) & grams for words in sides)
        assert (number not in kept) == wanted, row
    assert len(kept) < len(rows) - 100 and {"STS12", "STS13"} <= set(found.sets)


def negatives_of(out: Path, source: str) -> dict[tuple[str, str], list[str] | None]:
    rows = pa.parquet.read_table(out / "pairs" / f"{source}.parquet").to_pylist()
    return {(row["query"], row["document"]): row["negatives"] for row in rows}


@pytest.mark.parametrize("held", [None, 2_000], ids=["one bucket", "many buckets"])
def test_negatives_with_evaluation_texts_are_dropped_counted_and_shown_and_their_pairs_stay(
    tmp_path, monkeypatch, held
):
    """Half of the pairs are two rows of a file, whose negatives are put together."""
    if held:
        monkeypatch.setattr(pairs, "BUCKET_BYTES", held)
    monkeypatch.setattr(contamination, "ROWS", 37)
    rng = random.Random(4)
    tasks = make_tasks(tmp_path / "tasks", rng)
    settings = Decontamination(tmp_path / "tasks", ngram=6, min_words=5)
    texts = [text for others in tasks.values() for text in others]
    bad = [text for text in texts if len(words_of(text)) >= 5]
    bad += [f"and so {text} and on" for text in bad if len(words_of(text)) >= 6]
    rows = []
    for number in range(400):
        for _ in range(1 + number % 2):
            negatives = [f"number {rng.randrange(99)} of no task" for _ in range(rng.randrange(3))]
            negatives += rng.sample(bad, rng.randrange(3))
            rows.append(
                {
                    "query": f"query {number}",
                    "pos": f"document {number}",
                    "neg": rng.sample(negatives, k=len(negatives)),
                }
            )
    rows += [{"query": bad[0], "pos": "a pair that is left out", "neg": [bad[1], "number 1 of no task"]}]
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    wanted: dict[tuple[str, str], list[str]] = {}
    first: dict[tuple[str, str], list[str]] = {}
    for row in rows[:-1]:
        key = row["query"], row["pos"]
        first.setdefault(key, row["neg"])
        wanted[key] = list(dict.fromkeys([*wanted.get(key, []), *row["neg"]]))
    counts, by_set, gathered = Counter(), Counter(), 0
    for key, negatives in wanted.items():
        kept = []
        for text in negatives:
            found = {name: {match(text, one, settings) for one in others} - {None} for name, others in tasks.items()}
            kinds = set().union(*found.values())
            by_set.update(name for name, ones in found.items() if ones)
            if kinds:
                counts[REASONS["exact" if "exact" in kinds else "ngram"]] += 1
            else:
                kept.append(text)
        gathered += len(set(kept) - set(first[key]))
        wanted[key] = kept
    said: list[str] = []
    recipe = Recipe("test", infer_sources(tmp_path / "raw"), tmp_path / "raw", vocab_size=300, decontaminate=settings)
    facts = prepare(recipe, tmp_path / "out", report=said.append).sources["a"]
    assert negatives_of(tmp_path / "out", "a") == {key: texts or None for key, texts in wanted.items()}
    assert facts["dropped"] == counts and facts["gathered"] == gathered and min(*counts.values(), gathered) > 50
    assert (facts["read"], facts["kept"], facts["duplicates"]) == (601, 400, 200)
    assert facts["rejected"] == {"text of an evaluation set": 1}
    assert {bool(texts) for texts in wanted.values()} == {False, True}
    report = json.loads((tmp_path / "out" / "decontamination.json").read_text())
    total = counts.total()
    assert report["negatives dropped"] == {"a": total} and report["pairs left out"] == {"a": 1}
    assert {name: sources["a"]["negatives"] for name, sources in report["by evaluation set"].items()} == by_set
    shown = [example for example in report["examples"] if example["negative"]]
    assert {example["set"] for example in shown} == set(tasks) and len(shown) == 9
    for example in shown:
        assert any(example["words"] in " ".join(words_of(text)) for text in rows[example["row"] - 1]["neg"]) or (
            rows[example["row"] - 1]["query"] == rows[example["row"]]["query"]  # of the pair's second row
        )
    assert f"decontamination: 1 pairs left out and {total:,} negatives of others, see decontamination.json" in said
    assert sum(line.strip().startswith("dropped ") for line in said) == 2


def test_a_source_without_negatives_has_none_to_look_at(tmp_path, monkeypatch):
    raw, _ = prepared_pairs(tmp_path)
    monkeypatch.setattr(Contamination, "clean_negatives", None)
    settings = Decontamination(tmp_path / "tasks", ngram=6, min_words=5)
    recipe = Recipe("test", infer_sources(raw), raw, vocab_size=300, decontaminate=settings)
    assert prepare(recipe, tmp_path / "out", report=lambda line: None).sources["first"]["dropped"] == {}
