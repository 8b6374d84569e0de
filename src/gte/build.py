"""From a Hydra configuration to objects: the only caller of instantiate, and the frame around every script."""

import copy
import os
import re
import shutil
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import ClassVar

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import ConfigCompositionException, InstantiationException
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf, open_dict

from gte.cores import CORES
from gte.early import NO_CUDA, check_trainer
from gte.errors import PointsFailed, UserError, first_line, tell
from gte.help import help_of
from gte.locks import locked
from gte.memory import bound_primitives
from gte.one_line import dead_process, one_line
from gte.overrides import (
    CONF,
    near_key,
    read_arguments,
    refuse_added_keys,
    refuse_removals,
    refuse_secrets,
    refuse_unknown_keys,
    typed,
)
from gte.remote import is_address
from gte.values import SCRIPTS, check_values

# Hydra raises, instead of printing pages and exiting, where HYDRA_FULL_ERROR is set; the second name tells a process
# that we start whether its user set the first
SHOW_TRACEBACK = "HYDRA_FULL_ERROR" in os.environ and "GTE_ONE_LINE_ERRORS" not in os.environ
os.environ |= {"HYDRA_FULL_ERROR": "1"} | ({} if SHOW_TRACEBACK else {"GTE_ONE_LINE_ERRORS": "1"})


def script(name: str, check: Callable[[DictConfig], object] | None = None, alone: Sequence[str] = ()) -> Callable:
    """Make a `main(cfg)` the entry point of conf/<name>.yaml.

    Args:
        name: of the primary configuration.
        check: raises UserError for settings and paths that cannot be meant, and loads no heavy library. It is called
            before the run directory is made, so that an error takes a second and leaves nothing behind.
        alone: settings whose folders no other process may write to meanwhile; of several ranks the first one asks.
    Returns: a decorator. `cfg.out` is the directory that Hydra made for this run, whether it was given as `out=` or as
        `hydra.run.dir=`. Exit code: what `main` returns (None is 0); 2 with one line on stderr for what the user can
        fix; 1 where points of a sweep failed. A bug shows its traceback; HYDRA_FULL_ERROR=1 shows it in every case.
    """

    def decorate(main: Callable[[DictConfig], int | None]) -> Callable[[], None]:
        codes: list[int] = []

        def check_all(cfg: DictConfig) -> None:
            refuse_unknown_keys(cfg, name)
            refuse_added_keys(cfg, name)
            check_values(plain(cfg), SCRIPTS.get(name, {}))
            if check is not None:
                check(cfg)

        def point(cfg: DictConfig) -> None:
            cfg.out = HydraConfig.get().runtime.output_dir
            with one_point_fails(cfg.out), ExitStack() as locks:
                check_all(cfg)
                hold(locks, cfg, alone)
                if code := work(main, cfg):
                    raise UserError(f"exit code {code}")

        def task(cfg: DictConfig) -> None:
            if HydraConfig.get().mode == RunMode.MULTIRUN:  # a launcher that runs points within a process
                point(cfg)
                return
            # in here already: Hydra reports what it sees a task raise in a way of its own
            with one_line_errors(), EarlyChecks.leaving_nothing():
                codes.append(work(main, cfg))

        def entry() -> None:
            EarlyChecks.check, EarlyChecks.alone = staticmethod(check_all), alone
            with EarlyChecks.locks, one_line_errors():  # let go also where Hydra ends before the work begins
                about = (main.__globals__["__doc__"] or "").partition(": python")[0]
                if help := help_of(CONF, name, sys.argv[1:], f"{about}."):
                    show(help)
                    return
                refuse_secrets(sys.argv[1:])
                refuse_removals(sys.argv[1:])
                sys.argv[1:] = read_arguments(name, sys.argv[1:])
                run_hydra(name, task)
            sys.exit(max(codes, default=0))

        return entry

    return decorate


def work(main: Callable[[DictConfig], int | None], cfg: DictConfig) -> int:
    """Calls a script's main in the run directory, on the cores that are free; returns its exit code."""
    cfg.out = HydraConfig.get().runtime.output_dir
    bound_primitives()
    line = CORES.start()
    if line and is_first_rank():
        tell(line)
    try:
        return main(cfg) or 0
    except FileNotFoundError as error:
        if error.filename is not None and is_within_removed(Path(error.filename), Path(cfg.out)):
            raise UserError(f"{cfg.out} was removed while this wrote to it; start it again") from error
        raise


def show(help: str) -> None:
    """Prints a page of help, also into a pipe whose reader goes before its end."""
    with suppress(BrokenPipeError):  # of `--help | head`
        print(help, flush=True)
        return
    os._exit(0)  # at a usual exit Python would complain of the pipe


def run_hydra(name: str, task: Callable[[DictConfig], None]) -> None:
    """Has Hydra compose conf/<name>.yaml and call the task. Raises UserError for a setting that the script has not."""
    try:
        hydra.main(version_base="1.3", config_path=str(CONF), config_name=name)(task)()
    except ConfigCompositionException as error:
        unknown = re.match(r"Could not override '([^']+)'", str(error))
        if unknown is None:
            raise
        within = re.search(r"is not in struct\s+full_key: (\S+)", str(error.__cause__))  # of KEY={...}
        raise UserError(near_key(name, (within or unknown)[1], sys.argv[1:])) from error


class EarlyChecks(Callback):
    """Hydra calls it before it makes the run directory; `check` is that of the script in this process."""

    check: Callable[[DictConfig], None]
    alone: Sequence[str]
    locks: ClassVar[ExitStack] = ExitStack()  # held until the work is done
    new: ClassVar[list[Path]] = []  # the directories that were not there before this run, outermost last

    def on_run_start(self, config: DictConfig, **_) -> None:
        cfg = copy.deepcopy(config)
        HydraConfig.instance().set_config(cfg)  # which ${hydra:...} is read from
        try:
            with one_line_errors():
                out = Path(cfg.hydra.run.dir).absolute()
                with open_dict(cfg):
                    cfg.out = str(out)
                cfg = without_hydra(cfg)
                EarlyChecks.new = [folder for folder in (out, *out.parents) if not folder.exists()]
                EarlyChecks.check(cfg)
                hold(EarlyChecks.locks, cfg, EarlyChecks.alone)  # before Hydra writes .hydra into another one's folder
        except Exception:
            traceback.print_exc()  # Hydra would make a warning of it and go on
            sys.exit(1)

    @classmethod
    @contextmanager
    def leaving_nothing(cls):
        """Where an error of the user is found later, a new run directory goes again, if it holds nothing but .hydra."""
        try:
            yield
        except Exception as error:
            out = cls.new[0] if cls.new and one_line(error) is not None else None
            if out and out.is_dir() and {file.name for file in out.iterdir()} <= {".hydra"}:
                shutil.rmtree(out / ".hydra", ignore_errors=True)
                with suppress(OSError):  # another rank has done so, or another run is beside it
                    out.rmdir()
                    cls.locks.close()  # its file is beside the folder
                    for folder in cls.new[1:]:
                        folder.rmdir()
            raise
        finally:
            cls.locks.close()


def without_hydra(config: DictConfig) -> DictConfig:
    """A copy without Hydra's own part, whose values, which name each other, `${hydra:...}` reads from the original."""
    cfg = copy.deepcopy(config)
    with open_dict(cfg):
        del cfg.hydra
    return cfg


def hold(locks: ExitStack, cfg: DictConfig, alone: Sequence[str]) -> None:
    """Enter the locks of what these settings name, each folder once; of several ranks the first one asks."""
    places: dict[Path, str] = {}
    for key in alone if is_first_rank() else ():
        if cfg[key] is not None and not is_address(cfg[key]):
            place = Path(cfg[key]).resolve()
            places.setdefault(place, key)
            if key == "checkpoint_dir" and place.name == "checkpoints" and (place.parent / ".hydra").is_dir():
                places.setdefault(place.parent, key)  # the checkpoints of another run, which locks its whole folder
    for place, key in places.items():
        locks.enter_context(locked(place, "writing to", f"{key}="))


@contextmanager
def one_line_errors():
    """Print what the user can fix as `error: <line>` and exits with its code; all else keeps its traceback."""
    try:
        yield
    except Exception as error:
        line = one_line(error)
        if line is None or SHOW_TRACEBACK:
            raise
        if (died := dead_process(error)) and died.startswith("Connection") and "TORCHELASTIC_RUN_ID" not in os.environ:
            time.sleep(6)  # Lightning's launcher looks every 5 seconds; it names the rank and ends this process
        tell(f"error: {line}", last=True)
        sys.exit(getattr(error, "exit_code", UserError.exit_code))


@contextmanager
def one_point_fails(folder: str):
    """Reports an error at once, and raises PointsFailed, which Hydra keeps until the other points are done."""
    try:
        yield
    except Exception as error:
        line = None if SHOW_TRACEBACK else one_line(error)
        tell(f"error: {folder}: {line or traceback.format_exc()}", last=True)
        raise PointsFailed(f"a point failed: {folder}; the same command runs it again") from None


def plain(cfg: DictConfig) -> dict:
    """The configuration as dicts, lists and values, interpolations resolved; what must be given and is not raises."""
    return OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)


def listed(value: str | list[str] | None) -> list[str] | None:
    """One or several names as a list; None stays."""
    return [value] if isinstance(value, str) else value


def choose_sources(cfg: DictConfig) -> list[str] | None:
    """`sources`; where that is a name, the list that `source_sets` has under it. UserError where it has none."""
    sources, sets = plain(cfg)["sources"], plain(cfg)["source_sets"]
    if isinstance(sources, str) and sources not in sets:
        known = ", ".join(sets) or "empty"
        raise UserError(
            f"sources={sources} is no list in source_sets ({known}); a single source is sources=[{sources}]"
        )
    chosen = sets[sources] if isinstance(sources, str) else sources
    if not isinstance(chosen, list | None):
        raise UserError(f"source_sets.{sources}={chosen} must be a list: source_sets={{{sources}: [{chosen}]}}")
    return chosen and [str(name) for name in chosen]  # Hydra reads a source called 2020 as a number


def build(cfg: DictConfig, **objects):
    """The one constructor call that a config's `_target_` names; `objects` are what is no configuration."""
    return instantiate(cfg, **objects)


def build_loss(cfg: DictConfig) -> Callable:
    """The configured loss; with loss.temperature=learnt, or {learnt: [low, high]}, one that trains its temperature.

    Raises UserError for bounds that cannot be meant.
    """
    from gte.temperature import BOUNDS, LearntTemperature

    given = plain(cfg)
    given.pop("guide", None)  # which model: its vectors come with the batches
    learnt = given.get("temperature")
    if learnt != "learnt" and not isinstance(learnt, dict):
        return build(OmegaConf.create(given))
    bounds = BOUNDS if learnt == "learnt" else learnt.get("learnt")
    if not isinstance(bounds, list | tuple) or len(bounds) != 2 or not all(isinstance(b, int | float) for b in bounds):
        raise UserError(f"loss.temperature={learnt}: give a number, learnt, or {{learnt: {list(BOUNDS)}}}")
    del given["temperature"]
    return LearntTemperature(build(OmegaConf.create(given)), *map(float, bounds))


def check_loss(cfg: DictConfig, loss: Callable) -> None:
    """Calls a loss on two pairs as training will. Raises UserError for one of another signature, or of no scalar."""
    import torch

    from gte.gather import current_ranks

    x_ND = torch.eye(2, max([2, *(cfg.get("widths") or [])]))
    guide = {"guide": torch.eye(6)} if cfg.get("guide") else {}
    try:
        value = loss(x_ND, x_ND, x_ND[:, None], ranks=current_ranks(), text_hashes=None, **guide)
    except ValueError as error:
        raise UserError(f"loss: {error}") from error
    except TypeError as error:
        raise UserError(
            f"loss: {cfg._target_} is no function (q_ND, d_ND, n_NKD, *, ranks, text_hashes): {first_line(error)}"
        ) from error
    if not (isinstance(value, torch.Tensor) and value.ndim == 0):
        raise UserError(f"loss: {cfg._target_} must return a scalar tensor, it returns {type(value).__name__}")


def require_prepared(cfg: DictConfig) -> None:
    """Raises UserError where the data of a training are not prepared, with the command that prepares them."""
    folder = Path(cfg.data.dir)
    if (folder / "manifest.json").is_file():
        return
    name = cfg.data.name
    path = " data.path=FOLDER model=<the same as here>" if name == "local" else ""
    place = f" data.dir={folder}" if "data.dir" in typed() else ""
    raise UserError(
        f"{folder} is no prepared folder: it has no manifest.json; make it with python src/prepare.py "
        f"data={name}{path}{place}"
    )


def build_encoder(cfg: DictConfig, load_tokenizer: Callable):
    """A pretrained encoder by its name or path; one of random weights over the tokenizer of the prepared data."""
    return build(cfg) if "name_or_path" in cfg else build(cfg, tokenizer=load_tokenizer())


def build_loggers(cfg: DictConfig) -> list:
    """The chosen loggers. W&B is given the whole configuration, and what was chosen of each group."""
    choices = {group: name for group, name in HydraConfig.get().runtime.choices.items() if "/" not in group}
    objects = {"wandb": {"settings": plain(cfg) | {"choices": choices}}}
    return [build(logger, **objects.get(name, {})) for name, logger in cfg.logger.items()]


def build_trainer(cfg: DictConfig, **objects):
    """A Lightning Trainer. precision=auto is bf16 where this machine computes it natively, else float32.

    Raises UserError where this machine, or torchrun or srun around this process, has not what it asks for.
    """
    settings = dict(cfg) | {"strategy": strategy_of(cfg)}
    accelerator, strategy = settings["accelerator"], settings["strategy"]
    check_trainer(plain(cfg))
    name = strategy if isinstance(strategy, str) else strategy._target_
    import torch  # late: it takes a second or two, which an error above need not wait for

    if accelerator in ("gpu", "cuda") and not torch.cuda.is_available():
        raise UserError(NO_CUDA)
    if settings["precision"] == "auto":
        from gte.precision import native_bf16  # late, as PyTorch is

        settings["precision"] = "bf16-mixed" if native_bf16(accelerator) else "32-true"
    if accelerator == "cpu" and str(settings["precision"]) in ("16", "16-mixed") and "zero" not in name:
        # Lightning would take bf16 in its place; so fp16 and its loss scaling can be tried without a GPU
        mixed = {"_target_": "pytorch_lightning.plugins.MixedPrecision", "precision": "16-mixed", "device": "cpu"}
        settings |= {"precision": None, "plugins": [*(settings.get("plugins") or []), mixed]}
    try:
        trainer = instantiate(settings, **objects)
    except InstantiationException as error:
        if type(error.__cause__).__name__ not in (
            "MisconfigurationException",
            "ValueError",
            "TypeError",
            "RuntimeError",
        ):
            raise
        raise UserError(f"the trainer refuses: {' '.join(str(error.__cause__).split())}") from error
    by_srun = started_ranks() is not None and "TORCHELASTIC_RUN_ID" not in os.environ
    CORES.share(trainer.num_devices, divided=by_srun)
    started, asked = started_ranks(), trainer.num_nodes * trainer.num_devices
    if started not in (None, asked):
        raise UserError(
            f"{started} processes were started, but trainer.num_nodes={trainer.num_nodes} of "
            f"trainer.devices={trainer.num_devices} are {asked}; state the nodes and the processes on each"
        )
    return trainer


def strategy_of(cfg: DictConfig) -> DictConfig | str:
    """The configured strategy; of several processes, where it is Lightning's own choice or named ddp, trainer=ddp's.

    Lightning's DDP gives up where rank 0 evaluates for more than 30 minutes.
    """
    devices, nodes = cfg.get("devices", "auto"), cfg.get("num_nodes", 1)  # Lightning's own where they are not stated
    is_one = str(devices) == "1" if isinstance(devices, int | str) else len(devices) == 1
    if cfg.strategy == "ddp" or (cfg.strategy == "auto" and not (is_one and nodes == 1)):
        return OmegaConf.load(CONF / "trainer" / "ddp.yaml").strategy
    return cfg.strategy


def is_within_removed(file: Path, folder: Path) -> bool:
    """Whether a file is missing because the folder in which it should be is."""
    return not folder.exists() and file.resolve().is_relative_to(folder.resolve())


def is_first_rank() -> bool:
    """Whether this process is the first of a run, or alone: by what torchrun, srun or Lightning's launcher tell it."""
    if "RANK" in os.environ:
        return os.environ["RANK"] == "0"
    if started_ranks() is not None:
        return os.environ.get("SLURM_PROCID", "0") == "0"
    return {os.environ.get(name, "0") for name in ("LOCAL_RANK", "NODE_RANK")} == {"0"}


def started_ranks() -> int | None:
    """Count the processes that torchrun or srun started together with this one; None where it was neither."""
    if "TORCHELASTIC_RUN_ID" in os.environ:
        return int(os.environ["WORLD_SIZE"])
    interactive = os.environ.get("SLURM_JOB_NAME") in ("bash", "interactive")
    return int(os.environ["SLURM_NTASKS"]) if "SLURM_NTASKS" in os.environ and not interactive else None
