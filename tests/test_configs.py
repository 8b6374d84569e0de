"""Every configuration composes, and every option fits the constructor that it calls."""

import inspect
import itertools
import re
from datetime import timedelta
from pathlib import Path

import pytest
import torch
from configs import CONF, composed
from hydra.utils import get_method, instantiate
from omegaconf import OmegaConf
from pytorch_lightning.plugins.environments import LightningEnvironment

from gte.build import build, strategy_of
from gte.optim import Optim
from gte.stage import Stage

HIDDEN = {"adamw", "base"}  # shared parts of optim/ and trainer/ that are no choice of their own


def options(group: str) -> list[str]:
    names = sorted(path.stem for path in (CONF / group).glob("*.yaml"))
    return [
        name
        for name in names
        if not (name in HIDDEN and group in ("optim", "trainer")) or (group == "optim" and name == "base")
    ]


def read(path: Path) -> dict:
    """A configuration file as it is written."""
    return OmegaConf.to_container(OmegaConf.load(path))


GROUPS = ("stage", "model", "data", "trainer", "loss", "logger")
GRID = list(itertools.product(*map(options, GROUPS)))


def test_the_grid_is_the_whole_grid():
    assert {row[0] for row in GRID} == {"pretrain", "finetune"}
    assert {row[1] for row in GRID} >= {"tiny", "tiny_64", "tiny_256", "small", "base", "large", "modernbert"}
    assert {"pretrain", "finetune", "demo", "local"} <= {row[2] for row in GRID}
    assert {row[3] for row in GRID} == {"cpu", "gpu", "ddp", "deepspeed"}
    assert {row[4] for row in GRID} >= {"improved", "vanilla"}
    assert {"csv", "wandb"} <= {row[5] for row in GRID}


def resolve(choices: dict[str, str]) -> None:
    cfg = composed(*(f"{group}={choice}" for group, choice in choices.items()))
    cfg.logger = None  # names the choices through hydra:, which is there in a run only
    OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)
    assert cfg.stage.name == choices.get("stage", "pretrain")


def pairs(row: dict[str, str]) -> set[tuple]:
    return set(itertools.combinations([(group, row[group]) for group in GROUPS], 2))


def covering() -> list[dict[str, str]]:
    """Rows of a choice a group, in which every choice meets every choice of every other group."""
    missing = set().union(*(pairs(dict(zip(GROUPS, row, strict=True))) for row in GRID))
    rows = []
    while missing:
        row = dict(min(missing))
        for group in GROUPS:
            met = {choice: sum((group, choice) in pair and bool({*pair} & {*row.items()}) for pair in missing)
                   for choice in options(group)}  # fmt: skip
            row.setdefault(group, max(met, key=met.get))
        missing -= pairs(row)
        rows.append(row)
    return rows


COVER = covering()


def test_the_rows_hold_every_pair_of_choices():
    held = {(one, other) for row in COVER for one in row.items() for other in row.items()}
    for group, another in itertools.combinations(GROUPS, 2):
        for one, other in itertools.product(options(group), options(another)):
            assert ((group, one), (another, other)) in held
    assert len(COVER) < len(GRID) / 10


@pytest.mark.parametrize("row", COVER, ids=lambda row: ",".join(row.values()))
def test_every_pair_of_choices_composes_and_resolves(row):
    resolve(row)


@pytest.mark.slow
def test_the_whole_grid_composes_and_resolves():
    for row in GRID:
        resolve(dict(zip(GROUPS, row, strict=True)))


@pytest.mark.parametrize("group", ["model", "trainer", "loss", "optim", "stage", "logger"])
def test_every_option_is_a_keyword_of_the_constructor_it_calls(group):
    for choice in options(group):
        cfg = composed(f"{group}={choice}", *(["logger=csv"] if group != "logger" else []))[group]
        for call in cfg.values() if group == "logger" else [cfg]:
            parameters = inspect.signature(get_method(call._target_) if "." in call._target_ else None).parameters
            given = {key for key in call if not key.startswith("_")}
            accepted = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
            assert accepted or given <= set(parameters), f"{group}/{choice}: {given - set(parameters)}"


def test_the_papers_numbers_are_in_the_configuration():
    """Section 3.4 and Table 3."""
    pretrain, finetune = (instantiate(composed(f"stage={name}").stage) for name in ("pretrain", "finetune"))
    assert isinstance(pretrain, Stage)
    assert (pretrain.max_length, pretrain.global_batch, pretrain.steps, pretrain.lr_scale) == (128, 16_384, 50_000, 1)
    assert (finetune.max_length, finetune.global_batch, finetune.group_size, finetune.epochs) == (512, 128, 16, 1)
    assert finetune.lr_scale == 0.1
    rates = {"small": 3e-4, "base": 2e-4, "large": 5e-5}
    names = {"small": "microsoft/MiniLM-L12-H384-uncased", "base": "bert-base-uncased", "large": "bert-large-uncased"}
    for model, rate in rates.items():
        cfg = composed(f"model={model}")
        optim = build(cfg.optim)
        assert isinstance(optim, Optim) and optim.lr == rate and optim.warmup_fraction == 0.05
        assert cfg.model.name_or_path == names[model]
    for loss in ("improved", "vanilla"):
        assert composed(f"loss={loss}").loss.temperature == 0.01
    assert composed("data=pretrain").data.alpha == 0.5
    zero = composed("trainer=deepspeed").trainer.strategy
    assert (zero._target_, zero.stage) == ("gte.training.zero.Zero", 1)
    assert {composed(f"trainer={name}").trainer.precision for name in ("gpu", "ddp", "deepspeed")} == {"16-mixed"}


@pytest.mark.parametrize(
    "trainer",
    [
        ["trainer=ddp"],
        ["trainer=deepspeed"],
        ["trainer=gpu", "trainer.devices=auto"],
        ["trainer=cpu", "trainer.devices=2"],
        ["trainer=gpu", "trainer.devices=[0,1]"],
        ["trainer=gpu", "trainer.num_nodes=2"],
        ["trainer=gpu", "trainer.strategy=ddp"],
    ],
    ids=" ".join,
)
def test_ranks_wait_for_an_evaluation_of_hours(trainer, monkeypatch):
    if trainer == ["trainer=deepspeed"]:
        pytest.importorskip("deepspeed", reason="pip install -r requirements-deepspeed.txt")
    strategy = instantiate(strategy_of(composed(*trainer).trainer))
    strategy.cluster_environment, strategy.parallel_devices = LightningEnvironment(), [torch.device("cpu")]
    monkeypatch.setattr(strategy, "_set_node_environment_variables", lambda: None, raising=False)
    limits = []

    def connect(*args, timeout: timedelta, **options):
        limits.append(timeout)

    monkeypatch.setattr("pytorch_lightning.strategies.ddp._init_dist_connection", connect)
    if trainer == ["trainer=deepspeed"]:
        monkeypatch.setattr("deepspeed.init_distributed", connect)
        strategy._init_deepspeed_distributed()
    else:
        strategy.setup_distributed()
    assert limits == [timedelta(hours=12)]


@pytest.mark.parametrize("devices", ["1", "[3]"])
def test_one_process_needs_no_strategy(devices):
    assert strategy_of(composed("trainer=gpu", f"trainer.devices={devices}").trainer) == "auto"


def test_the_demo_corpus_brings_laptop_sizes_which_the_command_line_still_overrides():
    assert composed("data=demo", "model=tiny").stage.global_batch < 1024
    assert composed("data=demo", "stage=finetune", "model=tiny").stage.global_batch < 128
    assert composed("data=demo", "model=tiny", "stage.steps=7").stage.steps == 7
    assert composed("data=demo", "scale=paper").stage.global_batch == 16_384


def test_no_configuration_holds_a_resolver_that_computes():
    for path in CONF.rglob("*.yaml"):
        assert not {"${eval:", "${mul:"} & set(re.findall(r"\$\{\w+:", path.read_text())), path


def test_no_configuration_is_empty_or_a_comment_alone():
    files = sorted(CONF.rglob("*.yaml"))
    assert len(files) > 150
    assert not [path for path in files if not read(path)]


def test_a_scale_has_the_numbers_that_each_stage_leaves_to_it_and_no_other():
    for stage in options("stage"):
        left = {key for key, value in read(CONF / "stage" / f"{stage}.yaml").items() if value == "???"}
        assert {"max_length", "global_batch", "steps", "epochs"} < left
        for scale in options("scale"):
            numbers = read(CONF / "scale" / scale / f"{stage}.yaml")
            assert set(numbers) == left
            chosen = composed(f"stage={stage}", f"scale={scale}").stage
            assert {key: chosen[key] for key in numbers} == numbers
