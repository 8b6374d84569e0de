"""Every raw form that a source of data=pretrain and data=finetune may have, as files written here and their texts."""

import gzip
import io
import json
import zipfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import zstandard

Texts = list[tuple]  # (query, document) or (query, document, negatives)


def lines(*rows) -> bytes:
    return "".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows).encode()


def tsv(*rows) -> bytes:
    return "".join("\t".join(row) + "\n" for row in rows).encode()


def gz(*rows) -> bytes:
    return gzip.compress(lines(*rows))


def zst(*rows) -> bytes:
    return zstandard.compress(lines(*rows))


def zipped(members: dict[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return stream.getvalue()


def named(query: str, document: str, **others) -> list[dict]:
    """The rows of PAIR by these names."""
    return [{query: f"q{i}", document: f"d{i}", **others} for i in (1, 2)]


def parquet_of(rows: list[dict]) -> bytes:
    stream = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), stream)
    return stream.getvalue()


def parquet(query: str, document: str) -> dict[str, bytes]:
    return {"train-00000-of-00001.parquet": parquet_of(named(query, document))}


def warc(*pages: str) -> bytes:
    """WARC records of HTML responses, each a gzip member."""
    records = b""
    for page in pages:
        block = f"HTTP/1.1 200 OK\r\nContent-Type: text/html; charset=utf-8\r\n\r\n{page}".encode()
        head = "WARC/1.0\r\nWARC-Type: response\r\nWARC-Target-URI: http://x.org/\r\n"
        head += f"Content-Type: application/http; msgtype=response\r\nContent-Length: {len(block)}\r\n\r\n"
        records += gzip.compress(head.encode() + block + b"\r\n\r\n")
    return records


def wet(title: str, text: str) -> bytes:
    block = f"{title}\n{text}".encode()
    head = "WARC/1.0\r\nWARC-Type: conversion\r\nWARC-Identified-Content-Language: eng\r\nContent-Type: text/plain\r\n"
    return gzip.compress(f"{head}Content-Length: {len(block)}\r\n\r\n".encode() + block + b"\r\n\r\n")


def posts(*rows: dict) -> bytes:
    """A Posts.xml of a Stack Exchange dump."""
    attributes = ("".join(f' {name}="{value}"' for name, value in row.items()) for row in rows)
    body = "".join(f"  <row{each} />\n" for each in attributes)
    return f'<?xml version="1.0" encoding="utf-8"?>\n<posts>\n{body}</posts>\n'.encode()


def dpr(**names) -> list[dict]:
    """Two questions, of which the second has no positive passage and the first two, in DPR's names or others."""
    query, positive, negative = names.get("query", "question"), names.get("positive"), names.get("negative")
    contexts = [{"title": "t", "text": "d1", "score": 1.5}, {"title": "", "text": "d2"}]
    first = {query: "q1", "answers": ["a"], positive: contexts, negative: [{"title": "", "text": "n1"}]}
    return [first, {query: "q2", "answers": ["a"], positive: [], negative: []}]


PAIR, TRIPLE = [("q1", "d1"), ("q2", "d2")], [("q1", "d1", ["n1"])]
LISTS, TEXTS = gz(["q1", "d1"], ["q2", "d2"]), gz({"text": ["q1", "d1"], "tags": []}, {"text": ["q2", "d2"]})
PAGE = f"<html><head><title>q1</title></head><body><main><p>{'A sentence of the page. ' * 20}</p></main></body></html>"
PAGE_PAIR = [("q1", ("A sentence of the page. " * 20).strip())]
CORPUS = lines(
    {"_id": "1", "title": "q1", "text": "d1", "metadata": {}}, {"_id": "2", "title": "q2", "text": "d2"},
    {"_id": "2", "title": "q2", "text": "another"}, {"_id": "3", "title": "", "text": "d3"},
)  # fmt: skip
HLP = dpr(positive="positive_ctxs", negative="hard_negative_ctxs")
TEVATRON = dpr(query="query", positive="positive_passages", negative="negative_passages")
ONE_PASSAGE = [("q1", "t: d1", ["n1"])]
TITLE, BODY = "how to sort a list of words", "I have a list of words and want them sorted"
QUESTION = {"Id": "1", "PostTypeId": "1", "Score": "3", "Title": TITLE, "Body": f"&lt;p&gt;{BODY}&lt;/p&gt;"}
ANSWER = {"Id": "2", "PostTypeId": "2", "ParentId": "1", "Score": "5", "Body": "&lt;p&gt;call sorted&lt;/p&gt;"}
CLAIM = {
    "id": 1,
    "verifiable": "VERIFIABLE",
    "label": "SUPPORTS",
    "claim": "q1",
    "evidence": [[[1, 2, "A_-LRB-b-RRB-", 0]]],
}
NLI = [
    {"gold_label": label, "sentence1": premise, "sentence2": sentence, "pairID": "x"}
    for label, premise, sentence in (
        ("entailment", "q1", "d1"), ("neutral", "q1", "x"), ("contradiction", "q1", "n1"), ("-", "q1", "y"),
        ("entailment", "q2", "d2"), ("contradiction", "q3", "n3"),
    )
]  # fmt: skip
HOTPOT = {
    "_id": "1", "question": "q1", "supporting_facts": [["t", 0], ["u", 1]],
    "context": [["t", ["One.", " Two."]], ["v", ["No."]], ["u", ["Three."]]],
}  # fmt: skip
HOTPOT_COLUMNS = {
    "id": "1", "question": "q1", "supporting_facts": {"title": ["t", "u"], "sent_id": [0, 1]},
    "context": {"title": ["t", "v", "u"], "sentences": [["One.", " Two."], ["No."], ["Three."]]},
}  # fmt: skip
HOTPOT_PARQUET = parquet_of([HOTPOT_COLUMNS, {**HOTPOT_COLUMNS, "question": "again"}])
HOTPOT_TEXTS = [("q1", "t: One. Two.", ["v: No."]), ("q1", "u: Three.", ["v: No."])]
FUNCTION = 'def f(x):\n    """Add one to a number.\n\n    Slowly."""\n    return x + 1\n'
CODE = [
    {"docstring": "Add one to a number.\n\n    Slowly.", "code": FUNCTION, "language": "python", "partition": "train"},
    {"docstring": "// F adds\n// one.", "code": "func F() {}", "language": "go", "partition": "train"},
    {"docstring": "A test function.", "code": "def g(): pass", "language": "python", "partition": "test"},
]
PUBMED = b"""<?xml version="1.0"?><PubmedArticleSet><PubmedArticle><MedlineCitation><PMID>1</PMID><Article>
<ArticleTitle>q1</ArticleTitle><Abstract><AbstractText>d1</AbstractText></Abstract></Article></MedlineCitation>
</PubmedArticle></PubmedArticleSet>"""
REPLY = {"id": "c", "parent_id": "t3_p", "link_id": "t3_p", "body": "d1", "author": "x", "score": 1}
TITLE_LONG, BODY_LONG = "a title of more than 25 characters", "a body that is longer than its title, " * 3
POST = {"id": "p", "title": TITLE_LONG, "selftext": BODY_LONG, "author": "x", "score": 9, "num_comments": 5}

# source, or source and place in its forms -> its raw files, and the texts that they give
RAW: dict[str | tuple[str, int], tuple[dict[str, bytes], Texts]] = {
    # web pages
    "commoncrawl_ccnet2019": (
        {"2019-09/en_head_0000.json.gz": gz(
            {"title": "q1", "raw_content": "q1\nd1", "language": "en"}, named("title", "raw_content", language="en")[1],
            {"title": "q3", "raw_content": "d3", "language": "de"},
        )}, PAIR,
    ),
    ("commoncrawl_ccnet2019", 0): ({"x.warc.gz": warc(PAGE)}, PAGE_PAIR),
    ("commoncrawl_ccnet2019", 1): ({"x.warc.wet.gz": wet("q1", "d1") + wet("q2", "d2")}, PAIR),
    "clueweb": (
        {"en/en00/en0000/en0000-00.json.gz": gz(
            *({"URL": "u\n", "Language": "en", "Clean-Text": f"q{i}\nd{i}"} for i in (1, 2))
        )}, PAIR,
    ),
    ("clueweb", 0): ({"en0000/00.warc.gz": warc(PAGE)}, PAGE_PAIR),
    "msmarco_documents": (
        {"msmarco-docs.tsv.gz": gzip.compress(
            tsv(("D1", "u", "q1", "d1"), ("D2", "u", "q2", "d2"), ("D3", "u", ".", "d"), ("D2", "u", "again", "d"))
        )}, PAIR,
    ),
    # academic papers
    "s2orc_title_abstract": ({"S2ORC_title_abstract.jsonl.gz": LISTS}, PAIR),
    ("s2orc_title_abstract", 0): (parquet("title", "abstract"), PAIR),
    "arxiv": (
        {"arxiv-metadata-oai-snapshot.json": lines(
            {"id": "1", "title": "q\n  1", "abstract": "  d1\n"}, {"id": "2", "title": "q2", "abstract": "d2"},
        )}, [("q 1", "d1"), ("q2", "d2")],
    ),
    **{server: (
        {"0.json": json.dumps({"messages": [], "collection": [
            {"doi": "10.1/a", "version": "1", "title": "old", "abstract": "old"},
            {"doi": "10.1/b", "version": "1", "title": "q2", "abstract": "d2"},
        ]}).encode(),
         "100.json": json.dumps({"messages": [], "collection": [
            {"doi": "10.1/A", "version": "2", "title": "q1", "abstract": "d1"},
        ]}).encode()}, PAIR,
    ) for server in ("biorxiv", "medrxiv")},
    "pubmed_beir": ({"trec-covid.zip": zipped({"trec-covid/corpus.jsonl": CORPUS})}, PAIR),
    ("pubmed_beir", 0): ({"pubmed24n0001.xml.gz": gzip.compress(PUBMED)}, PAIR[:1]),
    ("pubmed_beir", 1): ({"pubmed24n0001.xml": PUBMED}, PAIR[:1]),
    # hyperlinks
    "clueweb_anchors": (
        {"anchor.tsv": lines({"url": "http://a.org/", "urlhash": "h", "language": "en", "anchors": [
            ["http://b.org/", "g", "an anchor", "0", "en"], ["http://b.org/", "g", "home", "0", "en"]]}),
         "web_corpus.tsv": lines(
             {"Url": "http://a.org/", "UrlHash": "h", "Language": "en", "Title": "T", "Primary": "text"})},
        [("an anchor", "T\ntext")],
    ),
    "wikipedia_dual_link": ({"dl_10m.jsonl": lines(*HLP)}, [("q1", "t: d1"), ("q1", "d2")]),
    "wikipedia_co_mention": ({"cm_10m.json": json.dumps(HLP).encode()}, [("q1", "t: d1"), ("q1", "d2")]),
    "s2orc_citations": ({"S2ORC_citations_titles.jsonl.gz": LISTS}, PAIR),
    ("s2orc_citations", 0): (parquet("title", "citation"), PAIR),
    # social media
    "reddit_title_body": (
        {"reddit_title_text_2010.jsonl.gz": gz(*named("title", "body", subreddit="s"))}, PAIR,
    ),
    ("reddit_title_body", 0): ({"RS_2010-01.zst": zst(POST)}, [(TITLE_LONG, BODY_LONG.strip())]),
    "reddit_post_comment": (
        {"RS_2010-01.zst": zst({**POST, "title": "q1", "selftext": ""}), "RC_2010-01.zst": zst(REPLY)}, PAIR[:1],
    ),
    # knowledge bases
    "wikipedia_atlas": (
        {"enwiki-dec2021/text-list-100-sec.jsonl": lines(
            {"id": "1", "title": "q", "section": "s", "text": "d1"}, named("title", "text", section="")[1],
        )}, [("q: s", "d1"), ("q2", "d2")],
    ),
    "dbpedia": ({"dbpedia-entity/corpus.jsonl": CORPUS}, PAIR),
    # community QA
    "stackexchange_title_body": ({"coffee.stackexchange.com.jsonl.gz": TEXTS}, PAIR),
    ("stackexchange_title_body", 0): ({"coffee/Posts.xml": posts(QUESTION)}, [(TITLE, BODY)]),
    "stackexchange_titlebody_answer": (
        {"coffee.jsonl.gz": gz(*named("title_body", "upvoted_answer"))}, PAIR,
    ),
    ("stackexchange_titlebody_answer", 0): (
        {"Posts.xml": posts(QUESTION, ANSWER)}, [(f"{TITLE}\n{BODY}", "call sorted")],
    ),
    "yahoo_title_answer": (
        {"yahoo_answers_title_answer.jsonl.gz": gz(["q1", "d<br />1\\n2"])}, [("q1", "d\n1\n2")],
    ),
    "yahoo_title_question": ({"yahoo_answers_title_question.jsonl.gz": LISTS}, PAIR),
    "yahoo_question_answer": ({"yahoo_answers_question_answer.jsonl.gz": LISTS}, PAIR),
    ("yahoo_title_answer", 0): (parquet("title", "answer"), PAIR),
    ("yahoo_title_question", 0): (parquet("title", "question"), PAIR),
    ("yahoo_question_answer", 0): (parquet("question", "answer"), PAIR),
    "wikihow": ({"wikihow.jsonl.gz": LISTS}, PAIR),
    ("wikihow", 0): (parquet("summary", "text"), PAIR),
    ("wikihow", 1): (
        {"wikihowAll.csv": b'"headline","title","text"\n"q\n1","How","d1"\n"q2","How","d ""2"""\n'},
        [("q\n1", "d1"), ("q2", 'd "2"')],
    ),
    "amazon_qa": ({"amazon-qa.jsonl.gz": gz({"query": "q1", "pos": ["d1", "e1"]})}, [("q1", "d1"), ("q1", "e1")]),
    ("amazon_qa", 0): (parquet("query", "answer"), PAIR),
    ("amazon_qa", 1): (
        {"qa_Baby.json.gz": gz("{'asin': 'x', 'question': \"q'1\", 'answer': u'd1'}")}, [("q'1", "d1")],
    ),
    # news
    "ccnews": ({"ccnews_title_text.jsonl.gz": LISTS}, PAIR),
    ("ccnews", 0): (parquet("title", "article"), PAIR),
    ("ccnews", 1): ({"CC-NEWS-1.warc.gz": warc(PAGE)}, PAGE_PAIR),
    "mind": (
        {"MINDsmall_train.zip": zipped({"news.tsv": tsv(
            ("N1", "c", "s", "q1", "d1", "u", "[]", "[]"), ("N2", "c", "s", "q2", "d2", "u", "[]", "[]"),
            ("N3", "c", "s", "q3", "", "u", "[]", "[]"),
        )})}, PAIR,
    ),
    "npr": ({"npr.jsonl.gz": gz(*named("title", "body"))}, PAIR),
    ("npr", 0): (parquet("title", "body"), PAIR),
    "cnn_dailymail": ({"cnn_dailymail.jsonl.gz": gz(["q1", "(CNN) -- d1"], ["q2", "d2"])}, PAIR),
    ("cnn_dailymail", 0): (parquet("highlights", "article"), PAIR),
    "agnews": ({"agnews.jsonl.gz": LISTS}, PAIR),
    ("agnews", 0): (parquet("title", "description"), PAIR),
    # code
    "codesearchnet": ({"codesearchnet.jsonl.gz": LISTS}, PAIR),
    ("codesearchnet", 0): (parquet("comment", "code"), PAIR),
    ("codesearchnet", 1): (
        {"python.zip": zipped({"python/final/jsonl/train/python_train_0.jsonl.gz": gz(*CODE)})},
        [("Add one to a number.\n\n    Slowly.", "def f(x):\n    return x + 1"), ("F adds\none.", "func F() {}")],
    ),
    "stackoverflow": ({"stackoverflow.com-Posts.jsonl.gz": TEXTS}, PAIR),
    ("stackoverflow", 0): ({"Posts.xml": posts(QUESTION, ANSWER)}, [(TITLE, BODY)]),
    # others
    "amazon_reviews": ({"amazon_review_2018.jsonl.gz": LISTS}, PAIR),
    ("amazon_reviews", 0): (parquet("title", "review"), PAIR),
    ("amazon_reviews", 1): ({"Books.json.gz": gz(*named("summary", "reviewText", overall=5.0))}, PAIR),
    "debate_args": ({"webis-touche2020.zip": zipped({"webis-touche2020/corpus.jsonl": CORPUS})}, PAIR),
    "gooaq": ({"gooaq_pairs.jsonl.gz": LISTS}, PAIR),
    ("gooaq", 0): (parquet("question", "answer"), PAIR),
    ("gooaq", 1): (
        {"gooaq.jsonl": lines(
            {"id": 1, "question": "q1", "answer": "d1"}, {"id": 3, "question": "q3", "answer": None},
        )}, PAIR[:1],
    ),
    # fine-tuning
    "msmarco": ({"msmarco-triplets.jsonl.gz": gz({"query": "q1", "pos": ["d1"], "neg": ["n1"]})}, TRIPLE),
    ("msmarco", 0): ({"train.jsonl.gz": gz(*TEVATRON)}, [("q1", "t: d1", ["n1"]), ("q1", "d2", ["n1"])]),
    ("msmarco", 1): ({"triples.train.small.tsv": tsv(("q1", "d1", "n1"))}, TRIPLE),
    "nq": ({"biencoder-nq-train.json.gz": gzip.compress(json.dumps(HLP, indent=4).encode())}, ONE_PASSAGE),
    ("nq", 0): ({"train.jsonl.gz": gz(*TEVATRON)}, ONE_PASSAGE),
    "triviaqa": ({"biencoder-trivia-train.json": json.dumps(HLP).encode()}, ONE_PASSAGE),
    ("triviaqa", 0): ({"train.jsonl.gz": gz(*TEVATRON)}, ONE_PASSAGE),
    "webquestions": ({"train.jsonl.gz": gz(*TEVATRON)}, ONE_PASSAGE),
    "hotpotqa": (
        {"hotpot_train_v1.1.json": json.dumps([HOTPOT, {**HOTPOT, "question": "again"}], indent=1).encode()},
        HOTPOT_TEXTS,
    ),
    ("hotpotqa", 0): ({"distractor/train/0000.parquet": HOTPOT_PARQUET}, HOTPOT_TEXTS),
    "nli": ({"nli_for_simcse.csv": b'sent0,sent1,hard_neg\nq1,d1,n1\n'}, TRIPLE),
    ("nli", 0): (
        {"snli_1.0.zip": zipped({
            "snli_1.0/snli_1.0_train.jsonl": lines(*NLI), "snli_1.0/snli_1.0_dev.jsonl": b"not read",
            "__MACOSX/snli_1.0/._snli_1.0_train.jsonl": b"an icon",
        })}, TRIPLE,
    ),
    "fever": (
        {"train.jsonl": lines(CLAIM, {**CLAIM, "label": "REFUTES"}), "paper_dev.jsonl": b"not read",
         "wiki-pages.zip": zipped({"wiki-pages/wiki-001.jsonl": lines(
             {"id": "", "text": "", "lines": ""}, {"id": "A_-LRB-b-RRB-", "text": "d -LSB-1-RSB-", "lines": ""})})},
        [("q1", "A (b): d [1]")],
    ),
    "quora": ({"quora_duplicates_triplets.jsonl.gz": gz({"query": "q1", "pos": ["d1"], "neg": ["n1"]})}, TRIPLE),
    ("quora", 0): (
        {"quora_duplicate_questions.tsv": tsv(
            ("id", "qid1", "qid2", "question1", "question2", "is_duplicate"), ("0", "1", "2", "q1", "d1", "1"),
            ("1", "3", "4", "q3", "d3", "0"), ("2", "5", "6", '"q2"', "d2", "1"),
        )}, PAIR,
    ),
    "stackexchange_duplicates": ({"stackexchange_duplicate_questions_title_title.jsonl.gz": LISTS}, PAIR),
    ("stackexchange_duplicates", 0): (parquet("title1", "title2"), PAIR),
    "medi": (
        {"medi-data.json": json.dumps([
            {name: ["Represent it: ", text, 1] for name, text in (("query", "q1"), ("pos", "d1"), ("neg", "n1"))}
        ]).encode()}, TRIPLE,
    ),
    "berri": ({"berri.jsonl": lines({"query": "q1", "pos": ["d1"], "neg": ["n1"]})}, TRIPLE),
}  # fmt: skip


def write(folder: Path, files: dict[str, bytes]) -> None:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
