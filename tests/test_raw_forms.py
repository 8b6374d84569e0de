"""Every source of web, academic, hyperlink, social and knowledge texts, and of Stack Exchange: from a folder of its raw
files, in each form that its configuration names, to a prepared folder by the command that the README gives."""

import gzip
import json
import os
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from conftest import ROOT, records_of

from gte.data import pairs as engine
from gte.data.pairs import make_pairs
from gte.data.shards import Manifest
from gte.data.sources import load_source, locate
from gte.errors import UserError

BODY = "&lt;p&gt;I have tried to do it.&lt;/p&gt;"
QUESTION = f"<row Id='1' PostTypeId='1' Score='1' Title='How does one do this?' Body='{BODY}'/>"
ANSWER = "<row Id='2' PostTypeId='2' ParentId='1' Score='4' Body='&lt;p&gt;Like this.&lt;/p&gt;'/>"
POSTS = f"<posts>\n{QUESTION}\n{ANSWER}\n</posts>\n"
HTML = "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n\r\n<title>Title</title><main><p>" + "All of the text. " * 9
PUBMED = (
    "<PubmedArticleSet><PubmedArticle><Article><ArticleTitle>Title</ArticleTitle><Abstract><AbstractText>Abstract"
    "</AbstractText></Abstract></Article></PubmedArticle></PubmedArticleSet>"
)
LONG = "A post of its own, longer than its title by a good many characters."


def lines(*values) -> str:
    return "".join(json.dumps(value) + "\n" for value in values)


def warc(kind: str, text: str) -> str:
    head = f"WARC/1.0\r\nWARC-Type: {kind}\r\nWARC-Identified-Content-Language: eng\r\n"
    return f"{head}Content-Type: application/http\r\nContent-Length: {len(text)}\r\n\r\n{text}\r\n\r\n"


def page_of(server: str) -> dict:
    row = {"doi": "10.1/x", "title": "Title", "server": server}
    versions = [{**row, "version": f"{n}", "abstract": f"Abstract {n}"} for n in (1, 2)]
    return {"messages": [], "collection": versions}


ARTICLE = ("All of the text. " * 9).strip()
PASSAGE = {"id": "1", "title": "Title", "section": "Section", "text": "Passage"}
# source: for each of its forms, files and the pair in them
FORMS: dict[str, list[tuple[dict, tuple[str, str]]]] = {
    "commoncrawl_ccnet2019": [
        ({"2019-09/en_head.json.gz": lines({"title": "T", "raw_content": "T\nText", "language": "en"})}, ("T", "Text")),
        ({"segment/CC-MAIN-1.warc.gz": warc("response", HTML)}, ("Title", ARTICLE)),
        ({"segment/CC-MAIN-1.warc.wet.gz": warc("conversion", "Title\nText\n")}, ("Title", "Text")),
    ],
    "clueweb": [
        ({"en/en00/en0000/en0000-00.json.gz": lines({"Language": "en", "Clean-Text": "T\nText"})}, ("T", "Text")),
        ({"en0000/00.warc.gz": warc("response", HTML)}, ("Title", ARTICLE)),
    ],
    "msmarco_documents": [({"msmarco-docs.tsv.gz": "D1\thttp://x\tT\tText\nD2\thttp://x\t.\tText\n"}, ("T", "Text"))],
    "s2orc_title_abstract": [
        ({"S2ORC_title_abstract.jsonl.gz": lines(["Title", "Abstract"])}, ("Title", "Abstract")),
        ({"title-abstract-pair/train-0.parquet": {"title": ["T"], "abstract": ["Abstract"]}}, ("T", "Abstract")),
    ],
    "arxiv": [
        ({"arxiv-metadata-oai-snapshot.json": lines({"title": "A\n  title", "abstract": " Of\nit"})},
         ("A title", "Of it")),
    ],
    "biorxiv": [({"2020/0.json": json.dumps(page_of("bioRxiv"))}, ("Title", "Abstract 2"))],
    "medrxiv": [({"0.json": json.dumps(page_of("medRxiv"))}, ("Title", "Abstract 2"))],
    "pubmed_beir": [
        ({"trec-covid/corpus.jsonl": lines({"_id": "a", "title": "T", "text": "Text"}, {"title": "T", "text": ""})},
         ("T", "Text")),
        ({"baseline/pubmed24n0001.xml.gz": PUBMED}, ("Title", "Abstract")),
        ({"efetch.xml": PUBMED}, ("Title", "Abstract")),
    ],
    "clueweb_anchors": [
        ({"web_corpus.tsv": lines({"UrlHash": "A", "Url": "http://a.org", "Title": "T", "Primary": "T\nText"}),
          "anchor.tsv": lines({"urlhash": "A", "url": "http://a.org", "language": "en",
                               "anchors": [["http://b.org", "B", "about a", "", "en"]]})},
         ("about a", "T\nText")),
    ],
    "s2orc_citations": [
        ({"S2ORC_citations_titles.jsonl.gz": lines(["Title", "Cited"])}, ("Title", "Cited")),
        ({"train.parquet": {"title": ["T"], "citation": [["Cited"]]}}, ("T", "Cited")),
    ],
    "reddit_title_body": [
        ({"reddit_title_text_2015.jsonl.gz": lines({"title": "T", "body": "B", "subreddit": "s"})}, ("T", "B")),
        ({"submissions/RS_2015-01.zst": lines({"title": "A title that is long enough", "selftext": LONG, "score": 3})},
         ("A title that is long enough", LONG)),
    ],
    "reddit_post_comment": [
        ({"RS_2015-01.zst": lines({"id": "p", "title": "T", "selftext": "S"}),
          "RC_2015-01.zst": lines({"id": "c", "parent_id": "t3_p", "body": "B"})},
         ("T\nS", "B")),
    ],
    "wikipedia_atlas": [
        ({"enwiki-dec2021/text-list-100-sec.jsonl": lines(PASSAGE)}, ("Title: Section", "Passage")),
    ],
    "dbpedia": [({"dbpedia-entity/corpus.jsonl.gz": lines({"_id": "a", "title": "T", "text": "Text"})}, ("T", "Text"))],
    "stackexchange_title_body": [
        ({"coffee.stackexchange.com.jsonl.gz": lines({"text": ["T", "B"], "tags": []})}, ("T", "B")),
        ({"coffee/Posts.xml": POSTS}, ("How does one do this?", "I have tried to do it.")),
    ],
    "stackexchange_titlebody_answer": [
        ({"coffee.jsonl.gz": lines({"title_body": "T B", "upvoted_answer": "A"})}, ("T B", "A")),
        ({"coffee/Posts.xml": POSTS}, ("How does one do this?\nI have tried to do it.", "Like this.")),
    ],
    "stackoverflow": [
        ({"stackoverflow.com-Posts.jsonl.gz": lines({"text": ["T", "B"], "tags": []})}, ("T", "B")),
        ({"Posts.xml": POSTS}, ("How does one do this?", "I have tried to do it.")),
    ],
    "ccnews": [
        ({"ccnews_title_text.jsonl.gz": lines(["T", "B"])}, ("T", "B")),
        ({"CC-NEWS-2016.warc.gz": warc("response", HTML)}, ("Title", ARTICLE)),
    ],
}  # fmt: skip


def write_raw(folder: Path, files: dict) -> None:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, dict):
            pq.write_table(pa.table(content), path)
        elif path.suffix == ".gz":
            path.write_bytes(gzip.compress(content.encode()))
        else:
            path.write_bytes(zstandard.compress(content.encode()) if path.suffix == ".zst" else content.encode())


def test_every_form_that_a_source_names_is_tried_here():
    for name, forms in FORMS.items():
        assert len(forms) == 1 + len(load_source(name).forms), name


@pytest.mark.parametrize("form", [0, 1, 2])
def test_a_folder_of_raw_files_becomes_a_prepared_one(script, small_model, tmp_path, form):
    chosen = {name: forms[form] for name, forms in FORMS.items() if len(forms) > form}
    for name, (files, _) in chosen.items():
        write_raw(tmp_path / "raw" / name, files)
    code, _, err = script(
        "prepare", "data=pretrain", f"data.sources=[{','.join(chosen)}]", f"data.tokenizer={small_model}",
        f"paths.raw={tmp_path / 'raw'}", f"data.dir={tmp_path / 'out'}", "data.max_rejected=0",
    )  # fmt: skip
    assert code == 0, err
    manifest = Manifest.load(tmp_path / "out")
    for name, (_, pair) in chosen.items():
        (row,) = pq.read_table(tmp_path / "out" / "pairs" / f"{name}.parquet").to_pylist()
        assert (row["query"], row["document"]) == pair, name
        facts = manifest.sources[name]
        assert facts["kept"] == 1 and facts["read"] == 1 + sum(facts["rejected"].values()), name
        assert all(reason.startswith("filtered: ") for reason in facts["rejected"])
    assert manifest.configuration["sources"]["clueweb" if form < 2 else "pubmed_beir"]["reader"] in (
        ["clueweb22"], ["warc"], ["pubmed"],
    )[form]  # fmt: skip


def test_two_forms_in_one_folder_are_refused_and_none_is_asked_for_by_all_names(tmp_path):
    source = load_source("stackexchange_title_body")
    folder = tmp_path / "stackexchange_title_body"
    write_raw(folder, {"notes.txt": "nothing"})
    with pytest.raises(UserError, match=r"no file '\*\.jsonl\.gz' or '\*\*/\*Posts\.xml\*' in"):
        locate(source.in_folder(tmp_path), tmp_path)
    write_raw(folder, {"a/Posts.xml": POSTS})
    assert source.in_folder(tmp_path).reader == "stackexchange_questions"
    write_raw(folder, {"a.jsonl.gz": ""})
    with pytest.raises(
        UserError, match=r"holds files '\*\.jsonl\.gz' and files '.*Posts\.xml\*', two forms of the same"
    ):
        source.in_folder(tmp_path)


def threads(count: int) -> dict[str, str]:
    """Posts and comments in four files; some comments equal, some without what they answer."""
    posts = [{"id": f"p{n}", "title": f"Post {n % 90}"} for n in range(100)]
    comments = [
        {
            "id": f"c{n}",
            "parent_id": f"t3_p{n % 100}" if n % 3 else f"t1_c{(7 * n + 5) % count}",
            "body": f"Body {n % 500}",
        }
        for n in range(count)
    ]
    comments += [{"id": "x", "parent_id": "t3_none", "body": "lost"}] * 3 + [{"id": "y", "parent_id": 3, "body": "b"}]
    comments += [{"id": "z", "parent_id": "t3_p1", "body": "[deleted]"}] * 5
    parts = {"RC_1": comments[::3], "RC_2": comments[1::3], "RC_3": comments[2::3], "RS_1": posts}
    return {f"{name}.zst": lines(*rows) for name, rows in parts.items()}


def joined(folder: Path, work: Path, buckets: int, monkeypatch) -> tuple:
    """(tally, pairs) of the Reddit comments in a folder."""
    source = load_source("reddit_post_comment")
    raws = locate(source, folder)
    monkeypatch.setattr(engine, "BUCKET_BYTES", 4 * sum(raw.bytes for raw in raws) // buckets)
    (work / "work").mkdir(parents=True)
    tally = make_pairs(source, raws, work / "pairs.parquet", work / "work" / "x", max_rejected=0.1)
    assert not list((work / "work").iterdir())
    return tally, pq.read_table(work / "pairs.parquet").to_pylist()


def test_a_join_accounts_for_every_row_and_hangs_on_no_number_of_buckets(tmp_path, monkeypatch):
    """Oracle: a dictionary of all texts by their names."""
    count = 3_000
    files = threads(count)
    write_raw(tmp_path / "reddit_post_comment", files)
    rows = {name: [json.loads(line) for line in text.splitlines()] for name, text in files.items()}
    texts = {f"t3_{row['id']}": row["title"] for row in rows["RS_1.zst"]}
    texts |= {f"t1_{row['id']}": row["body"] for name in rows if name[1] == "C" for row in rows[name]}
    expected: dict[tuple, tuple] = {}
    for name in sorted(rows):
        for number, row in enumerate(rows[name], 1):
            if row.get("parent_id") in texts and row["body"] != "[deleted]":
                expected.setdefault((texts[row["parent_id"]], row["body"]), (name, number))
    results = [joined(tmp_path, tmp_path / f"{buckets}", buckets, monkeypatch) for buckets in (1, 40)]
    assert results[0] == results[1]
    tally, pairs = results[0]
    assert {(row["query"], row["document"]): (row["file"], row["row"]) for row in pairs} == expected
    assert tally.rejected == {
        "filtered: deleted comment": 5, "parent not in the files": 3, "wrong type of parent_id": 1,
    }  # fmt: skip
    assert tally.read == count + 9 == tally.kept + tally.duplicates + 9 and tally.duplicates > 100


@pytest.mark.slow
def test_a_join_on_a_ray_cluster_gives_the_same_pairs(tmp_path):
    """In processes of their own: Daft's engine is chosen once."""
    pytest.importorskip("ray", reason="pip install ray")
    write_raw(tmp_path / "reddit_post_comment", threads(2_000))
    code = (
        "import sys; from pathlib import Path; from gte.data.pairs import make_pairs, use_engine\n"
        "from gte.data.sources import load_source, locate\n"
        "use_engine(sys.argv[1]); folder = Path(sys.argv[2]); work = folder / sys.argv[1]; work.mkdir()\n"
        "source = load_source('reddit_post_comment')\n"
        "print(make_pairs(source, locate(source, folder), work / 'pairs.parquet', work / 'w', max_rejected=0.1))\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    tallies = []
    for name in ("native", "ray"):
        command = [sys.executable, "-c", code, name, str(tmp_path)]
        done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
        tallies.append(done.stdout.splitlines()[-1])
    assert tallies[0] == tallies[1]
    native, ray = ((tmp_path / name / "pairs.parquet").read_bytes() for name in ("native", "ray"))
    assert native == ray


def damaged(rng: random.Random, data: bytes) -> bytes:
    """A file cut, with some bytes changed, some left out, or some put in."""
    start = rng.randrange(len(data))
    end = min(len(data), start + rng.choice([1, 1, 4, 50]))
    noise = rng.choice(
        [rng.randbytes(end - start), b"\xff", b"\\ud800", b"&e;", b"<", b'"', b"null", b"\0", b"\n", b"9" * 25]
    )
    return rng.choice([data[:start], data[:start] + noise + data[end:], data[:start] + data[end:]])


def take_rows(schema: pa.Schema, make_row: Callable, found: list[tuple]) -> None:
    """As the engine does it."""
    for file, record in found:
        cells = zip(make_row(file, record, 1)[1], schema, strict=True)
        pa.record_batch([pa.array([cell], kind.type) for cell, kind in cells], schema=schema)


@pytest.mark.parametrize("name", FORMS)
def test_no_damage_raises_anything_but_what_the_user_is_told(tmp_path, name):
    """Whatever a file holds, rows come out of it that the engine can take."""
    rng = random.Random(name)
    for number, (files, _) in enumerate(FORMS[name]):
        write_raw(tmp_path / f"{number}" / name, files)
        source = load_source(name).in_folder(tmp_path / f"{number}")
        raws = locate(source, tmp_path / f"{number}")
        paths = [raw.path for raw in raws]
        whole = {path: path.read_bytes() for path in paths}
        for _ in range(60):
            path = rng.choice(paths)
            if path.suffix in (".gz", ".zst") and rng.random() < 0.8:  # of the text itself
                packed = gzip if path.suffix == ".gz" else zstandard
                path.write_bytes(packed.compress(damaged(rng, packed.decompress(whole[path]))))
            else:
                path.write_bytes(damaged(rng, whole[path]))
            try:
                if source.keyed:
                    take_rows(engine.KEYED, engine.keyed_row, [(raw.name, r) for raw in raws for r in source.read(raw)])
                take_rows(engine.PART, engine.part_row, records_of(source, *paths))
            except UserError as error:
                assert "\n" not in str(error)
            path.write_bytes(whole[path])
