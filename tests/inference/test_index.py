"""Search in a folder: every line is in a passage, the index follows the files, results are ranked by cosine."""

import itertools
import json
import os
import re
import runpy

import numpy as np
import pyarrow.parquet as pq
import pytest
from conftest import CONF
from hypothesis import example, given
from hypothesis import strategies as st
from omegaconf import OmegaConf

from gte.encoder import Encoder
from gte.errors import UserError
from gte.inference.embedder import Embedder
from gte.inference.index import as_table, update
from gte.inference.passages import SHORTEST, Passage, cut, json_rows, read_folder, require_folder, split
from gte.locks import locked
from gte.overrides import parsed

CODE = '''"""A module."""

import os


def first(x):
    a = 1

    return {body}


def second(y):
    return 2
'''


@given(st.text(alphabet="ab \n\t", max_size=400), st.integers(5, 60))
def test_pieces_hold_every_word_once_in_order_at_their_lines_and_are_short(text, longest):
    pieces = list(split(text, longest))
    words = [word for _, piece in pieces for word in piece.split()]
    assert "".join(words) == "".join(text.split())  # only a word longer than a piece is cut
    lines = text.split("\n")
    for line, piece in pieces:
        assert piece.strip() and len(piece) <= longest
        assert piece.split()[0] in lines[line - 1] or len(lines[line - 1]) > longest


@pytest.mark.parametrize("blank", [" ", "\t", "\u3000"])
def test_a_line_is_cut_between_words_at_the_last_blank_before_the_limit(blank):
    words = [f"word{n}" for n in range(2_000)] + ["-".join(["long"] * 6)]
    line = "    " + blank.join(words)
    pieces = cut(line, 30)
    assert [word for piece in pieces for word in piece.split()] == words and pieces[0].startswith("    word0")
    for piece, following in itertools.pairwise(pieces):
        assert len(piece) <= 30 < len(piece) + 1 + len(following.split()[0])
    assert (
        cut("x" * 70, 30) == ["x" * 30, "x" * 30, "x" * 10]
        and cut("", 30) == [""]
        and cut("a " * 15, 29) == ["a " * 14 + "a"]
    )


@pytest.mark.parametrize("line", ["x" * 2**22, "ab{c};" * 700_000, " " * 2**21 + "x", "a " * 2**21])
def test_a_line_of_4_mb_is_cut_into_pieces_of_the_limit(line):
    pieces = [piece for _, piece in split(line, 800)]
    assert "".join("".join(pieces).split()) == line.replace(" ", "")
    assert all(len(piece) <= 800 for piece in pieces) and len(pieces) <= len(line.strip()) / 799 + 1


def test_paragraphs_headings_and_definitions_begin_a_passage():
    body = " + ".join(["some_name"] * 20)
    pieces = dict(split(CODE.format(body=body), 800))
    assert [line for line in pieces] == [1, 12] and pieces[12].startswith("def second")
    assert "    a = 1\n\n    return" in pieces[1]  # an indented line goes on, a blank line before it or not
    paragraph = "word " * (SHORTEST // 5 + 1)
    text = f"# Title\n\n{paragraph}\n\n## Part\n\n{paragraph}\n"
    assert [(line, piece.split("\n")[0]) for line, piece in split(text, 800)] == [(1, "# Title"), (5, "## Part")]
    for short, count in ((SHORTEST - 3, 1), (SHORTEST - 2, 2)):  # with the line's end and the blank line
        assert len(list(split("x" * short + "\n\nnext", 800))) == count
    assert [len(list(split("ab\ncd", longest))) for longest in (4, 5)] == [2, 1]


def test_rows_of_jsonl_are_passages_of_their_texts():
    rows = ['{"title": "a", "n": 1, "text": "b"}', "", "no json", '{"n": 2}', '["x"]']
    assert list(json_rows("\n".join(rows))) == [(1, "a\nb"), (3, "no json"), (5, '["x"]')]


def test_a_folder_is_read_whole_but_for_what_is_no_text(tmp_path, monkeypatch):
    contents = {
        "a.md": b"alpha",
        "sub/b.py": b"beta",
        "e.rs": b"gamma",
        "c.bin": b"\0\1",
        "d.txt": b"\xff\xfe",
        "huge.log": b"x" * (2**22 + 1),
        ".git/config": b"hidden",
        "node_modules/f.js": b"theirs",
    }
    for name, content in contents.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
    (tmp_path / "gone").symlink_to(tmp_path / "nowhere")
    passages, left_out = read_folder(tmp_path, 800)
    assert passages == [Passage("a.md", 1, "alpha"), Passage("e.rs", 1, "gamma"), Passage("sub/b.py", 1, "beta")]
    assert left_out == {"no UTF-8 text": 2, "over 4 MiB": 1, "no plain file": 1}
    assert [passage.file for passage in read_folder(tmp_path, 800, ["*.md", "*.rs"])[0]] == ["a.md", "e.rs"]
    with pytest.raises(UserError, match=r"holds no text file like \*\.java"):
        read_folder(tmp_path, 800, ["*.java"])
    for largest, files in ((5, ["a.md", "e.rs", "sub/b.py"]), (4, ["sub/b.py"])):
        monkeypatch.setattr("gte.inference.passages.LARGEST", largest)
        assert [passage.file for passage in read_folder(tmp_path, 800)[0]] == files


def test_a_file_whose_name_is_no_utf8_is_skipped_and_counted_and_the_others_are_found(script, small_model, tmp_path):
    for folder, file in ((b"", b"caf\xe9.md"), (b"", b"good.md"), (b"sub\xff", b"b.md")):
        inner = os.path.join(os.fsencode(tmp_path / "texts"), folder)
        os.makedirs(inner, exist_ok=True)
        with open(os.path.join(inner, file), "wb") as text:
            text.write(b"many words in a row")
    given = [f"checkpoint={small_model}", "query=words", "out=index"]
    code, out, err = script("search", "folder=texts", *given)
    assert code == 0 and "1 passages of 1 files" in out and "2 files left out: a name that is no UTF-8" in out, err
    assert "good.md:1" in out and len(list((tmp_path / "index").glob("*.parquet"))) == 1
    os.rename(os.path.join(os.fsencode(tmp_path), b"texts"), os.path.join(os.fsencode(tmp_path), b"caf\xe9"))
    with pytest.raises(UserError, match="is no UTF-8; rename the folder"):
        require_folder(tmp_path / os.fsdecode(b"caf\xe9"))


@pytest.fixture
def embedder(small_model) -> Embedder:
    return Embedder(Encoder.from_pretrained(small_model))


def test_the_index_embeds_only_what_is_new_and_equals_one_made_anew(embedder, tmp_path):
    passages = [Passage("a", 1, "one"), Passage("a", 3, "two words"), Passage("b", 1, "one")]
    file = tmp_path / "index.parquet"
    assert update(file, passages, embedder).new == 2  # equal texts once
    assert update(file, passages, embedder).new == 0
    changed = [Passage("a", 1, "many words"), Passage("a", 4, "two words"), Passage("c", 1, "one")]
    index = update(file, changed, embedder)
    assert index.new == 1
    np.testing.assert_allclose(index.d_MD, embedder.encoder.encode([passage.text for passage in changed]), atol=1e-6)
    assert update(file, changed, embedder).passages == changed and update(file, changed, embedder).new == 0
    other = Embedder(embedder.encoder, prefix="x ")
    assert update(file, changed, other).new == 3  # another embedder's vectors are no use


def test_what_another_process_wrote_meanwhile_is_not_embedded_again(embedder, tmp_path, monkeypatch):
    file, passages = tmp_path / "index.parquet", [Passage("a", 1, "one"), Passage("a", 3, "two words")]
    update(file, passages[:1], embedder)

    def locked_late(*names: object):
        monkeypatch.undo()
        update(file, passages, embedder)
        return locked(*names)

    monkeypatch.setattr("gte.inference.index.locked", locked_late)
    index = update(file, passages, embedder)
    assert index.new == 0 and index.passages == passages


def test_a_line_of_the_table_as_wide_as_the_terminal_is_not_cut():
    table = as_table([(0.5, Passage("a", 1, "some words"))], 200)
    widest = max(map(len, table.split("\n")))
    assert as_table([(0.5, Passage("a", 1, "some words"))], widest) == table
    cut = as_table([(0.5, Passage("a", 1, "some words"))], widest - 1)
    assert cut.endswith("…") and max(map(len, cut.split("\n"))) == widest - 1


def test_hits_are_those_of_the_highest_cosine_in_order(embedder, tmp_path):
    texts = [f"{'many ' * n}words in row {n}" for n in range(12)]
    index = update(tmp_path / "index.parquet", [Passage("f", n, text) for n, text in enumerate(texts, 1)], embedder)
    hits = index.search("a row of words", embedder, 5)
    vectors = embedder.encoder.encode([*texts, "a row of words"], normalize=False).astype(np.float64)
    cosines = [v @ vectors[-1] / np.linalg.norm(v) / np.linalg.norm(vectors[-1]) for v in vectors[:-1]]
    best = sorted(range(12), key=lambda n: -cosines[n])[:5]
    assert [passage.line for _, passage in hits] == [n + 1 for n in best]
    np.testing.assert_allclose([score for score, _ in hits], [cosines[n] for n in best], atol=1e-5)
    table = as_table(hits, width=40).split("\n")
    assert len(table) == 6 and all(len(line) <= 40 for line in table) and f"f:{best[0] + 1}" in table[1]


@pytest.mark.parametrize("dtype", ["int8", "uint8", "binary", "ubinary"])
def test_a_compact_index_is_read_again_and_finds_what_its_codes_stand_for(embedder, tmp_path, dtype):
    passages = [Passage("f", n, f"{'many ' * (n % 7)}words in row {n} number {n // 3}") for n in range(1, 40)]
    file = tmp_path / "index.parquet"
    assert update(file, passages[:30], embedder, dtype).new == 30
    index = update(file, passages, embedder, dtype)
    assert index.new == 9 and update(file, passages, embedder, dtype).new == 0
    stored = pq.read_table(file)["embedding"].type
    assert (stored.list_size, stored.value_type.bit_width) == (4 if dtype.endswith("binary") else 32, 8)
    hits = index.search("a row of words", embedder, 5)
    scores = index.d_MD.astype(np.float64) @ embedder.encoder.encode(["a row of words"])[0].astype(np.float64)
    assert [score for score, _ in hits] == sorted((score for score, _ in hits), reverse=True)
    for score, passage in hits:
        assert score == pytest.approx(scores[passages.index(passage)], abs=1e-6)
    if not dtype.endswith("binary"):
        assert [passages.index(passage) for _, passage in hits] == np.lexsort((np.arange(39), -scores))[:5].tolist()
    table = pq.read_table(file)
    metadata = {"identity": table.schema.metadata[b"identity"]}  # as a program that rewrites the file loses the scheme
    pq.write_table(table.replace_schema_metadata(metadata), file)
    with pytest.raises(UserError, match="its metadata are gone; make the file again"):
        update(file, passages, embedder, dtype)
    file.unlink()
    assert update(file, passages, embedder).new == 39 and update(file, passages, embedder, dtype).new == 39


def varied(first: int, last: int) -> list[Passage]:
    words = ["many", "number", "row", "words", "three", "seven", "red"]
    texts = (" ".join(words[n // 7**place % 7] for place in range(4)) for n in range(first, last))
    return [Passage("f", n, text) for n, text in enumerate(texts, first)]


@pytest.mark.parametrize("dtype", ["int8", "uint8"])
@pytest.mark.parametrize("begun", [(1,), (2,), (1, 2, 3, 5, 9, 40)])
def test_an_index_begun_on_few_passages_is_as_good_as_one_made_of_all(embedder, tmp_path, dtype, begun):
    passages = varied(0, 200)
    for count in begun:
        update(tmp_path / "grown.parquet", passages[:count], embedder, dtype)
    grown = update(tmp_path / "grown.parquet", passages, embedder, dtype)
    fresh = update(tmp_path / "fresh.parquet", passages, embedder, dtype)
    assert grown.new == 200 - begun[-1] and grown.redrawn and not fresh.redrawn
    np.testing.assert_array_equal(grown.vectors.scheme.ranges_2D, fresh.vectors.scheme.ranges_2D)
    assert len(np.unique(grown.d_MD, axis=0)) == len(np.unique(fresh.d_MD, axis=0)) > 150
    for query in ("many red words", "row number seven", "three"):
        hits, expected = grown.search(query, embedder, 5), fresh.search(query, embedder, 5)
        assert [passage for _, passage in hits] == [passage for _, passage in expected]
    again = update(tmp_path / "grown.parquet", passages, embedder, dtype)
    assert (again.new, again.beyond, again.redrawn) == (0, 0, False)


def test_an_index_whose_passages_are_all_replaced_is_as_good_as_one_made_of_them(embedder, tmp_path):
    update(tmp_path / "index.parquet", [Passage("f", 1, "seven"), Passage("f", 2, "seven seven")], embedder, "uint8")
    replaced = update(tmp_path / "index.parquet", varied(0, 2), embedder, "uint8")
    fresh = update(tmp_path / "fresh.parquet", varied(0, 2), embedder, "uint8")
    np.testing.assert_array_equal(replaced.d_MD, fresh.d_MD)


def test_passages_cut_to_the_ranges_are_counted_until_they_are_an_eighth_of_all(embedder, tmp_path):
    file, passages = tmp_path / "index.parquet", varied(0, 100)
    drawn = update(file, passages, embedder, "uint8").vectors.scheme
    low, high = drawn.ranges_2D
    others = [
        Passage("g", n, f"{passage.text} page {n}" + " of a red book" * (n % 5))
        for n, passage in enumerate(varied(300, 330))
    ]
    x_ND = embedder.encoder.encode([passage.text for passage in others])
    outside = np.cumsum(((x_ND < low) | (x_ND > high)).any(1))
    assert 8 * outside[-1] > 130  # so that the ranges become too narrow on the way
    for count in range(1, 31):
        index = update(file, passages + others[:count], embedder, "uint8")
        if 8 * outside[count - 1] > 100 + count:
            break
        assert not index.redrawn and index.beyond == np.diff(outside[:count], prepend=0)[-1]
        np.testing.assert_array_equal(index.vectors.scheme.ranges_2D, drawn.ranges_2D)
    assert index.redrawn and index.new == 1 and index.beyond == 0
    assert index.vectors.scheme.beyond(embedder.encoder.encode([passage.text for passage in index.passages])) == 0


def test_an_index_of_an_earlier_version_that_may_have_one_passages_ranges_is_made_anew(embedder, tmp_path):
    file = tmp_path / "index.parquet"
    update(file, varied(0, 9), embedder, "uint8")
    table = pq.read_table(file)
    metadata = {key: value for key, value in table.schema.metadata.items() if key != b"cut"}
    pq.write_table(table.replace_schema_metadata(metadata), file)
    assert update(file, varied(0, 9), embedder, "uint8").new == 9
    assert update(file, varied(0, 9), embedder, "uint8").new == 0


@pytest.mark.parametrize("dtype", ["float32", "uint8"])
def test_a_bit_flipped_in_an_index_is_noticed_or_changes_nothing(embedder, tmp_path, dtype):
    passages = [Passage("f", n, f"{'many ' * (n % 7)}words in row {n}") for n in range(1, 20)]
    file = tmp_path / "index.parquet"
    whole = update(file, passages, embedder, dtype)
    intact, noticed = file.read_bytes(), 0
    for byte in range(4, len(intact), len(intact) // 150):
        damaged = bytearray(intact)
        damaged[byte] ^= 0x10
        file.write_bytes(damaged)
        try:
            index = update(file, passages, embedder, dtype)  # made anew where the model's name in it was hit
        except UserError as error:
            noticed += "remove it, and it is made anew" in str(error) or "embed the texts again" in str(error)
            continue
        assert index.passages == passages
        np.testing.assert_array_equal(index.d_MD, whole.d_MD)
    assert noticed > 75


def test_of_passages_of_equal_text_the_earlier_one_is_found_first(embedder, tmp_path):
    passages = [Passage("f", n, "two words" if n % 2 else f"number {n}") for n in range(60)]
    for dtype in ("float32", "int8", "binary"):
        index = update(tmp_path / f"{dtype}.parquet", passages, embedder, dtype)
        assert [hit.line for _, hit in index.search("two words", embedder, 7)] == [1, 3, 5, 7, 9, 11, 13]


def test_a_user_searches_a_folder_changes_it_and_searches_again(script, small_model, tmp_path):
    (tmp_path / "notes").mkdir()
    query = '"a query", or (document)? ${HOME} \\d+ C:\\'
    (tmp_path / "notes" / "a.md").write_text("number one and then some more of them")
    (tmp_path / "notes" / "b.jsonl").write_text(json.dumps({"text": query}) + "\n")
    command = ["search", f"checkpoint={small_model}", "folder=notes", f"query={query}", "top=1"]
    code, out, err = script(*command)
    assert code == 0, err
    summary, header, best = out.strip().split("\n")
    assert "2 passages of 2 files, 2 of them new" in summary and header.split() == ["rank", "score", "where", "passage"]
    assert best.split()[:3] == ["1", "1.000", "b.jsonl:1"]
    (tmp_path / "notes" / "b.jsonl").unlink()
    (tmp_path / "notes" / "c.txt").write_text(f"\n{query}\n")
    (tmp_path / "notes" / "a.md").write_text("many words")
    _, out, _ = script(*command)
    assert "2 passages of 2 files, 1 of them new" in out and "1.000  c.txt:2" in out and "b.jsonl" not in out
    assert "cut" not in out
    out = script(*command[:-2], f"query={'word ' * 2_000}")[1]
    assert re.search(r"the query has [\d,]+ tokens or more: what is beyond was cut$", out.strip())


QUOTED = runpy.run_path(str(CONF.parent / "src" / "search.py"))["quoted"]


@given(st.text(alphabet="\\\"'${}:a, \n\t[]=~x", max_size=12))
@example(r"\d+ and C:\path\x")
@example(r"\$\alpha_{i}$ ends in \ ".strip())
@example('"exact phrase" search')
@example("cost in ${HOME} or \\${x}\n\tnext")
@example("a=b, [c] {d: e}?")
def test_a_query_arrives_as_it_was_typed(query):
    cfg = OmegaConf.create({"query": str(parsed(QUOTED(f"query={query}")).value())})
    assert cfg.query == OmegaConf.to_container(cfg, resolve=True)["query"] == query


def test_a_bad_folder_or_model_is_one_line(script, small_model, tmp_path):
    assert "is no folder" in script.refused("search", f"checkpoint={small_model}", "folder=nowhere", "query=x")
    line = script.refused("search", "folder=.", "query=x")  # before `make demo`
    assert "runs/demo/model does not exist" in line and line.endswith("checkpoint=MODEL; `make demo` makes this one")
    assert "make demo" not in script.refused("search", "folder=.", "query=x", "checkpoint=runs/demo/model")
    (tmp_path / "empty").mkdir()
    assert "holds no text file" in script.refused("search", f"checkpoint={small_model}", "folder=empty", "query=x")
