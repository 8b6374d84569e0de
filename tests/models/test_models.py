"""Made models of many kinds and settings against sentence-transformers' own vectors, by folder and by a fake hub."""

import json
import shutil
from collections import Counter
from dataclasses import replace
from hashlib import sha256
from http.server import ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import numpy as np
import pytest
import torch
from fake_hub import FakeHub
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import AutoConfig, AutoModel, PreTrainedTokenizerFast

from gte.data.shards import Manifest
from gte.data.tokenizer import fingerprint, load_tokenizer
from gte.encoder import Encoder
from gte.errors import UserError
from gte.hub import hub_reachable
from gte.models.export import export
from gte.models.load import describe, initialize, load_encoder, take_prompts, weights_checksum
from gte.settings import Settings

sentence_transformers = pytest.importorskip("sentence_transformers", reason="pip install -r requirements-test.txt")

SIZES = dict(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=48)
BERT = SIZES | {"max_position_embeddings": 64, "hidden_dropout_prob": 0.2}
ROBERTA = BERT | {"max_position_embeddings": 66}  # two are of the padding id and before it
T5 = dict(d_model=32, d_kv=16, d_ff=48, num_layers=2, num_decoder_layers=2, num_heads=2)
KINDS = {
    "albert": BERT | {"embedding_size": 16},
    "bert": BERT,
    "camembert": ROBERTA,
    "data2vec-text": ROBERTA,
    "deberta-v2": BERT | {"relative_attention": True, "pos_att_type": ["p2c", "c2p"], "position_buckets": 8},
    "distilbert": dict(dim=32, n_layers=2, n_heads=2, hidden_dim=48, dropout=0.2, max_position_embeddings=64),
    "electra": BERT | {"embedding_size": 16},
    "layoutlm": BERT,
    "longformer": ROBERTA | {"attention_window": 8},
    "modernbert": SIZES | {"local_attention": 16, "global_attn_every_n_layers": 2, "max_position_embeddings": 64},
    "mpnet": ROBERTA,
    "mt5": T5,
    "nomic_bert": BERT,
    "qwen3": SIZES | {"num_key_value_heads": 1, "head_dim": 16, "max_position_embeddings": 64},
    "roberta": ROBERTA,
    "roberta-prelayernorm": ROBERTA,
    "t5": T5,
    "umt5": T5,
    "xlm-roberta": ROBERTA,
}
OTHERS = {"big_bird": BERT, "convbert": BERT | {"embedding_size": 32, "head_ratio": 1}, "fnet": BERT}  # not all right
SPECIAL = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
WORDS = [f"w{n}" for n in range(60)]
TEXTS = [" ".join(WORDS[n : n + n * 7 % 23]) for n in range(24)] + ["w1 <pad> w2", "W3 w4", "w7 w8 " * 60, "w9 " * 62]
MODES = {"mean": "mean", "cls": "cls", "last": "lasttoken"}


def made_tokenizer(**options) -> PreTrainedTokenizerFast:
    """Whole words in lower case, between <s> and </s>; its padding id is RoBERTa's."""
    tokens = Tokenizer(models.WordLevel({t: i for i, t in enumerate([*SPECIAL, *WORDS])}, unk_token="<unk>"))
    tokens.normalizer = normalizers.Lowercase()
    tokens.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokens.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    names = dict(zip(["bos_token", "pad_token", "eos_token", "unk_token", "mask_token"], SPECIAL, strict=True))
    return PreTrainedTokenizerFast(tokenizer_object=tokens, cls_token="<s>", sep_token="</s>", **names, **options)


def write_lm(folder: Path, kind: str, **change) -> Path:
    """A transformers directory of that kind, every weight of it large enough to tell."""
    torch.manual_seed(0)
    made_tokenizer(model_max_length=64).save_pretrained(folder)
    config = AutoConfig.for_model(
        kind, vocab_size=len(SPECIAL + WORDS), pad_token_id=1, **(KINDS | OTHERS)[kind] | change
    )
    config.bos_token_id = config.cls_token_id = config.decoder_start_token_id = 0
    config.eos_token_id = config.sep_token_id = 2
    lm = AutoModel.from_config(config)
    with torch.no_grad():
        for parameter in lm.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    lm.save_pretrained(folder)
    return folder


def write_modules(folder: Path, pooling: str = "mean", include_prompt: bool = True, **settings) -> Path:
    """What makes a transformers directory one of sentence-transformers; `settings` of the whole model."""
    kinds = {"": "Transformer", "1_Pooling": "Pooling", "2_Normalize": "Normalize"}
    modules = [
        {"idx": number, "name": str(number), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for number, (path, kind) in enumerate(kinds.items())
    ]
    config = json.loads((folder / "config.json").read_text())
    width = next(config[key] for key in ("hidden_size", "dim", "d_model") if key in config)
    mode = {"word_embedding_dimension": width, "pooling_mode": MODES[pooling], "include_prompt": include_prompt}
    write_json(folder / "modules.json", modules)
    write_json(folder / "1_Pooling" / "config.json", mode)
    write_json(folder / "config_sentence_transformers.json", settings)
    return folder


def write_json(file: Path, content: dict | list) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(content))


def edit_json(file: Path, **change) -> None:
    write_json(file, json.loads(file.read_text()) | change)


@pytest.fixture(scope="session")
def made(tmp_path_factory):
    """A fresh copy of a made model's directory, by its kind."""

    def make(kind: str) -> Path:
        first = tmp_path_factory.getbasetemp() / f"made-model-{kind}"
        if not first.exists():
            write_lm(first, kind)
        return shutil.copytree(first, tmp_path_factory.mktemp(kind) / "model")

    return make


def peer(folder: Path):
    return sentence_transformers.SentenceTransformer(str(folder), device="cpu", model_kwargs={"dtype": torch.float32})


def assert_equal_vectors(encoder: Encoder, other, texts: list[str] = TEXTS, **options) -> None:
    """Within 1e-5, over texts whose vectors really differ."""
    expected = other.encode(texts, normalize_embeddings=True, **options)
    assert np.abs(expected - expected.mean(0)).max() > 0.02
    np.testing.assert_allclose(encoder.encode(texts), expected, atol=1e-5)


# of a decoder, the first token sees no text
TABLE = [(kind, pooling) for kind in KINDS for pooling in MODES if (kind, pooling) != ("qwen3", "cls")]


@pytest.mark.parametrize(("kind", "pooling"), TABLE)
def test_a_model_gives_the_vectors_that_sentence_transformers_gives_and_so_does_its_export(
    made, kind, pooling, tmp_path
):
    folder = write_modules(made(kind), pooling)
    encoder, other = Encoder.from_pretrained(folder), peer(folder)
    assert encoder.max_length == 64 and encoder.settings.pooling == pooling
    assert len(encoder.tokenize(TEXTS[-2:])[0]) == 64  # cut, at the last position
    assert_equal_vectors(encoder, other)
    export(folder, tmp_path / "export", "m")
    again = load_encoder(tmp_path / "export")
    assert again.settings == encoder.settings and weights_checksum(again) == weights_checksum(encoder)
    np.testing.assert_array_equal(again.encode(TEXTS), encoder.encode(TEXTS))
    assert_equal_vectors(encoder, peer(tmp_path / "export"))


def test_a_directory_without_modules_is_pooled_as_sentence_transformers_pools_it(made):
    folder = made("bert")
    assert_equal_vectors(Encoder.from_pretrained(folder), peer(folder))
    folder = made("qwen3")
    edit_json(folder / "config.json", architectures=["Qwen3ForCausalLM"])
    encoder = Encoder.from_pretrained(folder)
    assert encoder.settings.pooling == "last"
    assert_equal_vectors(encoder, peer(folder))


def test_what_sentence_transformers_saves_is_read_in_full(made, tmp_path):
    from sentence_transformers.models import Pooling, Transformer

    lm = Transformer(str(made("bert")), max_seq_length=20)
    modules = [lm, Pooling(32, "mean", include_prompt=False)]
    prompts = {"query": "w1 w2: ", "passage": "w3 "}
    other = sentence_transformers.SentenceTransformer(
        modules=modules, prompts=prompts, default_prompt_name="passage", truncate_dim=12, device="cpu"
    )
    other.save(str(tmp_path / "saved"))
    encoder = Encoder.from_pretrained(tmp_path / "saved")
    assert encoder.settings == Settings(20, "mean", prompts | {"document": ""}, "passage", False, 12)
    encoder.settings = replace(encoder.settings, default_prompt=None)
    assert encoder.encode(["w1"]).shape == (1, 12)
    assert_equal_vectors(encoder, other, prompt="")


def test_prompts_and_their_pooling_reach_the_export_and_sentence_transformers(made, tmp_path):
    prompts = {"query": "w1 w2 ", "passage": "w3 "}
    folder = write_modules(made("bert"), include_prompt=False, prompts=prompts, default_prompt_name="query")
    export(folder, tmp_path / "export", "m")
    for place in (folder, tmp_path / "export"):
        assert Encoder.from_pretrained(place).settings == Settings(64, "mean", prompts, "query", False, None)
        other = peer(place)
        assert other.default_prompt_name == "query" and other.prompts == prompts | {"document": ""}
        assert not other[1].include_prompt
    card = (tmp_path / "export" / "README.md").read_text()
    assert '"passage": "w3 "' in card and "'query' where none is asked for" in card


def test_the_cut_of_the_vectors_and_of_the_texts_is_obeyed_and_kept(made, tmp_path):
    folder = write_modules(made("bert"), truncate_dim=8)
    edit_json(folder / "tokenizer_config.json", truncation_side="left", model_max_length=16)
    export(folder, tmp_path / "export", "m", onnx=True)
    uncut = Encoder.from_pretrained(write_modules(made("bert")), 16)
    for place in (folder, tmp_path / "export"):
        encoder = Encoder.from_pretrained(place)
        assert encoder.encode(TEXTS).shape == (len(TEXTS), 8) and encoder.max_length == 16
        assert_equal_vectors(encoder, peer(place))
        assert encoder.tokenize(TEXTS) != uncut.tokenize(TEXTS)  # other tokens are left


@pytest.mark.parametrize("pooling", MODES)
def test_a_graph_pools_as_the_model_does_or_is_refused(made, pooling, tmp_path):
    pytest.importorskip("onnxruntime", reason="pip install -r requirements-onnx.txt")
    from gte.models.onnx import onnx_embeddings

    def graph(folder: Path) -> Path:
        export(folder, tmp_path / "export", "m", onnx=True)
        return tmp_path / "export" / "onnx" / "model.onnx"

    encoder = Encoder.from_pretrained(write_modules(made("bert"), pooling))
    found = onnx_embeddings(graph(write_modules(made("bert"), pooling)), encoder, TEXTS)
    np.testing.assert_allclose(found, encoder.encode(TEXTS), atol=1e-4)
    folder = write_modules(made("bert"), pooling, include_prompt=False, prompts={"query": "w1 w2 "})
    if pooling != "last":
        with pytest.raises(UserError, match=r"onnx=true: .* \(include_prompt=false in 1_Pooling/config\.json\)"):
            graph(folder)
        return
    encoder = Encoder.from_pretrained(folder)
    found = onnx_embeddings(graph(folder), encoder, [f"w1 w2 {text}" for text in TEXTS])
    np.testing.assert_allclose(found, encoder.encode(TEXTS, prompt_name="query"), atol=1e-4)


@pytest.mark.parametrize("kind", ["t5", "bert"])
def test_a_run_and_its_checkpoint_keep_the_settings(made, kind, tmp_path):
    from gte.models.load import describe

    folder = write_modules(made(kind), include_prompt=False, prompts={"query": "w1 "}, truncate_dim=8)
    encoder = Encoder.from_pretrained(folder, 30)
    content = {"state_dict": {f"encoder.{key}": value for key, value in encoder.state_dict().items()}}
    for name, schema in (("new", {}), ("old", {"schema": 1, "max_length": 30})):
        description = describe(encoder)
        if schema:
            description.pop("settings")
        torch.save(content | {"encoder": description | schema}, tmp_path / f"{name}.ckpt")
    again, old = load_encoder(tmp_path / "new.ckpt"), load_encoder(tmp_path / "old.ckpt")
    assert again.settings == encoder.settings == Settings(30, "mean", {"query": "w1 "}, None, False, 8)
    assert weights_checksum(again) == weights_checksum(encoder)
    np.testing.assert_array_equal(again.encode(TEXTS), encoder.encode(TEXTS))
    assert old.settings == Settings(30)  # of the time before prompts


def stated(folder: Path, **lengths) -> Path:
    """The lengths that a directory states: by config.json, tokenizer_config.json, sentence_bert_config.json."""
    for file, key in (
        ("config.json", "max_position_embeddings"),
        ("tokenizer_config.json", "model_max_length"),
        ("sentence_bert_config.json", "max_seq_length"),
    ):
        if key in lengths:
            content = json.loads((folder / file).read_text()) if (folder / file).exists() else {}
            write_json(folder / file, content | {key: lengths[key]})
    return folder


@pytest.mark.parametrize(
    ("kind", "lengths", "bound", "expected"),
    [
        ("modernbert", {"max_position_embeddings": 2048, "model_max_length": 2048}, None, 2048),
        ("modernbert", {"max_position_embeddings": 2048, "model_max_length": 2048}, 300, 300),
        (
            "modernbert",
            {"max_position_embeddings": 2048, "model_max_length": 10**30},
            None,
            2048,
        ),
        ("bert", {"max_seq_length": 20}, None, 20),
        ("bert", {"max_seq_length": 20}, 300, 20),
        ("bert", {"max_seq_length": 500}, None, 64),  # more than it has positions
        ("mpnet", {"model_max_length": 512}, None, 64),
        ("t5", {"model_max_length": 90}, None, 90),
        ("t5", {"model_max_length": 10**30}, None, 512),
        ("t5", {"model_max_length": 10**30}, 100, 100),
    ],
)
def test_the_length_is_the_models_own_and_a_number_only_bounds_it(made, kind, lengths, bound, expected, capsys):
    encoder = Encoder.from_pretrained(stated(write_modules(made(kind)), **lengths), bound)
    assert encoder.max_length == expected
    assert ("says no length" in capsys.readouterr().err) == (kind == "t5" and expected == 512)
    texts = ["w1 " * 2 * expected, "w1 " * expected + "w2"]
    assert np.isfinite(encoder.encode(texts)).all()


def test_the_end_of_a_text_within_the_models_length_has_a_say(made):
    folder = stated(write_modules(made("modernbert")), max_position_embeddings=2048, model_max_length=2048)
    encoder = Encoder.from_pretrained(folder)
    one, other, beyond = encoder.encode(["w1 " * 1500 + "w2", "w1 " * 1500 + "w3", "w1 " * 3000 + "w2"])
    assert np.abs(one - other).max() > 1e-6
    assert encoder.counts == Counter(texts=3, cut=1)
    np.testing.assert_array_equal(beyond, encoder.encode(["w1 " * 3000 + "w3"])[0])


def test_scripts_say_how_many_texts_were_cut(made, script, tmp_path):
    folder = stated(write_modules(made("bert")), max_seq_length=20)
    (tmp_path / "texts.txt").write_text("w1 w2\n" + "w1 " * 30 + "\n" + "w2 " * 31 + "\n")
    (tmp_path / "pairs.jsonl").write_text(json.dumps({"query": "w1", "pos": "w2 " * 40}) + '\n["w3", "w4 w5"]\n')
    scored = [{"sentence1": f"w{n} " * 25, "sentence2": f"w{n} w1", "score": n} for n in range(4)]
    (tmp_path / "tasks" / "STS12").mkdir(parents=True)
    (tmp_path / "tasks" / "STS12" / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in scored))
    model = f"checkpoint={folder}"
    for arguments, line in (
        (["embed", model, "in=texts.txt", "out=e.npy"], "2 of 3 texts have 20 tokens or more: what is beyond was cut"),
        (["eval", model, "suite=local", "data_dir=tasks", "out=scores"], "4 of 8 texts have 20 tokens or more"),
        (["mine", model, "in=pairs.jsonl", "out=mined"], "1 of 4 texts have 20 tokens or more"),
        (["search", model, "folder=tasks", "query=w1"], "4 of 4 texts have 20 tokens or more"),
    ):
        code, out, err = script(*arguments, "precision=fp32")
        assert code == 0 and line in out, (arguments, out, err)


# --- weights that do not fit


def rewrite(folder: Path, change) -> None:
    """model.safetensors with other weights: change(dict) -> dict."""
    weights = change(load_file(folder / "model.safetensors"))
    save_file({key: value.clone() for key, value in weights.items()}, folder / "model.safetensors", {"format": "pt"})


@pytest.mark.parametrize("prefix", ["model.", "module.", "0.auto_model.", "_orig_mod.", "roberta.", "bert.", "a.b.c."])
@pytest.mark.parametrize("kind", ["bert", "roberta", "modernbert"])
def test_a_prefix_of_all_weights_is_undone(made, kind, prefix):
    folder = made(kind)
    expected = Encoder.from_pretrained(folder).encode(TEXTS)
    rewrite(folder, lambda weights: {prefix + key: value for key, value in weights.items()})
    np.testing.assert_array_equal(Encoder.from_pretrained(folder).encode(TEXTS), expected)


def test_prefixes_within_names_and_heads_beside_them_are_undone(made):
    folder = made("bert")
    expected = Encoder.from_pretrained(folder).encode(TEXTS)

    def change(weights: dict) -> dict:
        renamed = {f"module.bert.{key}": value for key, value in weights.items()}
        renamed = {key.replace("encoder.layer", "encoder._orig_mod.layer"): v for key, v in renamed.items()}
        return renamed | {"module.cls.predictions.bias": torch.zeros(65), "module.lm_head.weight": torch.zeros(3, 3)}

    rewrite(folder, change)
    np.testing.assert_array_equal(Encoder.from_pretrained(folder).encode(TEXTS), expected)


@pytest.mark.parametrize("prefix", ["", "model."])
def test_the_first_missing_weight_is_named(made, prefix):
    folder = made("bert")
    rewrite(folder, lambda weights: {prefix + k: v for k, v in weights.items() if "layer.1.attention" not in k})
    with pytest.raises(
        UserError, match=r"model\.safetensors has no encoder\.layer\.1\.attention\.self\.query\.weight \(10 of 39 w"
    ):
        Encoder.from_pretrained(folder)


def test_two_towers_of_weights_and_weights_of_another_shape_are_refused(made):
    folder = made("bert")
    rewrite(folder, lambda w: {f"{side}.{key}": value for side in ("query", "document") for key, value in w.items()})
    with pytest.raises(UserError, match=r"has no embeddings\.word_embeddings\.weight"):
        Encoder.from_pretrained(folder)
    folder = made("bert")
    rewrite(folder, lambda weights: weights | {"encoder.layer.0.output.dense.bias": torch.zeros(7)})
    with pytest.raises(UserError, match=r"encoder\.layer\.0\.output\.dense\.bias is \(7,\) in .* and \(32,\) by"):
        Encoder.from_pretrained(folder)


def test_a_missing_pooler_matters_not_and_two_loads_are_one_model(made, tmp_path):
    folder = made("bert")
    expected = Encoder.from_pretrained(folder).encode(TEXTS)
    rewrite(folder, lambda weights: {key: value for key, value in weights.items() if "pooler" not in key})
    one, same = Encoder.from_pretrained(folder), Encoder.from_pretrained(folder)
    np.testing.assert_array_equal(one.encode(TEXTS), expected)
    assert weights_checksum(one) == weights_checksum(same)


def test_pickled_weights_and_a_vocabulary_alone_are_read(bin_model):
    folder, lm = bin_model
    encoder = Encoder.from_pretrained(folder)
    torch.testing.assert_close(encoder.lm.state_dict(), {k: v for k, v in lm.state_dict().items() if "pooler" not in k})
    assert encoder.tokenizer.is_fast and encoder.tokenize(["ONE two"]) == [[2, 5, 6, 3]]
    assert_equal_vectors(encoder, peer(folder), ["one", "two one", "one two two"])


def test_pickled_weights_that_are_code_or_no_weights_are_one_line_without_advice_to_run_them(bin_model, tmp_path):
    class Evil:
        def __reduce__(self):
            return (open, (str(tmp_path / "ran"), "w"))

    folder, _ = bin_model
    for content, line in ((Evil(), "it would run io.open"), (b"no pickle", "torch.save has not written it")):
        if isinstance(content, bytes):
            (folder / "pytorch_model.bin").write_bytes(content)
        else:
            torch.save({"embeddings.word_embeddings.weight": content}, folder / "pytorch_model.bin")
        with pytest.raises(UserError, match=rf"cannot read the weights .*pytorch_model\.bin: {line}") as refusal:
            Encoder.from_pretrained(folder)
        assert "\n" not in str(refusal.value)
    assert not (tmp_path / "ran").exists()


@pytest.fixture
def bin_model(tmp_path):
    """As microsoft/MiniLM-L12-H384-uncased on its main branch: config.json, vocab.txt, pytorch_model.bin."""
    folder = tmp_path / "bin"
    folder.mkdir()
    config = AutoConfig.for_model("bert", **BERT, vocab_size=8)
    config.save_pretrained(folder)
    lm = AutoModel.from_config(config)
    torch.save(lm.state_dict(), folder / "pytorch_model.bin")
    (folder / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "one", "two", "##s"]))
    return folder, lm


# --- what is no encoder of ours


def dense(folder: Path) -> None:
    modules = json.loads((folder / "modules.json").read_text())
    modules[2] |= {"type": "sentence_transformers.models.Dense", "path": "2_Dense"}
    write_json(folder / "modules.json", modules)


def only(kind: str):
    def change(folder: Path) -> None:
        write_json(folder / "modules.json", [{"type": f"sentence_transformers.models.{kind}", "path": "0_It"}])

    return change


def edit(file: str, **keys):
    return lambda folder: edit_json(folder / file, **keys)


def write(file: str, **keys):
    return lambda folder: write_json(folder / file, keys)


POOLING, WHOLE, OWN = "1_Pooling/config.json", "config_sentence_transformers.json", "sentence_bert_config.json"
REFUSED = [
    (dense, r"modules\.json: module 2 \('2_Dense'\) is Dense"),
    (only("Router"), r"modules\.json: module 0 \('0_It'\) is Router"),
    (only("Asym"), r"modules\.json: module 0 \('0_It'\) is Asym"),
    (only("WordEmbeddings"), r"modules\.json: module 0 \('0_It'\) is WordEmbeddings"),
    (only("CLIPModel"), r"modules\.json: module 0 \('0_It'\) is CLIPModel"),
    (only("Transformer"), r"modules\.json: one of Transformer and Pooling is missing"),
    (edit(POOLING, pooling_mode="max"), r"1_Pooling/config\.json: pooling_mode=\['max'\]; .* mean, cls, lasttoken"),
    (edit(POOLING, pooling_mode=["mean", "cls"]), r"config\.json: pooling_mode=\['mean', 'cls'\]"),
    (write(POOLING, pooling_mode_cls_token=True, pooling_mode_mean_tokens=True), r"pooling_mode=\['cls', 'mean'\]"),
    (write(POOLING, pooling_mode_new_tokens=True), r"config\.json: pooling_mode=\['pooling_mode_new_tokens'\]"),
    (edit(POOLING, include_prompt="no"), r"config\.json: include_prompt='no' must be true or false"),
    (edit(WHOLE, prompts=["query: "]), r"transformers\.json: prompts=\['query: '\] must give words by name"),
    (edit(WHOLE, default_prompt_name="q"), r"default_prompt_name='q' is not one of its prompts \(none\)"),
    (edit(WHOLE, truncate_dim=0), r"transformers\.json: truncate_dim=0 must be a number"),
    (edit(WHOLE, model_type="SparseEncoder"), r"transformers\.json: model_type=SparseEncoder"),
    (write(OWN, max_seq_length="long"), r"bert_config\.json: max_seq_length='long'"),
    (write(OWN, query_length=8), r"bert_config\.json: query_length=8 is not supported"),
    (write(OWN, transformer_task="fill-mask"), r"bert_config\.json: transformer_task='fill-mask' is not supported"),
    (
        write(OWN, tokenizer_args={"add_special_tokens": False, "dtype": 1}),
        r"json: tokenizer_args\.add_special_tokens=False",
    ),
    (write("adapter_config.json", peft_type="LORA"), r"adapter_config\.json: adapters are not read"),
]


@pytest.mark.parametrize(("change", "line"), REFUSED)
def test_what_would_give_other_vectors_is_refused_by_file_and_key(made, change, line):
    folder = write_modules(made("bert"))
    Encoder.from_pretrained(folder)
    change(folder)
    with pytest.raises(UserError, match=line) as refusal:
        Encoder.from_pretrained(folder)
    assert "\n" not in str(refusal.value)


def test_settings_that_change_no_vector_are_taken(made):
    folder = write_modules(made("bert"))
    expected = Encoder.from_pretrained(folder).encode(TEXTS)
    own = {"model_args": {"torch_dtype": "float16"}, "do_lower_case": True, "transformer_task": "feature-extraction"}
    write_json(folder / "sentence_roberta_config.json", own)  # the tokenizer's own normalizer lower-cases
    np.testing.assert_array_equal(Encoder.from_pretrained(folder).encode(TEXTS), expected)


def test_lower_casing_that_the_tokenizer_does_not_do_is_refused_wherever_a_tokenizer_is_loaded(made):
    folder = write_modules(made("bert"))
    edit_json(folder / "tokenizer.json", normalizer=None)
    Encoder.from_pretrained(folder)
    write_json(folder / OWN, {"do_lower_case": True})
    for load in (Encoder.from_pretrained, load_tokenizer):
        with pytest.raises(UserError, match=r"sentence_bert_config\.json: do_lower_case is not supported"):
            load(folder)


def test_models_compared_by_another_measure_are_said_to_be(made, capsys):
    folder = write_modules(made("bert"), similarity_fn_name="dot")
    Encoder.from_pretrained(folder)
    assert capsys.readouterr().err == ""  # of unit length by a module of theirs
    write_json(folder / "modules.json", json.loads((folder / "modules.json").read_text())[:2])
    Encoder.from_pretrained(folder)
    line = capsys.readouterr().err
    assert "config_sentence_transformers.json: made to be compared by dot" in line and line.count("\n") == 1


@pytest.mark.parametrize(
    ("kind", "sizes", "line"),
    [
        ("bart", dict(d_model=32, encoder_layers=1, decoder_layers=1, encoder_ffn_dim=32, decoder_ffn_dim=32,
                      encoder_attention_heads=2, decoder_attention_heads=2), "a bart is an encoder and a decoder"),
        ("clip", dict(projection_dim=16), "CLIPModel"),
        ("xlnet", dict(d_model=32, n_layer=1, n_head=2, d_inner=32), "token_type_ids, which are not given"),
    ],
)  # fmt: skip
def test_language_models_of_another_build_are_one_line(made, kind, sizes, line):
    folder = made("bert")
    tower = dict(hidden_size=32, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2)
    towers = {"text_config": tower | {"vocab_size": 65}, "vision_config": tower} if kind == "clip" else {}
    config = AutoConfig.for_model(kind, **sizes, **towers)
    if kind != "clip":
        config.vocab_size = 65
    AutoModel.from_config(config).save_pretrained(folder)
    if kind == "xlnet":
        rules = json.loads((folder / "tokenizer.json").read_text())
        rules["post_processor"]["single"][0]["SpecialToken"]["type_id"] = 2
        write_json(folder / "tokenizer.json", rules)
        edit_json(folder / "tokenizer_config.json", model_input_names=["input_ids", "token_type_ids"])
    with pytest.raises(UserError, match=line) as refusal:
        Encoder.from_pretrained(folder)
    assert "\n" not in str(refusal.value)


def test_a_kind_whose_vectors_depend_on_the_texts_beside_is_refused(tmp_path):
    for kind in ("fnet", "convbert"):
        write_lm(tmp_path / kind, kind)
        with pytest.raises(UserError, match="gives a text other vectors beside a longer one") as refusal:
            Encoder.from_pretrained(tmp_path / kind)
        assert kind in str(refusal.value) and "\n" not in str(refusal.value)


def test_a_bigbird_is_read_as_far_as_its_attention_does_not_change_with_the_texts_before(tmp_path):
    blocks = {"attention_type": "block_sparse", "block_size": 4, "num_random_blocks": 1}
    write_lm(tmp_path, "big_bird", **blocks)
    fresh = AutoModel.from_pretrained(tmp_path).eval()
    ids = torch.tensor([Encoder.from_pretrained(tmp_path, 28).tokenize(["w1 w2 w3 " * 20])[0] * 2])
    with torch.inference_mode():  # what is refused really happens: 56 tokens, before and after a text of 28
        before, _, after = (fresh(part).last_hidden_state for part in (ids, ids[:, :28], ids))
    assert (before - after).abs().max() > 1e-3
    line = r"attention_type=block_sparse gives texts of more than 28 tokens other .* max_seq_length=28"
    with pytest.raises(UserError, match=line):
        Encoder.from_pretrained(tmp_path)
    write_json(tmp_path / OWN, {"max_seq_length": 28})
    encoder = Encoder.from_pretrained(write_modules(tmp_path))
    assert_equal_vectors(encoder, peer(tmp_path))
    (tmp_path / OWN).unlink()
    edit_json(tmp_path / "config.json", attention_type="original_full")
    assert_equal_vectors(Encoder.from_pretrained(tmp_path), peer(tmp_path))


# --- identity


CHANGES = {
    "pooling": edit(POOLING, pooling_mode="cls"),
    "include_prompt": edit(POOLING, include_prompt=False),
    "prompts": edit(WHOLE, prompts={"query": "w1 "}),
    "truncate_dim": edit(WHOLE, truncate_dim=8),
    "length": write(OWN, max_seq_length=20),
    "layer_norm_eps": edit("config.json", layer_norm_eps=0.1),
    "hidden_act": edit("config.json", hidden_act="relu"),
    "truncation_side": edit("tokenizer_config.json", truncation_side="left"),
    "lower case": edit("tokenizer.json", normalizer=None),
    "weights": lambda folder: rewrite(folder, lambda w: w | {"embeddings.LayerNorm.bias": torch.ones(32)}),
}


def test_all_that_changes_vectors_is_in_a_models_identity(made):
    identities = {weights_checksum(Encoder.from_pretrained(write_modules(made("bert"))))}
    edit_both = write_modules(made("bert"))
    edit_json(edit_both / "config.json", architectures=["Other"], transformers_version="1", id2label={"0": "x"})
    assert weights_checksum(Encoder.from_pretrained(edit_both)) in identities
    for change in CHANGES.values():
        folder = write_modules(made("bert"))
        change(folder)
        identities.add(weights_checksum(Encoder.from_pretrained(folder)))
    assert len(identities) == len(CHANGES) + 1


@pytest.mark.parametrize("setting", [{"local_attention": 8}, {"global_rope_theta": 1000.0}, {"norm_eps": 0.1}])
def test_a_modernberts_windows_and_rotation_are_in_its_identity(made, setting):
    folder = made("modernbert")
    before = weights_checksum(Encoder.from_pretrained(folder))
    config = json.loads((folder / "config.json").read_text())
    for rope in (config.get("rope_parameters") or {}).values():
        if "global_rope_theta" in setting and rope:
            rope["rope_theta"] = 1000.0
    write_json(folder / "config.json", config | setting)
    assert weights_checksum(Encoder.from_pretrained(folder)) != before


def test_added_tokens_and_what_stands_around_a_text_are_in_the_tokenizers_fingerprint():
    plain, added, bare = made_tokenizer(), made_tokenizer(), made_tokenizer()
    added.add_tokens(["[QUERY]"])
    bare.backend_tokenizer.post_processor = processors.TemplateProcessing(single="$A", special_tokens=[])
    assert len({fingerprint(tokenizer) for tokenizer in (plain, added, bare)}) == 3
    again = made_tokenizer()
    again(["w1 w2"], truncation=True, max_length=1, padding="max_length")
    assert fingerprint(again) == fingerprint(plain)


# --- the hub


class Hub(FakeHub):
    """Models by name and revision, each a directory; what was asked for is kept."""

    repositories: dict[str, dict[str, Path]]
    asked: Counter

    def do_POST(self) -> None:
        self.asked[f"POST {self.path}"] += 1
        self.reply(404)

    def do_GET(self) -> None:
        path = self.path.split("?")[0]
        self.asked[path] += 1
        parts = path.removeprefix("/api/models").strip("/").split("/")
        name, action, rest = "/".join(parts[:2]), parts[2:3], parts[3:]
        revisions = self.repositories.get(name, {})
        revision = rest[0] if rest else "main"
        commits = {commit_of(key): key for key in revisions}
        folder = revisions.get(commits.get(revision, revision))
        if folder is None:
            self.reply(404, X_Error_Code="RevisionNotFound" if revisions else "RepoNotFound")
            return
        commit = commit_of(commits.get(revision, revision))
        files = sorted(file for file in folder.rglob("*") if file.is_file())
        if action == ["tree"]:
            names = {str(file.relative_to(folder)): file for file in files}
            entries = [
                {"type": "file", "path": name, "size": file.stat().st_size, "oid": digest(file)}
                for name, file in names.items()
            ]
            self.reply(200, json.dumps(entries).encode())
        elif action == ["resolve"]:
            file = folder.joinpath(*rest[1:])
            if file in files:
                self.reply(200, file.read_bytes(), ETag=f'"{digest(file)}"', X_Repo_Commit=commit)
            else:
                self.reply(404, X_Error_Code="EntryNotFound")
        else:
            self.reply(200, json.dumps({"id": name, "sha": commit, "siblings": [], "private": False}).encode())


def digest(file: Path) -> str:
    return sha256(file.read_bytes()).hexdigest()


def commit_of(revision: str) -> str:
    return revision.encode().hex().ljust(40, "0")[:40]


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """A hub on 127.0.0.1 that this process asks; `repositories`: what it has, `asked`: what for."""
    handler = type("Models", (Hub,), {"repositories": {}, "asked": Counter()})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()  # seconds between its looks for an end
    endpoint = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", endpoint)
    monkeypatch.setattr(
        "huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", endpoint + "/{repo_id}/resolve/{revision}/{filename}"
    )
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    hub_reachable.cache_clear()
    yield handler
    hub_reachable.cache_clear()
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("kind", ["bert", "modernbert", "t5"])
def test_a_model_on_the_hub_is_read_as_its_folder_is(made, hub, kind):
    folder = write_modules(made(kind), "cls", False, prompts={"query": "w1 "}, truncate_dim=8)
    write_json(folder / OWN, {"max_seq_length": 20})
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")  # of no use beside the other
    hub.repositories["me/model"] = {"main": folder}
    here, there = Encoder.from_pretrained(folder), Encoder.from_pretrained("me/model")
    assert there.settings == here.settings == Settings(20, "cls", {"query": "w1 "}, None, False, 8)
    np.testing.assert_array_equal(there.encode(TEXTS), here.encode(TEXTS))
    assert weights_checksum(there) == weights_checksum(here)
    assert fingerprint(load_tokenizer("me/model")) == fingerprint(load_tokenizer(folder))
    assert not any(path.endswith(".bin") for path in hub.asked)


def test_a_model_on_the_hub_is_scored_on_folders_and_nothing_else_is_asked_for(made, hub, script, tmp_path):
    hub.repositories["me/model"] = {"main": write_modules(made("bert"), "cls")}
    rows = [{"sentence1": f"w{n} w1", "sentence2": f"w{n * 7 % 5} w2", "score": n} for n in range(9)]
    (tmp_path / "tasks" / "STS12").mkdir(parents=True)
    (tmp_path / "tasks" / "STS12" / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    code, out, err = script("eval", "checkpoint=me/model", "suite=local", "data_dir=tasks", "precision=fp32", "out=e")
    assert code == 0 and "HTTP Request" not in out + err, out + err
    assert hub.asked and all(path.startswith(("/api/models/me/model", "/me/model/")) for path in hub.asked)


def test_the_module_that_cuts_vectors_comes_from_the_hub_too(made, hub, tmp_path):
    export(write_modules(made("bert"), truncate_dim=8), tmp_path / "export", "m")
    hub.repositories["me/model"] = {"main": tmp_path / "export"}
    there = Encoder.from_pretrained("me/model")
    assert there.settings.truncate_dim == 8
    np.testing.assert_array_equal(there.encode(TEXTS), Encoder.from_pretrained(tmp_path / "export").encode(TEXTS))


def test_the_card_of_a_model_on_the_hub_goes_into_that_of_its_export(made, hub, tmp_path):
    folder = write_modules(made("bert"))
    (folder / "README.md").write_text("---\nlicense: mit\nlanguage: de\n---\n# x\n")
    hub.repositories["me/model"] = {"main": folder}
    export("me/model", tmp_path / "export", "m")
    card = (tmp_path / "export" / "README.md").read_text()
    assert all(line in card.splitlines() for line in ("license: mit", "language: de", "base_model: me/model"))


@pytest.mark.parametrize("place", ["", "me/model"])
def test_an_adapter_is_refused_by_name_wherever_it_lies(made, hub, tmp_path, place):
    """As PEFT saves it: the adapter's weights, with a tokenizer or without, and no config.json."""
    folder = made("bert")
    for file in ("config.json", "model.safetensors"):
        (folder / file).unlink()
    write_json(folder / "adapter_config.json", {"peft_type": "LORA", "base_model_name_or_path": "me/base"})
    (folder / "adapter_model.safetensors").write_bytes(b"")
    hub.repositories["me/model"] = {"main": folder}
    for load in (load_encoder, Encoder.from_pretrained):
        with pytest.raises(UserError, match=r"adapter_config\.json: adapters are not read; merge it"):
            load(place or folder)


def test_a_revision_of_a_directory_is_refused(made):
    folder = made("bert")
    for load in (Encoder.from_pretrained, load_tokenizer):
        with pytest.raises(UserError, match=r"revision=v2 is of a name on the hub, .* is a directory"):
            load(folder, revision="v2")


def test_a_revision_is_the_one_that_was_asked_for(made, hub):
    one, other = write_modules(made("bert")), write_modules(made("bert"))
    CHANGES["weights"](other)
    hub.repositories["me/model"] = {"main": one, "v2": other}
    for revision, folder in ((None, one), ("v2", other), (commit_of("v2"), other)):
        found = Encoder.from_pretrained("me/model", revision=revision)
        np.testing.assert_array_equal(found.encode(TEXTS), Encoder.from_pretrained(folder).encode(TEXTS))
    with pytest.raises(UserError, match="the hub did not give it"):
        Encoder.from_pretrained("me/model", revision="v3")


def test_data_are_prepared_with_the_tokenizer_of_the_models_revision_which_the_manifest_keeps(
    made, hub, script, tmp_path
):
    one, other = write_modules(made("bert")), write_modules(made("bert"))
    changed = json.loads((other / "tokenizer.json").read_text())
    changed["model"]["vocab"] = {word: 7 - id if id in (3, 4) else id for word, id in changed["model"]["vocab"].items()}
    write_json(other / "tokenizer.json", changed)
    hub.repositories["me/model"] = {"main": one, "v2": other}
    (tmp_path / "raw").mkdir()
    pairs = [json.dumps({"query": f"w{n} w1", "pos": f"w{n * 7 % 5} w2 {n}"}) for n in range(9)]
    (tmp_path / "raw" / "a.jsonl").write_text("\n".join(pairs))
    local = ["data=local", "data.path=raw", "model=me/model"]
    found = {}
    for revision, folder in (("main", one), ("v2", other)):
        code, out, err = script("prepare", *local, f"model.revision={revision}", f"out={revision}")
        assert code == 0, out + err
        found[revision] = Manifest.load(tmp_path / revision).tokenizer
        assert found[revision]["revision"] == commit_of(revision)
        assert found[revision]["fingerprint"] == fingerprint(load_tokenizer(folder))
    assert found["main"]["fingerprint"] != found["v2"]["fingerprint"]
    again = script.refused("prepare", *local, "model.revision=v3", "out=v3")
    assert "the hub did not give it" in again
    assert "tokenizer_revision: v2 -> main" in script.refused("prepare", *local, "model.revision=main", "out=v2")
    line = script.refused("prepare", "data=local", "data.path=raw", f"model={one}", "model.revision=v2", "out=x")
    assert "data.tokenizer_revision=v2 is of a name on the hub" in line


def test_weights_in_a_pickle_come_from_the_hub_without_a_service_and_again_without_a_hub(bin_model, hub, monkeypatch):
    folder, _ = bin_model
    hub.repositories["microsoft/model"] = {"main": folder}
    texts = ["one two", "twos"]
    expected = Encoder.from_pretrained(folder).encode(texts)
    np.testing.assert_array_equal(Encoder.from_pretrained("microsoft/model").encode(texts), expected)
    known = ("/api/models/microsoft/model", "/microsoft/model/resolve/")
    assert hub.asked and all(path.startswith(known) for path in hub.asked)
    assert not any("discussions" in path or "refs" in path or "POST" in path for path in hub.asked)
    hub.asked.clear()
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    hub_reachable.cache_clear()
    np.testing.assert_array_equal(Encoder.from_pretrained("microsoft/model").encode(texts), expected)
    assert not hub.asked


def test_a_cache_that_knows_not_of_modules_is_said_to(made, hub, monkeypatch, capsys, tmp_path):
    snapshots = tmp_path / "cache" / "models--me--old" / "snapshots" / commit_of("main")
    shutil.copytree(made("bert"), snapshots)
    write_refs = snapshots.parents[1] / "refs"
    write_refs.mkdir()
    (write_refs / "main").write_text(commit_of("main"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    hub_reachable.cache_clear()
    Encoder.from_pretrained("me/old")
    assert "does not know whether it has a modules.json" in capsys.readouterr().err
    with pytest.raises(UserError, match="the hub did not give it"):
        Encoder.from_pretrained("me/new")


def test_a_resumed_run_keeps_the_cut_of_the_vectors_that_it_took_from_its_first_model(made, tmp_path):
    plain = shutil.copytree(made("bert"), tmp_path / "plain")
    folder = write_modules(made("bert"), truncate_dim=8, prompts={"query": "w1 "})
    encoder = Encoder.from_pretrained(plain)
    initialize(encoder, folder)
    assert (encoder.settings.truncate_dim, encoder.settings.prompts) == (8, {"query": "w1 "})
    prompted = Encoder.from_pretrained(plain)
    prompted.settings = replace(prompted.settings, prompts={"query": "own "})
    initialize(prompted, folder)
    assert (prompted.settings.truncate_dim, prompted.settings.prompts) == (8, {"query": "w1 "})
    state = {f"encoder.{key}": value for key, value in encoder.state_dict().items()}
    torch.save({"encoder": describe(encoder), "state_dict": state}, tmp_path / "last.ckpt")
    resumed = Encoder.from_pretrained(plain)
    take_prompts(resumed, tmp_path / "last.ckpt")
    assert resumed.settings == encoder.settings
