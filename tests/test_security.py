"""Nothing that a user is given runs, be it a pickle, a Python file or an address; and no secret is written down."""

import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import write_inputs
from trainings import TINY

from gte.data.tokenizer import load_tokenizer
from gte.encoder import Encoder
from gte.errors import UserError
from gte.inference.index import index_file
from gte.models.export import export
from gte.models.load import load_encoder


class Payload:
    """Unpickled, it leaves the file `ran` in the working directory."""

    def __reduce__(self):
        return open, ("ran", "w")


PICKLE = pickle.dumps({"state_dict": Payload(), "encoder": Payload()})


def test_the_payload_runs_where_it_is_unpickled(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pickle.loads(PICKLE)["state_dict"].close()
    assert (tmp_path / "ran").exists()


def plain(path: Path, _: Path) -> Path:
    path.write_bytes(PICKLE)
    return path


def torch_zip(path: Path, _: Path) -> Path:
    torch.save({"state_dict": Payload(), "encoder": {"schema": 1}}, path)
    return path


def torch_legacy(path: Path, _: Path) -> Path:
    torch.save({"state_dict": Payload(), "encoder": {"schema": 1}}, path, _use_new_zipfile_serialization=False)
    return path


def in_run(path: Path, model: Path) -> Path:
    folder = path.with_suffix(".run")
    (folder / "checkpoints").mkdir(parents=True)
    torch_zip(folder / "checkpoints" / "last.ckpt", model)
    return folder


def in_model(weights: str) -> Callable[[Path, Path], Path]:
    """A model directory whose file of that name is a pickle."""

    def make(path: Path, model: Path) -> Path:
        folder = path.with_suffix(".model")
        shutil.copytree(model, folder)
        if weights.endswith(".bin"):
            (folder / "model.safetensors").unlink()
        (torch_zip if weights.endswith(".bin") else plain)(folder / weights, model)
        return folder

    return make


MODELS = {
    "pickle": plain, "torch zip": torch_zip, "torch legacy": torch_legacy, "run": in_run,
    **{file: in_model(file) for file in (
        "pytorch_model.bin", "model.safetensors", "tokenizer.json", "config.json", "modules.json", "training.json",
    )},
}  # fmt: skip
RUNS_CODE = ("torch zip", "run")
PLACES = {
    "embed": ["embed", "checkpoint={evil}", "in=texts.txt", "out=e.npy"],
    "export": ["export", "checkpoint={evil}", "out=model"],
    "eval": ["eval", "checkpoint={evil}", "suite=local", "data_dir=tasks", "out=scores"],
    "mine": ["mine", "checkpoint={evil}", "in=pairs.jsonl", "out=mined"],
    "search": ["search", "checkpoint={evil}", "folder=tasks", "query=one"],
    "init_from": ["train", *TINY, "data.dir={data}", "out=run", "stage.init_from={evil}"],
    "resume": ["train", *TINY, "data.dir={data}", "out=run", "resume={evil}"],
    "name_or_path": [
        "train", "model=base", "data=local", "trainer=cpu", "stage.global_batch=32", "data.dir={data}", "out=run",
        "model.name_or_path={evil}",
    ],
    "tokenizer": ["prepare", "data=local", "data.path=raw", "data.dir=data", "data.tokenizer={evil}"],
}  # fmt: skip
TRIED = [
    *(("export", kind) for kind in MODELS), *((place, "torch zip") for place in ("embed", "eval", "mine", "search")),
    ("name_or_path", "pytorch_model.bin"), ("init_from", "torch zip"), ("resume", "torch zip"),
    ("tokenizer", "tokenizer.json"),
]  # fmt: skip


@pytest.mark.parametrize(("place", "kind"), TRIED)
def test_a_pickle_in_place_of_a_model_never_runs_and_one_line_says_why(
    script, prepared, small_model, tmp_path, place, kind
):
    for name, text in {
        "texts.txt": "one\n", "pairs.jsonl": '["q", "d"]\n["r", "e"]\n', "raw/pairs.jsonl": '["q", "d"]\n',
        "tasks/STS12/test.jsonl": '{"sentence1": "one", "sentence2": "two", "score": 1}\n' * 3,
    }.items():  # fmt: skip
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    Encoder.from_pretrained(small_model).save(tmp_path / "whole")
    evil = MODELS[kind](tmp_path / "evil.ckpt", tmp_path / "whole")
    line = script.refused(*(argument.format(evil=evil, data=prepared) for argument in PLACES[place]))
    assert "evil." in line and not (tmp_path / "ran").exists()
    if kind in RUNS_CODE:
        assert "it would run io.open" in line


def damaged_index(folder: Path) -> None:
    """The index of a search, made and then replaced."""
    place = folder / "index"
    place.mkdir()
    index_file(place, folder / "tasks").write_bytes(PICKLE)


def damaged_shard(folder: Path) -> None:
    shard = folder / "data" / "shards" / "colours" / "00000.arrow"
    shard.write_bytes(PICKLE.ljust(shard.stat().st_size, b"\0"))


def pickled(name: str) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(PICKLE)

    return make


FILES = {
    "npy": (pickled("a.npy"), ["embed", "checkpoint={model}", "in=a.npy", "out=e.npy"], "a.npy"),
    "parquet": (pickled("a.parquet"), ["embed", "checkpoint={model}", "in=a.parquet", "out=e.npy"], "a.parquet"),
    "jsonl": (pickled("a.jsonl"), ["embed", "checkpoint={model}", "in=a.jsonl", "out=e.npy"], "a.jsonl, row 1"),
    "index": (damaged_index, ["search", "checkpoint={model}", "folder=tasks", "query=one", "out=index"], "is no index"),
    "results": (pickled("r.json"), ["export", "checkpoint={model}", "out=model", "results=r.json"], "r.json is no"),
    "task": (
        pickled("bad/STS12/test.jsonl"), ["eval", "checkpoint={model}", "suite=local", "data_dir=bad", "out=scores"],
        "STS12/test.jsonl",
    ),
    "raw parquet": (pickled("bad/a.parquet"), ["prepare", "data=local", "data.path=bad", "data.dir=out"], "a.parquet"),
    "raw jsonl": (pickled("bad/a.jsonl"), ["prepare", "data=local", "data.path=bad", "data.dir=out"], "a.jsonl"),
    "raw gzip": (pickled("bad/a.jsonl.gz"), ["prepare", "data=local", "data.path=bad", "data.dir=out"], "a.jsonl.gz"),
    "mined pairs": (pickled("a.parquet"), ["mine", "in=a.parquet", "out=mined"], "a.parquet"),
    "manifest": (pickled("data/manifest.json"), ["train", *TINY, "data.dir=data", "out=run"], "manifest.json"),
    "shard": (damaged_shard, ["train", *TINY, "data.dir=data", "sources=[colours]", "out=run"], "00000.arrow"),
}  # fmt: skip


@pytest.mark.parametrize("kind", FILES)
def test_a_pickle_in_place_of_any_other_file_never_runs_and_one_line_says_why(
    script, prepared, small_model, tmp_path, kind
):
    make, command, said = FILES[kind]
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks" / "a.txt").write_text("one\n")
    shutil.copytree(prepared, tmp_path / "data")
    make(tmp_path)
    line = script.refused(*(argument.format(model=small_model) for argument in command))
    assert said in line and not (tmp_path / "ran").exists()


def test_a_pickle_among_the_kept_blocks_of_an_embedding_is_no_block_and_never_runs(script, small_model, tmp_path):
    (tmp_path / "texts.txt").write_text("one\ntwo\n")
    pickled("e.npy.partial/00000000.parquet")(tmp_path)
    code, out, err = script("embed", f"checkpoint={small_model}", "in=texts.txt", "out=e.npy")
    assert code == 0 and "2 embedded;" in out, err
    assert not (tmp_path / "ran").exists() and (tmp_path / "e.npy").exists()


CODE = "open('ran', 'w')\nfrom transformers import BertConfig, BertModel\n"
CODE += "class OwnConfig(BertConfig): model_type = 'own'\nclass Own(BertModel): config_class = OwnConfig\n"


def edit_json(file: Path, **change) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | change))


def test_python_files_within_a_checkpoint_never_run_and_nobody_is_asked_whether_they_may(run, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("asked"))
    file = run[0] / "checkpoints" / "last.ckpt"
    content = torch.load(file, weights_only=True)
    auto_map = {"AutoConfig": "own.OwnConfig", "AutoModel": "own.Own"}
    config = json.loads(content["encoder"]["config"]) | {"model_type": "own", "auto_map": auto_map}
    content["encoder"]["config"] = json.dumps(config)
    content["encoder"]["tokenizer"]["own.py"] = CODE
    torch.save(content, file)
    with pytest.raises(UserError, match=r"last\.ckpt: it brings Python files"):
        load_encoder(run[0])
    assert not (tmp_path / "ran").exists()


def test_a_tokenizer_brings_no_python_files_to_prepare(small_model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("asked"))
    shutil.copytree(small_model, tmp_path / "model")
    (tmp_path / "model" / "own.py").write_text(CODE)
    edit_json(tmp_path / "model" / "config.json", model_type="own", auto_map={"AutoConfig": "own.OwnConfig"})
    own = {"auto_map": {"AutoTokenizer": [None, "own.Own"]}, "tokenizer_class": "Own"}
    edit_json(tmp_path / "model" / "tokenizer_config.json", **own)
    with pytest.raises(UserError, match="it brings Python files"):
        load_tokenizer(tmp_path / "model")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("key", ["attn_implementation", "_attn_implementation"])
def test_a_model_that_wants_a_kernel_of_the_hub_is_refused(small_model, tmp_path, key):
    shutil.copytree(small_model, tmp_path / "model")
    edit_json(tmp_path / "model" / "config.json", **{key: "someone/kernel"})
    with pytest.raises(UserError, match=r"wants code of the hub to run, attn_implementation=someone/kernel"):
        Encoder.from_pretrained(tmp_path / "model")


def test_a_module_of_another_package_is_refused_whatever_its_name(run, tmp_path):
    export(run[0], tmp_path / "model", "m")
    file = tmp_path / "model" / "modules.json"
    load_encoder(tmp_path / "model")
    for name in ("evil.Transformer", "sentence_transformers_extra.models.Transformer", "Transformer", "os.system"):
        modules = json.loads(file.read_text())
        modules[0]["type"] = name
        file.write_text(json.dumps(modules))
        with pytest.raises(UserError, match="is not a language model"):
            load_encoder(tmp_path / "model")


@pytest.mark.parametrize("address", ["http://x.org/m", "https://x.org/m", "file:///x.org", "ftp://x.org", "//x.org/m"])
def test_an_address_in_place_of_a_path_opens_no_connection(script, prepared, tmp_path, monkeypatch, address):
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "a.jsonl").write_text('["q", "d"]\n')
    asked = []
    monkeypatch.setattr("socket.getaddrinfo", lambda *where, **_: asked.append(where) or [])
    monkeypatch.setattr("socket.socket.connect", lambda _, where: asked.append(where))
    for module in ("hub", "models.export", "data.tokenizer"):  # as if the hub were there
        monkeypatch.setattr(f"gte.{module}.hub_reachable", lambda: True, raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    commands = [
        ["export", f"checkpoint={address}", "out=model"],
        ["prepare", "data=local", "data.path=raw", "data.dir=out", f"data.tokenizer={address}"],
    ]
    if address.startswith("http:"):
        train = ["train", *TINY, "out=run"]
        commands += [
            ["embed", "checkpoint=x", f"in={address}", "out=e.npy"],
            ["search", "checkpoint=x/y", f"folder={address}", "query=one"],
            ["prepare", "data=local", f"data.path={address}", "data.dir=out"],
            [*train, f"data.dir={address}"],
            [*train, f"data.dir={prepared}", f"resume={address}"],
        ]
    for command in commands:
        assert "x.org" in script.refused(*command)
    assert not asked


SECRETS = {
    "WANDB_API_KEY": "5ec2e70" + "a1b2c3d4e5f" * 3,
    "HF_TOKEN": "hf_5ec2e7QwErTyUiOpAsDfGhJkLzXcVbNm",
    "AWS_SECRET_ACCESS_KEY": "5ec2e7/AwsAwsAwsAwsAwsAwsAwsAwsAws",
}


def files_with(folder: Path, secrets) -> list[str]:
    """The files below a folder that hold one of these."""
    files = [path for path in folder.rglob("*") if path.is_file() and not path.is_symlink()]
    return [str(path) for path in files if any(secret.encode() in path.read_bytes() for secret in secrets)]


def test_no_secret_of_the_environment_is_in_anything_that_a_run_writes(script, tmp_path, monkeypatch):
    script.draws = True
    home = tmp_path / "home"
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)
    for name in ("HOME", "HF_HOME", "WANDB_CONFIG_DIR", "WANDB_CACHE_DIR", "XDG_CACHE_HOME", "XDG_CONFIG_HOME"):
        monkeypatch.setenv(name, str(home))
    write_inputs(tmp_path, 80)
    said = ""
    for command in (
        ["prepare", "data=local", "data.path=raw", "data.dir=data", "data.vocab_size=200"],
        ["train", *TINY, "data.dir=data", "logger=wandb", "out=run", "stage.steps=2"],
        ["eval", "checkpoint=run", "suite=local", "data_dir=tasks", "out=run/scores", "cache=run/cache"],
        ["export", "checkpoint=run", "out=run/model", "results=run/scores"],
        ["embed", "checkpoint=run/model", "in=raw/a.jsonl", "field=query", "out=run/e.parquet"],
        ["search", "checkpoint=run/model", "folder=raw", "query=word", "out=run/index"],
    ):
        code, out, err = script(*command)
        assert code == 0, err
        said += out + err
    written = {path.relative_to(tmp_path / "run").parts[0] for path in (tmp_path / "run").rglob("*")}
    assert {".hydra", "checkpoints", "metrics.csv", "wandb", "scores", "model", "e.parquet", "index"} <= written
    assert not files_with(tmp_path, SECRETS.values()) and not any(secret in said for secret in SECRETS.values())
    (tmp_path / "run" / "planted").write_text(f"x{SECRETS['HF_TOKEN']}x")
    assert files_with(tmp_path, SECRETS.values()) == [str(tmp_path / "run" / "planted")]


@pytest.mark.parametrize(
    "override",
    [
        "+logger.wandb.settings.api_key=5ec2e7", "+logger.wandb.settings={api_key: 5ec2e7}", "WANDB_API_KEY=5ec2e7",
        "+logger.wandb.password=5ec2e7", "+trainer.token=5ec2e7", "resume=s3://key:5ec2e7@bucket/run.ckpt",
    ],
)  # fmt: skip
def test_a_secret_typed_as_a_setting_is_refused_before_anything_is_written(script, prepared, tmp_path, override):
    line = script.refused("train", *TINY, f"data.dir={prepared}", "logger=wandb", "out=run", override)
    assert "looks like a secret" in line and "5ec2e7" not in line and not (tmp_path / "run").exists()
