"""From a careless file to a trained model in three commands, and what is refused on the way."""

import gzip
import json
import random
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from huggingface_hub import ModelCard

from gte.data.columnar.read import read_columns
from gte.data.locate import locate
from gte.data.module import PairData, group_size_of
from gte.data.own_files import infer_sources
from gte.data.preview import describe, preview
from gte.data.shards import Manifest
from gte.data.tokenizer import load_tokenizer
from gte.stage import Stage

WORDS = [
    "one", "two", "many", "words", "in", "a", "row", "and", "then", "some", "more", "of", "them", "query", "document",
    "about", "text", "number",
]  # fmt: skip
SIZES = {"max_length": 32, "global_batch": 8, "steps": 2, "epochs": None, "lr_scale": 0.1, "init_from": None}
STAGE = {**SIZES, "name": "finetune", "batch_tokens": 2048, "recompute_fraction": 0.0}
SMALL = ["trainer=cpu", "scale=laptop", "stage.steps=2", "stage.global_batch=8", "stage.max_length=32", "workers=0"]


def write_pairs(folder, rows: int = 40) -> list[tuple[str, str]]:
    """A CSV as people have it: an id, names with capitals, one row that is no row."""
    rng = random.Random(0)
    folder.mkdir(exist_ok=True)
    pairs = [(f"{rng.choice(WORDS)} {n} query", " ".join(rng.choices(WORDS, k=6)) + f" {n}") for n in range(rows)]
    lines = ["Id,Question,Answer", *(f"{n:04x},{q},{d}" for n, (q, d) in enumerate(pairs)), "beef,only a question"]
    (folder / "faq.csv").write_text("\n".join(lines) + "\n")
    return pairs


def test_three_commands_train_on_own_pairs_with_their_negatives(script, small_model, tmp_path):
    pairs = write_pairs(tmp_path / "my_pairs")
    code, out, err = script("mine", "in=my_pairs", "negatives=3")
    assert code == 0 and "query = Question, document = Answer; not used: Id" in out, err
    code, out, err = script("prepare", "data=local", "data.path=my_pairs", f"model={small_model}")
    assert code == 0 and "with the negatives of" in out and "too few columns, first faq.csv:42" in out, err
    code, out, err = script("train", "stage=finetune", "data=local", f"model={small_model}", *SMALL, "out=runs/mine")
    assert code == 0 and "in groups of 4" in out, err
    record = json.loads((tmp_path / "runs/mine/training.json").read_text())[-1]
    assert record["stage"]["group_size"] == 4 and record["sources"]["faq"]["category"] == "local"
    assert script("export", "checkpoint=runs/mine", "out=model")[0] == 0
    assert ModelCard.load("model/README.md").data.language is None  # of one's own files nobody knows it
    manifest = Manifest.load("data/local")
    shown = manifest.sources["faq"]["columns"]
    assert (shown["query"], shown["document"], shown["unused"]) == ("Question", "Answer", ["Id"])
    assert shown["examples"] == [list(pair) for pair in pairs[:2]]
    batch = PairData("data/local", Stage(**STAGE, group_size=4), alpha=0.5, seed=0).steps()[0]
    assert batch.negatives == 3 and len(batch.lengths_R) == 8 * (2 + 3)
    tokenizer = load_tokenizer(small_model)
    starts = np.cumsum([0, *batch.lengths_R.tolist()])
    texts = [tokenizer.decode(batch.ids_T[a:b], skip_special_tokens=True) for a, b in pairwise(starts)]
    documents = {tokenizer.decode(tokenizer(d)["input_ids"], skip_special_tokens=True) for _, d in pairs}
    negatives = [set(texts[16 + 3 * row : 19 + 3 * row]) for row in range(8)]
    assert all(group <= documents - {texts[8 + row]} and len(group) == 3 for row, group in enumerate(negatives))


def test_mined_negatives_of_changed_rows_are_refused_and_of_other_files_not_used(script, small_model, tmp_path):
    write_pairs(tmp_path / "my_pairs")
    assert script("mine", "in=my_pairs", "negatives=2")[0] == 0
    write_pairs(tmp_path / "other")
    code, out, err = script("prepare", "data=local", "data.path=other", f"model={small_model}", "dry_run=true")
    assert code == 0 and "is not used: it was mined for" in out and not (tmp_path / "data/local").exists(), err
    text = (tmp_path / "my_pairs/faq.csv").read_text()
    (tmp_path / "my_pairs/faq.csv").write_text(text.replace("query", "query!", 1))
    line = script.refused("prepare", "data=local", "data.path=my_pairs", f"model={small_model}")
    assert "has the negatives of other rows than my_pairs/faq.csv" in line and "src/mine.py in=my_pairs" in line
    assert not (tmp_path / "data/local").exists()
    code, out, _ = script("prepare", "data=local", "data.path=my_pairs", f"model={small_model}", "data.mined=null")
    assert code == 0 and not Manifest.load("data/local").sources["faq"]["negatives"]


@pytest.mark.parametrize(
    ("how", "message"),
    [
        (lambda packed: packed[: len(packed) // 2], "damaged archive"),
        (lambda packed: b"", "damaged archive"),
        (lambda packed: packed[:-12] + bytes(12), "damaged archive"),
        (lambda packed: gzip.compress(b"".join(gzip.decompress(packed).splitlines(True)[:7])), "has 7 rows, 40 were"),
        (lambda packed: gzip.compress(b"[1]\n" + gzip.decompress(packed)), "no mined negatives on line 1"),
    ],
    ids=["cut", "empty", "altered", "shorter", "foreign"],
)
def test_mined_negatives_that_are_not_as_they_were_written_are_refused(script, small_model, tmp_path, how, message):
    write_pairs(tmp_path / "my_pairs")
    assert script("mine", "in=my_pairs", "negatives=2")[0] == 0
    file = tmp_path / "data/mined/faq.jsonl.gz"
    file.write_bytes(how(file.read_bytes()))
    line = script.refused("prepare", "data=local", "data.path=my_pairs", f"model={small_model}")
    assert message in line and "faq.jsonl.gz" in line and "src/mine.py in=my_pairs/faq.csv" in line
    assert not (tmp_path / "data/local").exists()


def test_negatives_of_the_first_rows_alone_are_taken(script, small_model, tmp_path):
    write_pairs(tmp_path / "my_pairs")
    assert script("mine", "in=my_pairs", "negatives=2", "rows=9")[0] == 0
    code, out, err = script("prepare", "data=local", "data.path=my_pairs", f"model={small_model}")
    assert code == 0 and "taken 31: without mined negatives: beyond the rows= of mine.py" in out, err
    rows = pq.read_table("data/local/pairs/faq.parquet").to_pylist()
    assert sorted(row["row"] for row in rows if row["negatives"]) == list(range(2, 11)) and len(rows) == 40


@pytest.mark.parametrize(("limit", "refused"), [([], True), (["rows=50"], True), (["rows=40"], False)])
def test_rows_that_came_after_mine_are_refused_but_where_it_was_to_stop_before_them(
    script, small_model, tmp_path, limit, refused
):
    pairs = write_pairs(tmp_path / "my_pairs")
    assert script("mine", "in=my_pairs", "negatives=2", *limit)[0] == 0
    with (tmp_path / "my_pairs/faq.csv").open("a") as file:
        file.writelines(f"ff,{query} again,{document} again\n" for query, document in pairs)
    command = ["prepare", "data=local", "data.path=my_pairs", f"model={small_model}", "dry_run=true"]
    if refused:
        line = script.refused(*command)
        assert "has the negatives of other rows than my_pairs/faq.csv: of its first 40 pairs" in line
        assert "row 43 is another; mine them again: python src/mine.py in=my_pairs/faq.csv" in line
    else:
        assert script(*command)[0] == 0


def test_lists_are_shown_and_read_with_all_their_negatives(tmp_path):
    rows = [[f"a query {n}", f"its document {n}", *(f"negative {n} {k}" for k in range(n % 5))] for n in range(60)]
    for name, chosen in (("bare", [row[:2] for row in rows]), ("more", rows)):
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, chosen)))
    bare, more = infer_sources(tmp_path)
    said = [describe(one.name, one.files, preview(one, locate(one, tmp_path)))[0] for one in (bare, more)]
    assert said == ["bare (bare.jsonl): lists: query, document", "more (more.jsonl): lists: query, document, negatives"]
    (raw,) = locate(more, tmp_path)
    batches = [found for found in read_columns(more, raw) if isinstance(found, pa.RecordBatch)]
    found = [row for batch in batches for row in batch.to_pylist()]
    texts = [[row["query"], row["document"], *(row["negatives"] or [])] for row in found]
    assert sorted(texts) == sorted(rows) and {type(row["negatives"]) for row in found} == {list, type(None)}


def test_own_negatives_stay_beside_the_mined_ones(script, small_model, tmp_path):
    (tmp_path / "raw").mkdir()
    rows = [{"query": f"words in a row {n}", "pos": f"a row {n}", "neg": [f"text {n}"]} for n in range(12)]
    (tmp_path / "raw/a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert script("mine", "in=raw", "negatives=2")[0] == 0
    assert script("prepare", "data=local", "data.path=raw", f"model={small_model}")[0] == 0
    stage = Stage(**STAGE, group_size=16)
    assert group_size_of("data/local", stage, None) == 4


def test_pairs_without_negatives_make_groups_of_one_unless_asked(script, small_model, tmp_path):
    write_pairs(tmp_path / "my_pairs")
    assert script("prepare", "data=local", "data.path=my_pairs", f"model={small_model}")[0] == 0
    start = ["stage=finetune", "data=local", f"model={small_model}", *SMALL]
    code, out, err = script("train", *start, "out=runs/a=1,b=2")
    assert code == 0 and "in groups of 1 (no source has negatives)" in out, err
    code, out, err = script("train", *start, "stage.group_size=3", "out=runs/other")
    assert code == 0 and "in groups of 3" in out, err
    code, out, err = script("train", *start, "out=runs/a=1,b=2", "resume=auto", "stage.steps=3")
    assert code == 0 and "goes on after step 2" in out, err
    texts = ["in=my_pairs/faq.csv", "field=Question", "unreadable=skip", "id=Id"]
    code, _, err = script("embed", "checkpoint=runs/a=1,b=2", *texts, "out=étude.parquet")
    assert code == 0 and (tmp_path / "étude.parquet").is_file(), err


def test_a_tokenizer_that_nobody_named_gives_way_to_one_that_is(script, small_model, tmp_path):
    write_pairs(tmp_path / "my_pairs")
    code, out, _ = script("prepare", "data=local", "data.path=my_pairs", "data.vocab_size=300")
    assert code == 0 and "note: no tokenizer is named" in out and "model=NAME_OR_FOLDER" in out
    code, out, err = script("prepare", "data=local", "data.path=my_pairs", f"model={small_model}")
    assert code == 0 and Manifest.load("data/local").tokenizer["name"] == str(small_model), err
    assert "another configuration" in script.refused(
        "prepare", "data=local", "data.path=my_pairs", "data.vocab_size=300"
    )


@pytest.fixture
def ready(script, small_model, tmp_path):
    write_pairs(tmp_path / "my_pairs")
    assert script("prepare", "data=local", "data.path=my_pairs", f"model={small_model}")[0] == 0
    return ["stage=finetune", "data=local", f"model={small_model}", *SMALL]


def test_settings_that_would_do_nothing_and_slips_are_refused_in_one_line(script, ready, tmp_path):
    (tmp_path / "runs/pretrain").mkdir(parents=True)
    for arguments, line in (
        (["data.sources=[x]"], "data.sources is not read here; choose by sources=[...]"),
        (["data.max_tokens=7"], "data.max_tokens is not read here; give it to src/prepare.py"),
        (["+data.alhpa=0.1"], "did you mean data.alpha"),
        (["stage.stepz=5"], "unknown key 'stage.stepz', did you mean stage.steps?"),
        (["stage.steps=abc"], "stage.steps=abc must be at least 1 and whole, or null"),
        (["optim.lr=fast"], "optim.lr=fast must be a number"),
        (["data.dir=nowhere"], "make it with python src/prepare.py data=local data.path=FOLDER"),
        (["stage.init_from=runs/pretrian"], "runs/pretrian does not exist, did you mean pretrain?"),
        (["loss._target_=gte.loss.nothing_of_ours"], "nothing_of_ours"),
        (["loss._target_=math.hypot"], "loss: math.hypot is no function (q_ND, d_ND, n_NKD"),
        (["+evaluate.taks=[a]"], "did you mean evaluate.tasks?"),
    ):
        told = script.refused("train", *ready, "out=runs/x", *arguments)
        assert line in told, told
    assert not (tmp_path / "runs/x/checkpoints").exists()
    assert "runs/gone does not exist" in script.refused(
        "eval", "checkpoint=runs/gone", "suite=local", "data_dir=nowhere"
    )
    assert "in= is missing" in script.refused("mine", "negatives=3")
    assert "out= is missing" in script.refused("export", "checkpoint=x")


def test_an_empty_texts_id_is_its_own(script, small_model, tmp_path):
    import pyarrow.parquet as pq

    (tmp_path / "a.csv").write_text("id,text\n10,one\n4,\n3,two\n2,row\n")
    code, _, err = script("embed", f"checkpoint={small_model}", "in=a.csv", "id=id", "out=e.parquet")
    assert code == 0, err
    assert pq.read_table(tmp_path / "e.parquet")["id"].to_pylist() == ["10", "4", "3", "2"]


def test_a_source_whose_name_is_a_number_can_be_chosen_and_weighted(script, small_model, tmp_path):
    write_pairs(tmp_path / "my_pairs")
    (tmp_path / "my_pairs/faq.csv").rename(tmp_path / "my_pairs/2020.csv")
    assert script("prepare", "data=local", "data.path=my_pairs", f"model={small_model}")[0] == 0
    start = ["stage=finetune", "data=local", f"model={small_model}", *SMALL, "out=runs/a"]
    code, _, err = script("train", *start, "sources=[2020]", "data.weights={2020: 2}")
    assert code == 0, err
