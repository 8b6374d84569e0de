"""Embeddings of files: every row is accounted for, nothing depends on where a run was cut off."""

import csv
import gzip
import json
import os
import signal

import launch
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from sentence_transformers import SentenceTransformer
from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers
from trainings import Begun
from transformers import PreTrainedTokenizerFast

from gte.encoder import Encoder
from gte.errors import UserError
from gte.inference.compact import read_vectors, scheme_file
from gte.inference.embedder import Embedder, embed_texts
from gte.inference.texts import Text, read_texts

ROWS = ["one", "", "  many words in a row " * 30, "query about a document", "näïve text"]


@pytest.fixture
def encoder(small_model) -> Encoder:
    return Encoder.from_pretrained(small_model)


def write(folder, name: str, rows: list[str]):
    """The same rows in each format; ids are id0, id1, ..."""
    path, kind = folder / name, name.split(".")[1]
    if kind == "parquet":
        pq.write_table(pa.table({"key": [f"id{i}" for i in range(len(rows))], "body": rows}), path, row_group_size=2)
        return path
    lines = {
        "txt": [*rows],
        "jsonl": [json.dumps({"body": row, "key": f"id{i}"}) for i, row in enumerate(rows)],
        "csv": ["key,body", *(f'id{i},"{row}"' for i, row in enumerate(rows))],
        "tsv": ["key\tbody", *(f"id{i}\t{row}" for i, row in enumerate(rows))],
    }[kind]
    with gzip.open(path, "wt") if name.endswith(".gz") else open(path, "w") as file:
        file.write("\n".join(lines) + "\n")
    return path


@pytest.mark.parametrize("name", ["a.txt", "a.txt.gz", "a.jsonl", "a.jsonl.gz", "a.csv", "a.tsv", "a.parquet"])
def test_every_format_gives_the_same_texts_in_order_with_their_ids(name, tmp_path):
    path = write(tmp_path, name, ROWS)
    ids = name.startswith("a.txt")
    texts = list(read_texts(str(path), field="body", id_field=None if ids else "key"))
    assert [text.text for text in texts] == ROWS
    first = 2 if name in ("a.csv", "a.tsv") else 1  # the header is a line
    assert [text.row for text in texts] == list(range(first, first + len(ROWS)))
    if not ids:
        assert [text.id for text in texts] == [f"id{i}" for i in range(len(ROWS))]


def test_a_quoted_tsv_file_gives_the_texts_that_were_written(tmp_path):
    expected = ["a line\nand another", 'he said "no"', "plain", "a\ttab"]
    with open(tmp_path / "a.tsv", "w", newline="") as file:
        csv.writer(file, "excel-tab").writerows([["text"], *([text] for text in expected)])
    assert [text.text for text in read_texts(str(tmp_path / "a.tsv"))] == expected
    (tmp_path / "a.tsv").write_text('text\tother\n"one" more\tx\n"two"\tx\n')
    assert [text.text for text in read_texts(str(tmp_path / "a.tsv"))] == ['"one" more', '"two"']


@pytest.fixture
def byte_level_model(tmp_path) -> str:
    """A directory of a model whose tokenizer reads white space."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    special, alphabet = ["<s>", "<pad>", "</s>"], pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=300, special_tokens=special, initial_alphabet=alphabet)
    tokenizer.train_from_iterator(["many words", "a row"], trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    names = {"bos_token": "<s>", "cls_token": "<s>", "pad_token": "<pad>", "eos_token": "</s>", "sep_token": "</s>"}
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=64, **names)
    size = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    Encoder.from_scratch(fast, **size).save(tmp_path / "bytes")
    return str(tmp_path / "bytes")


@pytest.mark.parametrize("name", ["a.txt", "a.jsonl", "a.csv", "a.tsv", "a.parquet"])
def test_white_space_around_a_text_is_read_as_by_encode_and_sentence_transformers(name, byte_level_model, tmp_path):
    rows = ["  two blanks before", "a row", "a row ", "\u00a0\u3000a row\u2003", " ", ""]
    write(tmp_path, name, rows)
    texts = [text.text for text in read_texts(str(tmp_path / name), field="body")]
    assert texts == rows
    theirs, ours = SentenceTransformer(byte_level_model, device="cpu"), Encoder.from_pretrained(byte_level_model)
    expected = theirs.encode(rows, normalize_embeddings=True)
    assert np.abs(ours.encode([row.strip() for row in rows]) - expected).max(1)[[0, 2, 3, 4]].min() > 1e-3
    np.testing.assert_allclose(ours.encode(texts), expected, atol=1e-5)


def test_white_space_alone_is_an_empty_text(script, small_model, tmp_path):
    (tmp_path / "a.txt").write_text("one\n \t\n\ntwo\r\n")
    given = ["embed", f"checkpoint={small_model}", "in=a.txt"]
    assert "4 embedded; of these 2 empty texts" in script(*given, "out=e.npy")[1]
    assert "2 embedded; 2 left out: empty text, first in row 2" in script(*given, "out=e.parquet", "empty=skip")[1]
    assert pq.read_table(tmp_path / "e.parquet")["row"].to_pylist() == [1, 4]
    assert "row 2: empty text" in script.refused(*given, "out=f.npy", "empty=refuse")


def test_rows_without_a_text_are_named_with_their_reason(tmp_path):
    lines = [b'{"text": "good"}', b"{broken", b'{"other": 1}', b'{"text": null}', b'{"text": 5}', b'["text"]']
    (tmp_path / "a.jsonl").write_bytes(b"\n".join([*lines, b'{"text": "\xff"}', b'{"text": "last"}', b""]))
    texts = list(read_texts(str(tmp_path / "a.jsonl")))
    assert [(text.row, text.text) for text in texts if text.text] == [(1, "good"), (8, "last")]
    assert [(text.row, text.reason) for text in texts if text.text is None] == [
        (2, "no JSON object"),
        (3, "missing text"),
        (4, "missing text"),
        (5, "wrong type of text"),
        (6, "no JSON object"),
        (7, "invalid UTF-8"),
    ]


def test_blank_lines_are_no_rows_and_a_damaged_row_group_is_named_by_its_first_row(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "one"}\n\n  \n{"text": "two"}\n')
    assert list(read_texts(str(tmp_path / "a.jsonl"))) == [Text(1, "1", "one"), Text(4, "4", "two")]
    file = tmp_path / "a.parquet"
    texts = [f"text {row}" for row in range(2 * 1024)]
    pq.write_table(pa.table({"text": texts}), file, row_group_size=1024, use_dictionary=False)
    place = pq.read_metadata(file).row_group(1).column(0).data_page_offset
    data = bytearray(file.read_bytes())
    data[place : place + 40] = bytes(40)
    file.write_bytes(data)
    *found, last = read_texts(str(file))
    assert [text.text for text in found] == texts[:1024] and last == Text(1025, "1025", None, "damaged file")


def test_npy_holds_row_for_row_what_encode_gives(script, small_model, encoder, tmp_path):
    write(tmp_path, "a.jsonl", ROWS)
    code, out, err = script(
        "embed", f"checkpoint={small_model}", "in=a.jsonl", "out=e.npy", "field=body", "precision=fp32"
    )
    assert code == 0, err
    np.testing.assert_array_equal(np.load(tmp_path / "e.npy"), encoder.encode(ROWS))
    assert "5 embedded; of these 1 empty texts" in out
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.jsonl", "e.npy"]


def test_parquet_holds_rows_and_ids_of_what_was_not_left_out(script, small_model, encoder, tmp_path):
    lines = ['{"id": 7, "text": "one"}', '{"id": 8}', '{"id": 9, "text": ""}', "{", '{"id": 11, "text": "two words"}']
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    options = ["id=id", "empty=skip", "unreadable=skip", "normalize=false", "prefix='query: '", "precision=fp32"]
    code, out, err = script("embed", f"checkpoint={small_model}", "in=a.jsonl", "out=e.parquet", *options)
    assert code == 0, err
    table = pq.read_table(tmp_path / "e.parquet")
    assert table["row"].to_pylist() == [1, 5] and table["id"].to_pylist() == ["7", "11"]
    expected = encoder.encode(["query: one", "query: two words"], normalize=False)
    np.testing.assert_array_equal(np.array(table["embedding"].to_pylist(), np.float32), expected)
    for part in ("2 embedded", "1 left out: missing text, first in row 2", "1 left out: empty text, first in row 3",
                 "1 left out: no JSON object, first in row 4"):  # fmt: skip
        assert part in out


def texts_of(number: int) -> list[Text]:
    return [Text(row, str(row), f"{'words ' * (row % 7)}number {row}") for row in range(1, number + 1)]


class Killed(Exception):
    pass


@pytest.mark.parametrize("name", ["e.npy", "e.parquet"])
def test_a_run_cut_off_at_any_block_goes_on_with_an_equal_result(name, encoder, tmp_path, monkeypatch):
    monkeypatch.setattr("gte.inference.embedder.BLOCK", 10)
    embedder = Embedder(encoder)
    whole, work = tmp_path / f"whole-{name}", tmp_path / "whole-work"
    work.mkdir()
    embed_texts(texts_of(35), embedder, whole, work, source="s")
    for survived in range(4):
        work, out = tmp_path / f"work{survived}", tmp_path / f"{survived}-{name}"
        work.mkdir()
        encoded = []

        def dying(texts, where, survived=survived, encoded=encoded):
            if len(encoded) == survived:
                raise Killed
            encoded.append(len(texts))
            return embedder(texts, where)

        dying.identity = embedder.identity
        with pytest.raises(Killed):
            embed_texts(texts_of(35), dying, out, work, source="s")
        assert not out.exists() and len(list(work.iterdir())) == survived
        account = embed_texts(texts_of(35), embedder, out, work, source="s")
        assert account.reused == 10 * survived and account.embedded == 35
        assert out.read_bytes() == whole.read_bytes() and not work.exists()


def test_kept_blocks_of_other_texts_or_another_setting_are_not_used(encoder, tmp_path, monkeypatch):
    monkeypatch.setattr("gte.inference.embedder.BLOCK", 10)
    out, work = tmp_path / "e.npy", tmp_path / "work"

    def interrupted_then(texts, embedder) -> int:
        """Rows taken from a run over texts_of(20) with the plain embedder that died before it was put together."""
        work.mkdir()
        monkeypatch.setattr("gte.inference.embedder.write_npy", lambda *_: (_ for _ in ()).throw(Killed()))
        with pytest.raises(Killed):
            embed_texts(texts_of(20), Embedder(encoder), out, work, source="s")
        monkeypatch.undo()
        monkeypatch.setattr("gte.inference.embedder.BLOCK", 10)
        return embed_texts(texts, embedder, out, work, source="s").reused

    assert interrupted_then(texts_of(20), Embedder(encoder)) == 20
    changed = texts_of(20)
    changed[15] = Text(16, "16", "another text")
    assert interrupted_then(changed, Embedder(encoder)) == 10
    np.testing.assert_array_equal(np.load(out)[15], encoder.encode([t.text for t in changed[10:]])[5])
    assert interrupted_then(texts_of(20), Embedder(encoder, prefix="query: ")) == 0
    assert interrupted_then(texts_of(20), Embedder(encoder, normalize=False)) == 0
    weights = encoder.state_dict()
    torch.manual_seed(7)  # not that of the fixture
    other = Encoder(encoder.lm.__class__(encoder.lm.config), encoder.tokenizer, encoder.max_length)
    assert weights.keys() == other.state_dict().keys()
    assert interrupted_then(texts_of(20), Embedder(other)) == 0


def test_a_kept_block_with_a_flipped_bit_is_embedded_again(encoder, tmp_path, monkeypatch):
    monkeypatch.setattr("gte.inference.embedder.BLOCK", 10)
    out, work = tmp_path / "e.npy", tmp_path / "work"
    work.mkdir()
    embedder = Embedder(encoder)
    with monkeypatch.context() as patch:
        patch.setattr("gte.inference.embedder.write_npy", lambda *_: (_ for _ in ()).throw(Killed()))
        with pytest.raises(Killed):
            embed_texts(texts_of(20), embedder, out, work, source="s")
    first = work / "00000000.parquet"
    intact = first.read_bytes()
    value = encoder.encode([texts_of(20)[3].text])[0, :2].tobytes()  # of the fourth text, as it lies in the file
    damaged = bytearray(intact)
    damaged[intact.index(value) + 3] ^= 0x01
    first.write_bytes(damaged)
    assert embed_texts(texts_of(20), embedder, out, work, source="s").reused == 10
    np.testing.assert_array_equal(np.load(out), encoder.encode([text.text for text in texts_of(20)]))


def test_a_block_damaged_after_it_was_written_ends_the_run_in_one_line(encoder, tmp_path, monkeypatch):
    from gte.inference import embedder as module

    put_together = module.write_npy

    def damaged(parts, *rest):
        content = bytearray(parts[0].read_bytes())
        content[len(content) // 4] ^= 0x01
        parts[0].write_bytes(content)
        put_together(parts, *rest)

    monkeypatch.setattr(module, "write_npy", damaged)
    (tmp_path / "work").mkdir()
    with pytest.raises(UserError, match=r"00000000\.parquet is damaged: it is not as it was written; the same command"):
        embed_texts(texts_of(200), Embedder(encoder), tmp_path / "e.npy", tmp_path / "work", source="s")
    assert not (tmp_path / "e.npy").exists()


def test_a_kill_leaves_no_codes_beside_the_ranges_of_others(encoder, tmp_path, monkeypatch):
    """They are as many and as wide, and would be read without a word as other vectors."""
    out, work = tmp_path / "e.npy", tmp_path / "work"
    work.mkdir()
    embed_texts(texts_of(20), Embedder(encoder), out, work, source="s", dtype="uint8")
    before = read_vectors(out)
    for name in ("write_json", "put"):
        work.mkdir(exist_ok=True)
        with monkeypatch.context() as patch:
            patch.setattr(f"gte.inference.embedder.{name}", lambda *_: (_ for _ in ()).throw(Killed()))
            with pytest.raises(Killed):
                embed_texts(texts_of(20), Embedder(encoder, prefix="x "), out, work, source="s", dtype="uint8")
        assert not out.exists()
    embed_texts(texts_of(20), Embedder(encoder, prefix="x "), out, work, source="s", dtype="uint8")
    assert not np.array_equal(read_vectors(out).scheme.ranges_2D, before.scheme.ranges_2D)
    work.mkdir()
    embed_texts(texts_of(20), Embedder(encoder), out, work, source="s")
    assert read_vectors(out).scheme.dtype == "float32" and not scheme_file(out).exists()


def test_memory_is_bounded_by_a_block_however_long_the_stream(encoder, tmp_path, monkeypatch):
    """No more than one block's texts are alive at a time."""
    monkeypatch.setattr("gte.inference.embedder.BLOCK", 10)
    alive = largest = 0

    class Counted(str):
        def __new__(cls, value):
            nonlocal alive, largest
            alive += 1
            largest = max(largest, alive)
            return super().__new__(cls, value)

        def __del__(self):
            nonlocal alive
            alive -= 1

    (tmp_path / "work").mkdir()
    stream = (Text(row, str(row), Counted(f"number {row}")) for row in range(1, 101))
    account = embed_texts(stream, Embedder(encoder), tmp_path / "e.npy", tmp_path / "work", source="s")
    assert account.embedded == 100 and largest <= 20


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("model", ["pretrained", "minilm"])
def test_a_texts_vector_is_bit_equal_alone_and_in_any_batch(request, model, threads):
    """Of models as users load them, saved with dropout, in float32 on a CPU.

    But for short texts alone: a product of a handful of rows is summed in another order, by several threads otherwise
    than by one.
    """
    encoder = Encoder.from_pretrained(request.getfixturevalue(model))
    assert encoder.lm.config.hidden_dropout_prob > 0
    rng = np.random.default_rng(0)
    texts = [" ".join(rng.choice(["red", "green", "small", "which", "it is", "q"], n)) for n in rng.integers(8, 40, 12)]
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        expected = encoder.encode(texts, batch_tokens=512)
        torch.set_num_threads(threads)
        for row in range(12):
            alone = encoder.encode([texts[row]])[0]
            np.testing.assert_allclose(alone, expected[row], atol=1e-6)
            assert threads > 1 or (alone == expected[row]).all()
        order = rng.permutation(12)
        for batch_tokens in (64, 100_000):
            found = encoder.encode([texts[row] for row in order], batch_tokens=batch_tokens)
            np.testing.assert_array_equal(found, expected[order])
        np.testing.assert_array_equal(encoder.encode([texts[5]] * 9), expected[[5] * 9])
        np.testing.assert_allclose(encoder.encode(["q"]), encoder.encode(["q", *texts])[:1], atol=1e-6)
    finally:
        torch.set_num_threads(before)


def killed_amid_a_block(*words: str) -> None:
    """A script that SIGKILL ends while it writes its third block."""
    from gte.inference import embedder

    write = embedder.pq.write_table

    def write_or_die(table, file, **options):
        if len(list(file.parent.glob("*.parquet"))) == 2:
            file.write_bytes(b"PAR1")
            os.kill(os.getpid(), signal.SIGKILL)
        write(table, file, **options)

    embedder.pq.write_table = write_or_die
    launch.script(*words)


@pytest.mark.parametrize("dtype", ["float32", "int8"])
def test_a_run_that_is_killed_in_the_middle_goes_on_with_an_equal_result(small_model, tmp_path, dtype, script):
    rows = "".join(f"{'many words ' * (row % 20)}number {row}\n" for row in range(2_500))
    (tmp_path / "a.txt").write_text(rows)
    command = [f"checkpoint={small_model}", "in=a.txt", "precision=fp32", f"dtype={dtype}"]
    killed = Begun(tmp_path, "embed", *command, "out=e.npy", function=killed_amid_a_block)
    assert killed.wait() == -signal.SIGKILL, killed.said
    work = tmp_path / "e.npy.partial"
    kept = len(list(work.glob("*.parquet")))
    assert kept == 2 and not (tmp_path / "e.npy").exists()
    code, out, err = script("embed", *command, "out=e.npy")
    assert code == 0 and f"{kept * 1_024:,} before an interruption" in out, err
    assert script("embed", *command, "out=whole.npy")[0] == 0
    for suffix in ("", ".json"):
        one, other = (tmp_path / f"{name}.npy{suffix}" for name in ("e", "whole"))
        assert one.exists() == other.exists() == (suffix == "" or dtype == "int8")
        assert not one.exists() or one.read_bytes() == other.read_bytes()
    assert not work.exists()


def test_standard_input_is_read_as_a_stream(script, small_model, encoder, tmp_path):
    reading, writing = os.pipe()
    os.write(writing, b"one\nmany words\n")
    os.close(writing)
    own = os.dup(0)
    os.dup2(reading, 0)
    try:
        code, _, err = script("embed", f"checkpoint={small_model}", "in=-", "out=e.npy", "precision=fp32")
    finally:
        os.dup2(own, 0)
    assert code == 0, err
    np.testing.assert_array_equal(np.load(tmp_path / "e.npy"), encoder.encode(["one", "many words"]))


def test_a_vector_that_is_not_finite_is_refused_with_its_row(encoder, tmp_path):
    with torch.no_grad():
        row = encoder.tokenizer.convert_tokens_to_ids("query")
        encoder.lm.get_input_embeddings().weight[row] = float("nan")
    (tmp_path / "work").mkdir()
    texts = [Text(3, "3", "one"), Text(5, "5", "a query"), Text(6, "6", "more")]
    with pytest.raises(UserError, match=r"dump\.jsonl, row 5: its embedding is not finite in fp32"):
        embed_texts(texts, Embedder(encoder), tmp_path / "e.npy", tmp_path / "work", source="dump.jsonl")
    assert not (tmp_path / "e.npy").exists()


@pytest.fixture
def inputs(tmp_path):
    """Good and bad files in the current directory."""
    (tmp_path / "a.jsonl").write_text('{"id": 1, "text": "x"}\n{"id": 2, "text": ""}\n')
    (tmp_path / "broken.jsonl").write_text('{"text": "x"}\n{\n')
    (tmp_path / "a.csv").write_text("id,text\n1,x\n")
    (tmp_path / "a.txt").write_text("x\n")
    (tmp_path / "none.txt").write_text("")
    (tmp_path / "a.bin").write_bytes(b"\0")
    (tmp_path / "bad.parquet").write_bytes(b"no parquet")
    pq.write_table(pa.table({"text": ["x"]}), tmp_path / "a.parquet")


@pytest.mark.parametrize(
    ("file", "options", "reason"),
    [
        ("gone.jsonl", {}, "no such file"),
        ("a.jsonl", {"field": "body"}, r"a\.jsonl has no column 'body'; it has: id, text; name it by field="),
        ("a.jsonl", {"id_field": "key"}, "no column 'key'; .*; name it by id="),
        ("a.csv", {"field": "body"}, r"a\.csv has no column 'body'; .*; name it by field="),
        ("a.parquet", {"field": "body"}, r"a\.parquet has no column 'body'; .*; name it by field="),
        ("bad.parquet", {}, "is no parquet file"),
        ("a.bin", {}, "the format 'bin' is not one of txt, jsonl"),
        ("a.txt", {"id_field": "key"}, "a txt file has no ids"),
        ("-", {"format": "parquet"}, "parquet is no stream"),
    ],
)
def test_input_that_cannot_be_read_is_named_with_the_way_out(file, options, reason, inputs, tmp_path):
    with pytest.raises(UserError, match=reason):
        list(read_texts(file if file == "-" else str(tmp_path / file), **options))


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["in=a.jsonl", "field=body"], "a.jsonl has no column 'body'; it has: id, text; name it by field="),
        (["in=a.jsonl", "out=e.json"], "must end in .npy or .parquet"),
        (["in=a.jsonl", "empty=drop"], "empty=drop is not one of keep, skip, refuse"),
        (["in=a.jsonl", "empty=skip"], "a .npy holds no row numbers"),
        (["in=a.jsonl", "empty=refuse"], "row 2: empty text; mend it, or leave such rows out: empty=skip"),
        (["in=broken.jsonl"], "row 2: no JSON object; mend it, or leave such rows out: unreadable=skip"),
        (["in=none.txt"], "holds no text"),
        (["in=a.jsonl", "prompt=query"], "names no prompt 'query'"),
    ],
)
def test_a_refused_run_is_one_line_and_leaves_nothing_behind(options, reason, script, small_model, inputs, tmp_path):
    before = sorted(path.name for path in tmp_path.iterdir())
    out = [] if any(option.startswith("out=") for option in options) else ["out=e.npy"]
    assert reason in script.refused("embed", f"checkpoint={small_model}", *out, *options)
    assert sorted(path.name for path in tmp_path.iterdir()) == before
