"""Hydra's launcher of sweeps over training runs: a fresh process a point, as if it had been started by hand.

Hydra's own launcher runs all points in one process. Lightning's DDP starts the other ranks with that process's
arguments, so that each of them would run the whole sweep again.
"""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import JobReturn, JobStatus, setup_globals
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from gte.build import build, require_prepared, without_hydra
from gte.early import check_trainer
from gte.errors import ERASE, PointsFailed, Stopped, UserError
from gte.overrides import quote, refuse_unknown_keys, retyped
from gte.remote import is_address
from gte.values import TRAIN, check_values

# Before a point becomes `train.py`: on Linux the kernel sends it SIGTERM when the launcher dies, of SIGKILL too
# (prctl's PR_SET_PDEATHSIG, which lasts through exec; not set in a preexec_fn, which is unsafe among threads)
TIED = """import ctypes, os, signal, sys
if sys.platform == "linux":
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)
if os.getppid() != int(sys.argv[1]):
    sys.exit(128 + signal.SIGTERM)
os.execv(sys.argv[2], sys.argv[2:])
"""


class Point(NamedTuple):
    """A point of a sweep as it was composed: what it is started with, and the places that it writes and reads."""

    number: int
    overrides: list[str]
    subdir: str
    folder: Path
    checkpoints: str | Path
    init_from: str | None


class Processes(Launcher):
    """Runs `parallel` points at a time. All of them run, whichever fail; then PointsFailed names those that did.

    A point's directory is hydra.sweep.dir/hydra.sweep.subdir. Where several run at a time, each prints to output.log
    in its own. Every point is composed and checked before the first one starts. A point that starts from the model of
    an earlier one waits for it, and is not started where that one failed: it has failed with the same exit code.

    SIGTERM or Ctrl-C ends the points that run after their step under way, with a checkpoint, begins no other one and
    raises Stopped; a second one kills them. Where this process is killed itself, Linux tells the points to end.
    """

    def __init__(self, parallel: int = 1):
        if parallel < 1:
            raise UserError(f"hydra.launcher.parallel={parallel} must be at least 1 point at a time")
        self.parallel = parallel
        self.alive: set[subprocess.Popen] = set()
        self.signals = 0
        self.lock = threading.RLock()  # a signal may come amid what holds it

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.hydra_context, self.config = hydra_context, config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        setup_globals()
        refuse_several_experiments(job_overrides)
        points: dict[Path, Point] = {}
        for number, overrides in enumerate(job_overrides, initial_job_idx):
            point = self.place(overrides, number)
            same = points.setdefault(normalized(point.folder), point)
            if same is not point:
                raise UserError(
                    f"two points would write {point.folder}: {' '.join(same.overrides)}, and {' '.join(overrides)}; "
                    "give each a directory of its own by hydra.sweep.subdir="
                )
        refuse_shared_checkpoints(points.values())
        running: dict[Path, Future[int]] = {}
        with self.told_to_stop(), ThreadPoolExecutor(self.parallel) as pool:  # which begins them in this order
            for folder, point in points.items():
                future = pool.submit(self.run, point, trained_by(point.init_from, running))
                running |= {folder: future, normalized(point.checkpoints): future}
        codes = {str(point.folder): running[folder].result() for folder, point in points.items()}
        left = [folder for folder, code in codes.items() if code]
        if self.signals and left:
            raise Stopped(
                f"told to stop: {len(left)} of {len(points)} points are not done ({', '.join(left)}); their "
                "checkpoints are kept: with resume=auto, which experiments have, the same command goes on"
            )
        failed = [f"{folder} (exit code {code})" for folder, code in codes.items() if code]
        if failed:
            raise PointsFailed(
                f"{len(failed)} of {len(points)} points failed: {', '.join(failed)}; the same command runs them again"
            )
        return [JobReturn(overrides=point.overrides, status=JobStatus.COMPLETED) for point in points.values()]

    def place(self, overrides: Sequence[str], number: int) -> Point:
        """Compose and check a point.

        Raises UserError where its configuration is incomplete, has unknown keys or values that cannot be meant, or its
        data are not prepared.
        """
        cfg = self.hydra_context.config_loader.load_sweep_config(self.config, list(overrides))
        with open_dict(cfg):
            cfg.hydra.job.num = cfg.hydra.job.id = number
        HydraConfig.instance().set_config(cfg)
        subdir = str(cfg.hydra.sweep.subdir)
        folder = Path(cfg.hydra.sweep.dir) / subdir
        cfg.out = str(folder.absolute())  # as in the point's own process
        cfg = without_hydra(cfg)
        refuse_unknown_keys(cfg, self.config.hydra.job.config_name)
        require_prepared(cfg)  # once, not by each point
        try:
            resolved = OmegaConf.to_container(cfg, resolve=True)
        except OmegaConfBaseException as error:
            raise UserError(f"{error.full_key or 'configuration'}: {str(error).splitlines()[0]}") from error
        check_values(resolved, TRAIN)
        for part in (cfg.stage, cfg.optim):
            build(part)
        check_trainer(resolved["trainer"])
        checkpoints = resolved["checkpoint_dir"] or folder / "checkpoints"
        return Point(number, list(overrides), subdir, folder, checkpoints, resolved["stage"]["init_from"])

    @contextmanager
    def told_to_stop(self) -> Iterator[None]:
        """Hands signals on to the points while the block runs; only a process's main thread can."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, self.hand_on) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def hand_on(self, number: int, frame: object) -> None:
        """SIGTERM to the points that run; SIGKILL from the second signal on.

        A terminal's Ctrl-C reaches them too: SIGTERM after it changes nothing, another SIGINT would end them at once.
        """
        with self.lock:
            self.signals += 1
            for process in self.alive:
                process.send_signal(signal.SIGTERM if self.signals == 1 else signal.SIGKILL)
        then = "; once more kills them" if self.signals == 1 else ""
        what = "ends the points after their step" if self.signals == 1 else "kills the points"
        start = ERASE if os.isatty(2) else ""  # a point's bar may stand there
        os.write(2, f"{start}note: {signal.Signals(number).name} {what}{then}\n".encode())  # print is not reentrant

    def run(self, point: Point, earlier: Future | None) -> int:
        """The point's exit code; it starts once the `earlier` one, whose model it starts from, is done.

        Where that one failed or was stopped, this one is not started and has its exit code: a checkpoint may be there,
        but it is none of the model that was asked for.
        """
        folder = point.folder
        if earlier is not None and (code := earlier.result()):
            how = "was stopped" if code == Stopped.exit_code else "failed"
            say(f"== {folder}: not started, {point.init_from} that it starts from {how}")
            return code
        # an experiment's `pretrained` is a run in the sweep's directory, and a checkpoint_dir may hold the point's
        # subdir or its number, of which a process that runs alone would not know: it would make None of the number
        places = {"sweep.dir": self.config.hydra.sweep.dir, "sweep.subdir": point.subdir, "run.dir": str(folder)}
        own = [f"hydra.{key}={quote(path)}" for key, path in places.items()]
        own = ["hydra.mode=RUN", f"hydra.job.num={point.number}", f"hydra.job.id={point.number}", *own]
        shared = OmegaConf.to_container(self.config.hydra.overrides.hydra)  # which are not among the point's
        command = [sys.executable, sys.argv[0], *map(retyped, point.overrides), *shared, *own]
        if self.parallel == 1:
            return self.wait_for(command, folder)
        folder.mkdir(parents=True, exist_ok=True)
        with open(folder / "output.log", "w") as log:
            code = self.wait_for(command, folder, stdout=log, stderr=subprocess.STDOUT)
        say(f"== {folder}: exit code {code}, {folder / 'output.log'}")
        return code

    def wait_for(self, command: list[str], folder: Path, **output) -> int:
        """The exit code of a point's process, which ends with this one; Stopped's where it is not to begin any more."""
        with self.lock:
            if self.signals:
                return Stopped.exit_code
            say(f"== {folder}")
            process = subprocess.Popen([sys.executable, "-c", TIED, str(os.getpid()), *command], **output)
            self.alive.add(process)
        try:
            return process.wait()
        finally:
            with self.lock:
                self.alive.discard(process)


def say(line: str) -> None:
    """Prints a line at once, in one piece: print writes its end by itself, and another thread may print before it."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def refuse_several_experiments(job_overrides: Sequence[Sequence[str]]) -> None:
    """The grid of an experiment is read once for the whole command: that of a second one would be ignored."""
    chosen = {
        override.lstrip("+").removeprefix("experiment=")
        for overrides in job_overrides
        for override in overrides
        if override.lstrip("+").startswith("experiment=")
    }
    if len(chosen) > 1:
        raise UserError(f"several experiments in one command: {', '.join(sorted(chosen))}; run one after the other")


def normalized(path: str | Path) -> Path:
    """The path that is the same however a place is written, with a symlink or dots in it; an address as it is."""
    return Path(path) if is_address(path) else Path(path).resolve()


def trained_by(init_from: str | None, running: Mapping[Path, Future[int]]) -> Future[int] | None:
    """The point that makes what `init_from` names: its directory, its checkpoints, or something in them."""
    if not init_from:
        return None
    path = normalized(init_from)
    return next((running[one] for one in (path, *path.parents) if one in running), None)


def refuse_shared_checkpoints(points: Iterable[Point]) -> None:
    """UserError where several points would keep their checkpoints in one folder, each over the other's."""
    writers: dict[Path, list[Point]] = {}
    for point in points:
        writers.setdefault(normalized(point.checkpoints), []).append(point)
    for sharing in writers.values():
        if len(sharing) > 1:
            shared = sharing[0].checkpoints
            raise UserError(
                f"{len(sharing)} points would keep their checkpoints in checkpoint_dir={shared}: "
                f"{', '.join(str(point.folder) for point in sharing)}; give each a folder of its own: "
                f"'checkpoint_dir={shared}/${{hydra:sweep.subdir}}'"
            )
