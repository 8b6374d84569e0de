"""Models out: exports load in other programs and compute the same, say how they were made, and reach a hub."""

import base64
import json
import os
import re
import shutil
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import launch
import numpy as np
import pytest
import torch
import yaml
from conftest import RECORD
from safetensors.torch import load_file, save_file

from gte.errors import UserError
from gte.evaluation.model import load_model
from gte.hub import hub_reachable
from gte.models.card import find_scores
from gte.models.export import check_push, export, push
from gte.models.load import history, load_encoder
from gte.models.onnx import SAMPLE, onnx_embeddings

TEXTS = ["", "one", "many words in a row " * 30, "query about a document"]
TOKEN = "hf_secretsecretsecretsecret"


def pairs_folder(folder: Path) -> Path:
    """A small STS task whose sentences are of many lengths."""
    folder.mkdir()
    rows = [
        {"sentence1": f"{'many words ' * n}one", "sentence2": f"text number {n}", "score": n % 5} for n in range(1, 21)
    ]
    (folder / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.fixture(scope="module")
def minilm_export(minilm, tmp_path_factory):
    """all-MiniLM-L6-v2 with both ONNX files, and what the comparison said of them."""
    pytest.importorskip("onnxruntime", reason="pip install -r requirements-onnx.txt")
    out = tmp_path_factory.mktemp("minilm") / "model"
    return out, export(minilm, out, "minilm", int8=True)


@pytest.fixture
def results(run, tmp_path):
    """A results.json in which this run's model is one of two."""
    task = {
        "type": "STS",
        "metric": "cosine_spearman",
        "main_score": 81.234,
        "data": "sha256:abcdef",
        "source": "folder",
    }
    entry = {"precision": "bf16", "tasks": {"STS12": task}}
    weights = load_model(str(run[0]), "fp32", None, "cpu", False).describe()["weights"]
    other = entry | {"weights": "sha256:0", "tasks": {"STS12": task | {"main_score": 1.0}}}
    models = {"other": other, "mine": entry | {"weights": weights}}
    (tmp_path / "eval").mkdir()
    content = {"commit": "c0ffee", "created": "2026-01-02T03:04:05", "models": models}
    (tmp_path / "eval" / "results.json").write_text(json.dumps(content))
    return tmp_path / "eval"


def head(card: str) -> dict:
    """The YAML metadata of a card."""
    return yaml.safe_load(re.match(r"---\n(.*?)\n---\n", card, re.DOTALL)[1])


def test_sentence_transformers_and_transformers_load_the_export(run, tmp_path):
    sentence_transformers = pytest.importorskip("sentence_transformers")
    from transformers import AutoModel, AutoTokenizer

    folder, encoder = run
    export(folder, tmp_path / "model", "my-model")
    peer = sentence_transformers.SentenceTransformer(str(tmp_path / "model"), device="cpu")
    np.testing.assert_allclose(peer.encode(TEXTS), encoder.encode(TEXTS), atol=1e-5)
    assert peer.max_seq_length == 32
    inputs = AutoTokenizer.from_pretrained(tmp_path / "model")("one", return_tensors="pt")
    lm, loading = AutoModel.from_pretrained(tmp_path / "model", output_loading_info=True)
    assert not any(loading.values())  # no weight is missing, left over or of another shape
    hidden = lm.eval()(**inputs).last_hidden_state
    np.testing.assert_allclose(hidden[0].mean(0).detach(), encoder.encode(["one"], normalize=False)[0], atol=1e-5)


def test_an_export_cut_to_a_width_gives_unit_vectors_of_that_width_by_the_default_calls_of_every_loader(run, tmp_path):
    sentence_transformers = pytest.importorskip("sentence_transformers")
    folder, encoder = run
    width = encoder.width // 2
    export(folder, tmp_path / "model", "my-model", truncate_dim=width)
    cut = encoder.encode(TEXTS)[:, :width]
    assert np.linalg.norm(cut, axis=1).max() < 0.9
    cut /= np.linalg.norm(cut, axis=1, keepdims=True)
    peer = sentence_transformers.SentenceTransformer(str(tmp_path / "model"), device="cpu")
    np.testing.assert_allclose(peer.encode(TEXTS), cut, atol=1e-5)
    assert peer.get_embedding_dimension() == width
    peer.save(str(tmp_path / "saved"))
    for place in (tmp_path / "model", tmp_path / "saved"):
        loaded = load_encoder(place)
        np.testing.assert_allclose(loaded.encode(TEXTS), cut, atol=1e-5)
        assert loaded.settings.truncate_dim == width
        np.testing.assert_array_equal(  # the language model is all there
            loaded.encode(TEXTS, normalize=False), encoder.encode(TEXTS, normalize=False)[:, :width]
        )
    with pytest.raises(UserError, match=f"truncate_dim={encoder.width + 1} must be from 1 to {encoder.width}"):
        export(folder, tmp_path / "other", "my-model", truncate_dim=encoder.width + 1)
    assert not (tmp_path / "other").exists()


def edit_dense(weight=None, **config):
    """A change of the module that cuts vectors: a function of its weight, keys of its config."""

    def change(folder: Path) -> None:
        file = folder / "config.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | config))
        if weight is not None:
            eye = load_file(folder / "model.safetensors")["linear.weight"]
            save_file({"linear.weight": weight(eye).contiguous()}, folder / "model.safetensors")

    return change


@pytest.mark.parametrize(
    "change",
    [
        edit_dense(lambda eye: 2 * eye),
        edit_dense(lambda eye: eye.flip(0)),
        edit_dense(lambda eye: eye.roll(1, 1)),
        edit_dense(activation_function="torch.nn.modules.activation.Tanh"),
        edit_dense(use_residual=True),
        edit_dense(module_output_name="other"),
        lambda folder: (folder / "model.safetensors").unlink(),
    ],
)
def test_a_module_that_does_more_than_cut_vectors_is_refused_by_name(run, tmp_path, change):
    export(run[0], tmp_path / "model", "m", truncate_dim=8)
    load_encoder(tmp_path / "model")
    change(tmp_path / "model" / "2_Dense")
    with pytest.raises(UserError, match=r"modules\.json: module 2 \('2_Dense'\) is Dense"):
        load_encoder(tmp_path / "model")


def test_export_holds_safetensors_only_and_a_card_that_says_how_it_was_trained(run, tmp_path):
    export(run[0], tmp_path / "model", "my-model")
    names = {path.name for path in (tmp_path / "model").rglob("*") if path.is_file()}
    assert "model.safetensors" in names and not {n for n in names if n.endswith((".bin", ".pt", ".ckpt", ".pkl"))}
    card = (tmp_path / "model" / "README.md").read_text()
    for fact in (
        "# my-model",
        "stage 1: pretrain",
        "7 of 8 pairs",
        "0.0003",
        "| titles | 1,234 | 100.0% | CC0 1.0 |",
        "abc",
    ):
        assert fact in card
    assert history(tmp_path / "model") == history(run[0]) == [RECORD]


def export_here(run: Path, out: Path) -> None:
    """Exports, and writes down by which seed this process hashes."""
    export(run, out, "name")
    Path("seed").write_text(str(hash("a text")))


def test_two_processes_export_equal_models_in_equal_bytes(run, tmp_path):
    """safetensors writes its metadata in the order of a hash that differs from process to process: ours is one key."""
    assert launch.start(1, export_here, run[0], tmp_path / "b", cwd=tmp_path, launcher=launch.alone) == [0]
    export(run[0], tmp_path / "a", "name")
    assert "PYTHONHASHSEED" in os.environ or (tmp_path / "seed").read_text() != str(hash("a text"))
    files = [sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
             for folder in (tmp_path / "a", tmp_path / "b")]  # fmt: skip
    assert files[0] == files[1] and Path("model.safetensors") in files[0]
    for name in files[0]:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes(), name


def test_export_does_not_overwrite_what_is_no_model(run, tmp_path):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter1.txt").write_text("years of work")
    with pytest.raises(UserError, match="is no model directory"):
        export(run[0], tmp_path / "thesis", "x")
    assert (tmp_path / "thesis" / "chapter1.txt").exists()


def test_exported_configuration_is_plain_json(run, tmp_path):
    export(run[0], tmp_path / "model", "my-model")
    modules = json.loads((tmp_path / "model" / "modules.json").read_text())
    assert [module["type"].rsplit(".", 1)[-1] for module in modules] == ["Transformer", "Pooling", "Normalize"]


def test_tokenizers_trained_here_carry_a_class_name_that_transformers_4_knows(run, tmp_path):
    export(run[0], tmp_path / "model", "my-model")
    config = json.loads((tmp_path / "model" / "tokenizer_config.json").read_text())
    assert config["tokenizer_class"] == "PreTrainedTokenizerFast"


def test_onnx_gives_the_vectors_of_the_encoder_for_texts_of_all_lengths(minilm_export, minilm):
    out, (torch_row, onnx_row, int8_row) = minilm_export
    encoder = load_encoder(minilm)
    found, expected = (
        onnx_embeddings(out / "onnx" / "model.onnx", encoder, [*SAMPLE, *TEXTS]),
        encoder.encode([*SAMPLE, *TEXTS]),
    )
    np.testing.assert_allclose(found, expected, atol=1e-4)
    lengths = [len(ids) for ids in encoder.tokenize(SAMPLE)]
    assert min(lengths) == 2 and max(lengths) == encoder.max_length == 256
    assert torch_row.lowest_cosine > 0.99999 and onnx_row.lowest_cosine > 0.99999
    assert 0.9 < int8_row.lowest_cosine < 0.9999 and int8_row.megabytes < 0.3 * onnx_row.megabytes


def test_an_int8_vector_depends_on_its_batch_as_the_card_says_and_a_float32_one_does_not(minilm_export, minilm):
    out, _ = minilm_export
    encoder = load_encoder(minilm)
    least = {}
    for form in ("model", "model_int8"):
        file = out / "onnx" / f"{form}.onnx"
        alone, together = (onnx_embeddings(file, encoder, list(TEXTS), rows=rows) for rows in (1, len(TEXTS)))
        least[form] = float((alone * together).sum(1).min())
    assert least["model"] > 0.99999 and least["model_int8"] < 0.9999, least
    assert "a text's vector depends on what else is in it" in (out / "README.md").read_text()


def test_onnxruntime_alone_works_as_the_card_shows(minilm_export, minilm, monkeypatch):
    out, _ = minilm_export
    monkeypatch.chdir(out)
    code = re.search(r"```python\n(import numpy, onnxruntime.*?)```", (out / "README.md").read_text(), re.DOTALL)[1]
    names: dict = {}
    exec(code, names)
    expected = load_encoder(minilm).encode(["a query", "a document"])
    np.testing.assert_allclose(names["embeddings"], expected, atol=1e-4)


def test_the_graph_has_what_sentence_transformers_onnx_backend_reads(minilm_export, minilm):
    """optimum hands last_hidden_state to the pooling module; it needs transformers 4, so its part is played here."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(minilm_export[0] / "onnx" / "model.onnx"))
    assert [x.name for x in session.get_inputs()] == ["input_ids", "attention_mask"]
    encoder = load_encoder(minilm)
    ids = np.array(encoder.tokenize(["one two three"]))
    hidden = session.run(["last_hidden_state"], {"input_ids": ids, "attention_mask": np.ones_like(ids)})[0]
    np.testing.assert_allclose(hidden[0].mean(0), encoder.encode(["one two three"], normalize=False)[0], atol=1e-4)


def test_scores_on_an_sts_folder_are_those_of_each_form_of_the_model(run, tmp_path):
    from scipy.stats import spearmanr

    pytest.importorskip("onnxruntime", reason="pip install -r requirements-onnx.txt")
    folder, encoder = run
    sts = pairs_folder(tmp_path / "Pairs")
    comparisons = export(folder, tmp_path / "model", "m", int8=True, sts=str(sts))
    rows = [json.loads(line) for line in (sts / "test.jsonl").read_text().splitlines()]
    scores = [row["score"] for row in rows]
    forms = {
        "PyTorch, float32": encoder.encode,
        "onnx/model.onnx": lambda texts: onnx_embeddings(tmp_path / "model" / "onnx" / "model.onnx", encoder, texts),
        "onnx/model_int8.onnx": lambda texts: onnx_embeddings(
            tmp_path / "model" / "onnx" / "model_int8.onnx", encoder, texts
        ),
    }
    card = (tmp_path / "model" / "README.md").read_text()
    for comparison in comparisons:
        a, b = (forms[comparison.form]([row[side] for row in rows]) for side in ("sentence1", "sentence2"))
        expected = 100 * spearmanr((a * b).sum(1), scores).statistic
        assert comparison.spearman == pytest.approx(expected, abs=1e-4) and comparison.texts == 40
        assert f"| {comparison.form} |" in card and f"{expected:.2f} |" in card


def test_a_graph_that_differs_from_the_model_is_not_exported(run, tmp_path, monkeypatch):
    pytest.importorskip("onnxruntime", reason="pip install -r requirements-onnx.txt")
    monkeypatch.setattr("gte.models.onnx.Graph.forward", lambda self, input_ids, attention_mask: (
        self.lm(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state,
        self.lm(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state[:, 0],
    ))  # fmt: skip
    with pytest.raises(UserError, match=r"differs by .* from PyTorch"):
        export(run[0], tmp_path / "model", "m", onnx=True)
    assert not (tmp_path / "model").exists()


def test_the_card_has_the_scores_of_these_weights_and_of_no_other_model(run, results, tmp_path):
    export(run[0], tmp_path / "model", "me/my-model", results=str(results), license="cc0-1.0")
    card = (tmp_path / "model" / "README.md").read_text()
    assert "| STS12 | STS | cosine_spearman | 81.23 | sha256:abcdef |" in card and "c0ffee" in card
    metadata = head(card)
    (index,) = metadata["model-index"]
    assert index["name"] == "me/my-model" and metadata["license"] == "cc0-1.0"
    (result,) = index["results"]
    assert result["task"] == {"type": "STS"} and result["dataset"]["name"] == "STS12"
    assert result["metrics"] == [{"type": "cosine_spearman", "value": 81.234}]
    with_export = find_scores(results / "results.json", load_encoder(tmp_path / "model"))
    assert with_export["label"] == "mine"  # the exported directory has the weights that were evaluated


def test_results_of_other_weights_or_of_no_evaluation_are_refused(run, small_model, results, tmp_path):
    with pytest.raises(UserError, match=r"scores no model of these weights at width 32 \(it has: other, mine\)"):
        export(small_model, tmp_path / "model", "m", results=str(results))
    (tmp_path / "other.json").write_text("[]")
    with pytest.raises(UserError, match=r"other\.json is no results\.json"):
        export(run[0], tmp_path / "model", "m", results=str(tmp_path / "other.json"))
    with pytest.raises(UserError, match="there is no file"):
        export(run[0], tmp_path / "model", "m", results=str(tmp_path / "nowhere"))
    assert not (tmp_path / "model").exists()


class FakeHub(BaseHTTPRequestHandler):
    """As much of the model hub as a push needs: create, preupload, LFS batch, upload, commit."""

    def log_message(self, *_):
        pass

    def reply(self, content: dict | list, status: int = 200) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") == "chunked":
            parts = []
            while size := int(self.rfile.readline(), 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def do_PUT(self):
        self.server.large[self.path.rsplit("/", 1)[1]] = self.body()
        self.reply({})

    def do_GET(self):
        self.body()
        if "/tree/" in self.path:
            files = self.server.files.items()
            self.reply([{"type": "file", "path": n, "size": len(content), "oid": "0" * 40} for n, content in files])
        else:
            self.reply({"id": "me/model", "sha": "0" * 40, "siblings": []})

    def do_POST(self):
        body, hub = self.body(), self.server
        here = f"http://127.0.0.1:{hub.server_port}"
        hub.tokens.add(self.headers.get("Authorization"))
        if hub.refuses:
            self.reply({"error": "Forbidden: no right to write"}, 403)
        elif self.path == "/api/repos/create":
            hub.created = json.loads(body)
            self.reply({"url": f"{here}/me/model"})
        elif self.path == "/api/validate-yaml":
            self.reply({"errors": [], "warnings": []})
        elif "/preupload/" in self.path:
            mode = {True: "lfs", False: "regular"}
            names = [file["path"] for file in json.loads(body)["files"]]
            files = [{"path": n, "uploadMode": mode[n.endswith(".safetensors")], "shouldIgnore": False} for n in names]
            self.reply({"files": files})
        elif self.path.endswith("/info/lfs/objects/batch"):
            objects = [
                {"oid": o["oid"], "size": o["size"], "actions": {"upload": {"href": f"{here}/lfs/{o['oid']}"}}}
                for o in json.loads(body)["objects"]
            ]
            self.reply({"transfer": "basic", "objects": objects})
        elif "/commit/" in self.path:
            for line in body.splitlines():
                record = json.loads(line)
                value = record["value"]
                if record["key"] == "deletedFile":
                    del hub.files[value["path"]]
                elif "content" in value:
                    hub.files[value["path"]] = base64.b64decode(value["content"])
                elif "oid" in value:
                    hub.files[value["path"]] = hub.large[value["oid"]]
            self.reply({"success": True, "commitOid": "0" * 40, "commitUrl": f"{here}/me/model/commit/{'0' * 40}"})
        else:
            self.reply({"error": f"unexpected {self.path}"}, 404)


@pytest.fixture
def hub():
    """A hub on 127.0.0.1; what it was given is in its attributes."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), FakeHub)
    server.files, server.large, server.tokens, server.created, server.refuses = {}, {}, set(), None, False
    looks = (0.01,)  # seconds between its looks for an end
    threading.Thread(target=server.serve_forever, args=looks, daemon=True).start()
    yield server
    server.shutdown()


@pytest.fixture
def to_hub(hub, monkeypatch):
    """Pushes go to that hub, with a token."""
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", f"http://127.0.0.1:{hub.server_port}")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
    monkeypatch.delenv("HF_HUB_OFFLINE")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    hub_reachable.cache_clear()
    yield hub
    hub_reachable.cache_clear()


def test_a_push_uploads_every_file_of_the_export_and_shows_the_token_nowhere(run, to_hub, script, tmp_path):
    hub, options = to_hub, [f"checkpoint={run[0]}", "out=model", "push=me/model", "private=true"]
    code, said, errors = script("export", *options)
    assert code == 0, errors
    written = files_below(tmp_path / "model")
    assert hub.files == written and "model.safetensors" in written
    assert hub.created["name"] == "model" and hub.created["organization"] == "me"
    assert hub.created["visibility"] == "private"
    assert hub.tokens == {f"Bearer {TOKEN}"}
    assert 'SentenceTransformer("me/model")' in written["README.md"].decode()
    assert "pushed to" in said
    assert TOKEN not in said + errors and not any(TOKEN.encode() in content for content in written.values())


def files_below(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_second_push_leaves_nothing_of_the_first_export_and_all_that_is_the_users_own(run, to_hub, tmp_path):
    stale = [
        "onnx/model.onnx",
        "onnx/model_int8.onnx",
        ".eval_results/STS12.yaml",
        "model-00001-of-00002.safetensors",
        "model.safetensors.index.json",
        "pytorch_model.bin",
        "added_tokens.json",
        "vocab.txt",
        "sentencepiece.bpe.model",
        "2_Dense/model.safetensors",
    ]
    own = [
        ".gitattributes",
        "LICENSE",
        "figures/loss[1].png",
        "data/model.safetensors",
        "notes/onnx/model.onnx",
        "2024_runs/config.json",
        "eval.json",
        "topics.model",
        "probe.safetensors",
    ]
    export(run[0], tmp_path / "model", "m")
    to_hub.files |= {name: b"of before" for name in (*stale, *own, "model.safetensors", "config.json")}
    push(tmp_path / "model", "me/model")
    assert to_hub.files == {name: b"of before" for name in own} | files_below(tmp_path / "model")


def test_a_hub_that_refuses_is_one_line_and_the_export_stays(run, to_hub, tmp_path):
    hub = to_hub
    hub.refuses = True
    export(run[0], tmp_path / "model", "m")
    with pytest.raises(UserError, match=r"is complete, but the hub did not take it as me/model: .*403") as refusal:
        push(tmp_path / "model", "me/model")
    assert hub.tokens == {f"Bearer {TOKEN}"} and TOKEN not in str(refusal.value) and "\n" not in str(refusal.value)
    assert (tmp_path / "model" / "model.safetensors").exists()


def test_a_push_bound_to_fail_is_refused_before_anything_is_written(run, tmp_path, script, monkeypatch):
    monkeypatch.setattr("gte.models.export.hub_reachable", lambda: True)
    monkeypatch.setattr("gte.models.export.get_token", lambda: None)
    with pytest.raises(UserError, match="needs a token"):
        check_push("me/model")
    with pytest.raises(UserError, match="no name on the hub"):
        check_push("not a/name/at all")
    monkeypatch.setattr("gte.models.export.hub_reachable", lambda: False)
    line = script.refused("export", f"checkpoint={run[0]}", "out=model", "push=me/model")
    assert "cannot be reached" in line and not (tmp_path / "model" / "README.md").exists()


def test_bad_places_and_names_are_one_line(run, script, tmp_path):
    (tmp_path / "file").write_text("x")
    assert "file exists and is no model directory" in script.refused("export", f"checkpoint={run[0]}", "out=file")
    assert "cannot write to" in script.refused("export", f"checkpoint={run[0]}", "out=file/model")
    (tmp_path / "empty").mkdir()
    assert "neither a run directory" in script.refused("export", "checkpoint=empty", "out=model")
    assert "the hub did not give it" in script.refused("export", "checkpoint=me/model", "out=model")
    assert "is no folder" in script.refused("export", f"checkpoint={run[0]}", "out=model", "onnx=true", "sts=nowhere")


def test_missing_packages_for_onnx_are_named_before_the_work(run, script, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    assert "requirements-onnx.txt" in script.refused("export", f"checkpoint={run[0]}", "out=model", "onnx=true")


def test_a_card_names_base_licence_and_temperature_and_no_folder_of_this_machine(tmp_path):
    from gte.models.base import base_of
    from gte.models.card import metadata, stage_lines

    folder = tmp_path / "somewhere" / "model"
    folder.mkdir(parents=True)
    record = RECORD | {"model": {"name_or_path": str(folder)}, "temperature": 0.02}
    assert base_of([record]) == (None, {})
    (folder / "README.md").write_text(
        "---\nlicense: apache-2.0\n---\n# x\n```python\nmodel = SentenceTransformer('me/my-model')\n```\n"
    )
    head = metadata("x", None, None, [record])
    assert "base_model: me/my-model" in head and "license: apache-2.0" in head
    assert "license: mit" in metadata("x", None, "mit", [record])
    text = "\n".join(stage_lines(1, record))
    assert "temperature 0.02" in text and "started from: model" in text and str(tmp_path) not in text
    hub = RECORD | {"model": {"name_or_path": "thenlper/gte-base"}}
    assert base_of([hub]) == ("thenlper/gte-base", {})
    assert "- started from: thenlper/gte-base" in stage_lines(1, hub)


CARD = """---
license: other
license_name: own-terms
license_link: https://example.org/terms
language: [de, fr]
datasets: [me/pairs]
base_model: {base}
---
# x
```python
model = {call}
```
"""


@pytest.mark.parametrize(
    ("call", "base"), [("SentenceTransformer('me/x')", "me/x"), ("AutoModel.from_pretrained('x')", "them/y")]
)
def test_the_card_of_a_foreign_model_says_what_its_own_card_says_and_nothing_of_a_training(
    small_model, tmp_path, call, base
):
    folder = shutil.copytree(small_model, tmp_path / "foreign")
    (folder / "README.md").write_text(CARD.format(base="them/y", call=call))
    export(folder, tmp_path / "model", "m")
    card = (tmp_path / "model" / "README.md").read_text()
    own = {key: value for key, value in head(CARD.format(base="them/y", call=call)).items() if key != "base_model"}
    assert own.items() <= head(card).items() and len(own) == 5
    assert head(card)["base_model"] == base
    assert "contrastive" not in card and "How it was trained is not recorded" in card
    export(folder, tmp_path / "model", "m", license="mit", language="en")
    stated = head((tmp_path / "model" / "README.md").read_text())
    assert (stated["license"], stated["language"]) == ("mit", "en") and "license_name" not in stated


def test_the_card_of_a_trained_model_names_the_method_and_no_folder(run, small_model, tmp_path, monkeypatch):
    monkeypatch.chdir(shutil.copytree(small_model, tmp_path / "here" / "gte").parent)
    checkpoint = run[0] / "checkpoints" / "last.ckpt"
    content = torch.load(checkpoint, weights_only=True)
    content["history"] = [RECORD | {"model": {"name_or_path": "gte"}}]
    torch.save(content, checkpoint)
    export(run[0], tmp_path / "model", "m")
    card = (tmp_path / "model" / "README.md").read_text()
    assert "Trained by multi-stage contrastive learning" in card and "base_model" not in head(card)
    assert "- started from: gte" in card
