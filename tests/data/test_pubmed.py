"""PubMed XML: articles with title and abstract."""

import gzip
import itertools
import tracemalloc
from pathlib import Path
from xml.sax.saxutils import escape

import pytest
from conftest import pairs_of, reasons_of, records_of, shared_dir
from lxml import etree

from gte.data.formats.pubmed import without_brackets
from gte.data.records import Pair
from gte.data.sources import Source

PUBMED = Source("p", "academic", ("pretrain",), "pubmed", query="title", document="abstract")
HEAD = """<?xml version="1.0" encoding="utf-8"?>
<!DOCTYPE PubmedArticleSet PUBLIC "-//NLM//DTD PubMedArticle//EN" "http://127.0.0.1:9/pubmed.dtd">
"""


def article(title: str | None = "Title", *parts: str, inner: str = "") -> str:
    title = "" if title is None else f"<ArticleTitle>{title}</ArticleTitle>"
    texts = "".join(part if part.startswith("<") else f"<AbstractText>{part}</AbstractText>" for part in parts)
    abstract = f"<Abstract>{texts}<CopyrightInformation>(c)</CopyrightInformation></Abstract>" if parts else ""
    return (
        "<PubmedArticle>\n <MedlineCitation Status='MEDLINE'>\n  <PMID Version='1'>1</PMID>\n"
        f"  <Article PubModel='Print'><Journal><Title>Journal</Title></Journal>{title}{abstract}{inner}</Article>\n"
        "  <OtherAbstract><AbstractText>Autre</AbstractText></OtherAbstract>\n </MedlineCitation>\n</PubmedArticle>"
    )


def write_set(path: Path, articles: list[str], *, head: str = HEAD, between: str = "\n", end="</PubmedArticleSet>\n"):
    text = f"{head}<PubmedArticleSet>{between}{between.join(articles)}{between}{end}".encode(errors="surrogateescape")
    path.write_bytes(gzip.compress(text) if path.suffix == ".gz" else text)
    return path


def rows_of(found: list[tuple]) -> dict[str, list[int]]:
    return {reason: [row for _, row in where] for reason, where in reasons_of(found).items()}


@pytest.mark.parametrize("name", ["a.xml", "a.xml.gz"])
@pytest.mark.parametrize("between", ["\n", "", "\n\n  "])
def test_titles_and_abstracts_are_put_together_from_their_parts(tmp_path, name, between):
    label = '<AbstractText Label="METHODS" NlmCategory="METHODS">We\n  did.</AbstractText>'
    articles = [
        article("A  <i>B</i>\n &amp; C&#946;<sub>2</sub>.", "One <b>two</b>\n three."),
        article("[Translated title].", "Ein &lt; zwei."),
        article("Labelled", '<AbstractText Label="AIM">Why.</AbstractText>', label, "<AbstractText Label='X'/>"),
    ]
    found = records_of(PUBMED, write_set(tmp_path / name, articles, between=between))
    assert pairs_of(found) == [
        Pair("A B & Cβ2.", "One two three.", 1), Pair("Translated title", "Ein < zwei.", 2),
        Pair("Labelled", "AIM: Why.\nMETHODS: We did.", 3),
    ]  # fmt: skip
    assert len(found) == 3


TITLES = [  # as MEDLINE has them: brackets around a translated title, others within one that is not
    ("[The treatment of cancer].", "The treatment of cancer"), ("[A title]", "A title"), ("[A. B].", "A. B"),
    ("[3H]imipramine binding in platelets [corrected].", "[3H]imipramine binding in platelets [corrected]."),
    ("[Title]. [Part].", "[Title]. [Part]."), ("[125I]-LSD [letter]", "[125I]-LSD [letter]"),
    ("[[3H]imipramine in platelets [letter]].", "[3H]imipramine in platelets [letter]"), ("[Ca2+]i.", "[Ca2+]i."),
    ("[A [b [c]] d]", "A [b [c]] d"), ("[Open.", "[Open."), ("A [b].", "A [b]."), ("[a] and b]", "[a] and b]"),
    ("]a[", "]a["), ("[a]b[c]", "[a]b[c]"), ("[ A ].", "A"), ("[A..", "[A.."), ("[Not available in Europe].",
     "Not available in Europe"),
]  # fmt: skip


@pytest.mark.parametrize(("raw", "title"), TITLES)
def test_only_brackets_that_enclose_a_title_are_taken_off_it(tmp_path, raw, title):
    (pair,) = pairs_of(records_of(PUBMED, write_set(tmp_path / "a.xml", [article(raw, "Text")])))
    assert pair.query == title


def test_the_brackets_that_enclose_a_title_are_those_that_a_parser_pairs():
    """Oracle: a stack, over all texts of six characters."""
    for letters in itertools.product("[]a.", repeat=6):
        title, opened, closes = "".join(letters), [], {}
        for place, letter in enumerate(title):
            if letter == "[":
                opened.append(place)
            elif letter == "]" and opened:
                closes[opened.pop()] = place
        inner = title.removesuffix(".")
        enclosed = closes.get(0) == len(inner) - 1 and inner[0] == "["
        assert without_brackets(title) == (inner[1:-1] if enclosed else title), title


FAULTS = [
    (article("[title missing]", "Text"), "filtered: article without a title"),
    (article("[No title available].", "Text"), "filtered: article without a title"),
    (article("[In process citation]", "Text"), "filtered: article without a title"),
    (article("[].", "Text"), "filtered: article without a title"),
    (article("Title"), "filtered: article without an abstract"),
    (article("Title", " "), "filtered: article without an abstract"),
    (article(None, "Text"), "filtered: article without a title"),
    (article("[Not Available].", "Text"), "filtered: article without a title"),
    (article("&b;", "Text"), "entity refused"),
    (article("Title", "a < b"), "malformed XML"),
    (article("Title", "Text", inner="<Open>"), "malformed XML"),
    (article("Title", "\udcff"), "invalid UTF-8"),
    (article("Title", "Text").removesuffix("</PubmedArticle>"), "truncated record"),
    ("</PubmedArticle>", "malformed XML"),
    (article("Title", "x" * (17 * 2**20)), "line over 16,777,216 bytes"),
    (article("Title", *["x" * 2**20 + "\n"] * 17), "record over 16,777,216 bytes"),
]


@pytest.mark.parametrize(("odd", "reason"), FAULTS)
def test_a_faulty_article_is_counted_and_costs_no_other(tmp_path, odd, reason):
    good = article("Good", "Text")
    found = records_of(PUBMED, write_set(tmp_path / "a.xml", [good, odd, good]))
    last = 2 if odd == "</PubmedArticle>" else 3
    assert pairs_of(found) == [Pair("Good", "Text", 1), Pair("Good", "Text", last)]
    assert rows_of(found) == {reason: [2 if last == 3 else 1]}


def test_entity_bombs_and_outside_files_are_refused_and_cost_no_memory(tmp_path):
    secret = tmp_path / "secret.txt"
    secret.write_text("never read")
    levels = "".join(f'<!ENTITY e{n} "{f"&e{n - 1};" * 10}">' for n in range(1, 10))
    levels = f'<!ENTITY e0 "{"boom" * 100}">{levels}<!ENTITY f SYSTEM "{secret.as_uri()}">'
    head = f'<?xml version="1.0"?>\n<!DOCTYPE x [{levels}]>\n'
    articles = [article("Good", "Text"), article("&e9;", "Text"), article("Title", "&f;"), article("Title", "&amp;")]
    tracemalloc.start()
    found = records_of(PUBMED, write_set(tmp_path / "a.xml", articles, head=head))
    assert tracemalloc.get_traced_memory()[1] < 2**22
    tracemalloc.stop()
    assert pairs_of(found) == [Pair("Good", "Text", 1), Pair("Title", "&", 4)]
    assert rows_of(found) == {"entity refused": [2, 3]}


def test_an_article_of_100_mb_is_rejected_without_being_held(tmp_path):
    def lines():
        yield f"{HEAD}<PubmedArticleSet>\n{article('Good', 'Text')}\n".encode()
        yield b"<PubmedArticle>\n"
        for _ in range(100_000):
            yield b"<AbstractText>" + b"x" * 1_000 + b"</AbstractText>\n"
        yield f"</PubmedArticle>\n{article('Good', 'Text')}\n</PubmedArticleSet>".encode()

    with gzip.open(tmp_path / "a.xml.gz", "wb", compresslevel=1) as file:
        file.writelines(lines())
    tracemalloc.start()
    found = records_of(PUBMED, tmp_path / "a.xml.gz")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert [pair.row for pair in pairs_of(found)] == [1, 3] and peak < 3 * 2**24
    assert rows_of(found) == {"record over 16,777,216 bytes": [2]}


def test_a_cut_file_says_so_and_gives_the_articles_before_the_cut(tmp_path):
    articles = [article(f"Title {number}", escape(f"<{number}> " * 9)) for number in range(200)]
    whole = write_set(tmp_path / "a.xml", articles).read_bytes()
    for cut in (len(whole) // 2, whole.index(b"<PubmedArticle>", 20_000), whole.rindex(b"</PubmedArticleSet")):
        (tmp_path / "a.xml").write_bytes(whole[:cut])
        found = records_of(PUBMED, tmp_path / "a.xml")
        complete = whole[:cut].count(b"</PubmedArticle>")
        begun = whole[:cut].count(b"<PubmedArticle>")
        assert [pair.row for pair in pairs_of(found)] == list(range(1, complete + 1)) and complete > 20
        assert rows_of(found) == {"truncated record" if begun > complete else "truncated file": [begun]}
    packed = gzip.compress(whole)
    (tmp_path / "a.xml.gz").write_bytes(packed[: len(packed) // 2])
    found = records_of(PUBMED, tmp_path / "a.xml.gz")
    assert rows_of(found).keys() == {"damaged archive"} and len(pairs_of(found)) > 20


@pytest.mark.parametrize("text", ["", "<html/>", "<PubmedArticleSet></PubmedArticleSet>"])
def test_a_file_without_an_article_is_a_rejection_and_not_silence(tmp_path, text):
    (tmp_path / "a.xml").write_text(text)
    assert rows_of(records_of(PUBMED, tmp_path / "a.xml")) == {"no PubmedArticle": [0]}


def test_a_real_article_has_the_title_and_the_text_of_its_own_markup():
    path = shared_dir("data/raw_samples/pubmed_xml") / "pubmed-29768149.xml"
    (pair,) = pairs_of(records_of(PUBMED, path))
    tree = etree.parse(path)
    texts = [
        " ".join(f"{one.get('Label')}: {one.xpath('string()')}".split()) for one in tree.findall(".//AbstractText")
    ]
    assert pair.query == tree.findtext(".//ArticleTitle") and pair.document.splitlines() == texts and len(texts) == 4
