"""Suites: which tasks are run, where their data are, what came out.

Every finished task is written to `out/tasks/<model>/<task>.json` at once and used again as long as model, data,
precision and versions are the same; `out/results.json` appears when all is done. `out/results/` holds the same in
mteb's own form: gte.evaluation.board.
"""

import itertools
import os
import platform
import re
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from gte.data.task_folder import Folder, find_tasks
from gte.errors import UserError, did_you_mean, say, tell
from gte.evaluation.logs import quiet
from gte.files import read_json, write_json
from gte.hub import ask_no_hub, hub_reachable
from gte.provenance import git_commit, versions
from gte.results.paper import averages

if TYPE_CHECKING:
    from gte.evaluation.bm25 import BM25
    from gte.evaluation.model import EncoderModel
    from gte.evaluation.tasks import Task

SCHEMA = 3  # 2 had no parts of a task, and counted tasks in a suite's means that are not its own
LANGUAGES = ("Ruby", "JavaScript", "Go", "Python", "Java", "PHP")
FOLDER_OF = {  # tasks that share a folder, and what their files begin with; every other task's folder has its name
    "SST2": ("SST2", ""),
    "SST2Prompted": ("SST2", ""),
    **{f"CodeSearchNet{name}": ("CodeSearchNet", f"{name.lower()}_") for name in LANGUAGES},
}


@dataclass(frozen=True)
class Suite:
    """The tasks of an evaluation: by name, from data_dir or the hub, and every task found under `folder`.

    Args:
        name: of the suite.
        tasks: names of tasks.
        folder: a folder of task folders, or several.
        hub: whether tasks come from the hub where no data_dir is given.
        benchmark: mteb's name of the list of tasks; its board's means are given.
        subsets: of each task that is scored on others than English, all of them; its score is their mean.
        splits: of each task that is scored on others than the first split, all of them; its score is their mean.
        groups: further means that the board has, each over tasks, or over single splits of them as task/split.

    >>> plan(Suite("mine", tasks=["SciFact", "NFCorpus"]), only=["SciFact"]).run  # None: from the hub
    {'SciFact': None}
    """

    name: str
    tasks: list[str] = field(default_factory=list)
    folder: str | list[str] | None = None
    hub: bool = True
    benchmark: str | None = None
    subsets: dict[str, list[str]] = field(default_factory=dict)
    splits: dict[str, list[str]] = field(default_factory=dict)
    groups: dict[str, list[str]] = field(default_factory=dict)


@dataclass(frozen=True)
class Plan:
    """The tasks to run, and the reasons why the suite's other tasks are not run.

    Args:
        run: task name -> its folder, or None for the hub.
        skipped: task name -> reason.
        split: the one that is scored, or some tasks' by their names; None is the one that MTEB scores.
        subsets, splits: see `Suite`.
        uncounted: tasks that are in none of the suite's means, as they are not its own or are scored on another split.
    """

    run: dict[str, Path | None]
    skipped: dict[str, str]
    split: str | dict[str, str] | None = None
    subsets: dict[str, list[str]] = field(default_factory=dict)
    splits: dict[str, list[str]] = field(default_factory=dict)
    uncounted: list[str] = field(default_factory=list)

    def task(self, name: str) -> "Task":
        """The planned task with all its parts. UserError where there is none, or where data of a part are missing."""
        from gte.evaluation.tasks import Task, make_task

        chosen = split_of(self.split, name)
        splits = [chosen] if chosen else self.splits.get(name, [None])
        parts = [
            make_task(name, self.run[name], split, subset).parts
            for split in splits
            for subset in self.subsets.get(name, [None])
        ]
        return Task(name, list(itertools.chain.from_iterable(parts)))


def split_of(split: str | dict[str, str] | None, name: str) -> str | None:
    """The split chosen for a task, of a choice for all or by their names; None where none is."""
    return split.get(name) if isinstance(split, dict) else split


def plan(
    suite: Suite,
    data_dir: str | Path | None = None,
    only: list[str] | None = None,
    split: str | dict[str, str] | None = None,
) -> Plan:
    """Plan an evaluation by names and folders alone.

    Args:
        suite: its tasks.
        data_dir: a folder of task folders; None takes the hub's data.
        only: names of the tasks to run; None runs the suite's.
        split: to score, or {task: split} for some of them; None is the one that MTEB scores.
    Raises: UserError where `only` or `split` names what is not there, where a folder is incomplete, where nothing is
        left.

    >>> plan(Suite("mine"))
    Traceback (most recent call last):
    gte.errors.UserError: suite=mine is what a folder holds: pass data_dir=, a folder of task folders
    """
    if suite.folder is None and data_dir is None and not (suite.tasks or only):
        raise UserError(f"suite={suite.name} is what a folder holds: pass data_dir=, a folder of task folders")
    folders = find_tasks(data_dir) if data_dir is not None else {}
    own = find_tasks(suite.folder) if suite.folder else {}
    folders = {**folders, **own}
    names = list(only or dict.fromkeys([*tasks_of(own), *suite.tasks]))
    run: dict[str, Path | None] = {}
    skipped: dict[str, str] = {}
    for name in names:
        place, prefix = FOLDER_OF.get(name, (name, ""))
        folder = folders.get(place)
        if folder is not None and holds(folder, prefix):
            Folder(folder).check()
            run[name] = folder
        elif data_dir is None and suite.hub:
            refuse_other_case(name, [*folders, *suite.tasks])
            run[name] = None
        elif only and name in only:
            hint = did_you_mean(name, {*folders, *suite.tasks} - {name})
            raise UserError(f"no folder {name} under {data_dir or suite.folder}{hint}; pass data_dir= or another name")
        else:
            skipped[name] = f"{place}/{prefix}* is not under {data_dir}" if data_dir else "no data_dir given"
    for name in tasks_of(folders):
        if name not in names:
            skipped[name] = f"not in {'tasks=' if only else f'suite={suite.name}'}"
    if not run:
        where = f"under {data_dir}" if data_dir else "(pass data_dir=)"
        raise UserError(f"suite {suite.name}: no task of it has a folder {where}: {', '.join(names[:5])} ...")
    if suite.tasks:
        refuse_other_versions([name for name in run if name not in suite.tasks and name not in own], suite)
    for name in split if isinstance(split, dict) else ():
        if name not in run:
            near = did_you_mean(name, run) or f"; there are {', '.join(run)}"
            raise UserError(f"split={{{name}: {split[name]}}}: {name} is no task of this evaluation{near}")
    subsets, splits = ({name: list(of) for name, of in table.items()} for table in (suite.subsets, suite.splits))
    return Plan(run, skipped, split, subsets, splits)


def refuse_other_case(name: str, known: list[str]) -> None:
    """UserError for the name of a known task in other letters, which neither mteb nor a folder has."""
    if name not in known and name.casefold() in map(str.casefold, known):
        raise UserError(f"unknown task {name}{did_you_mean(name, known)}")


def refuse_other_versions(names: list[str], suite: Suite) -> None:
    """UserError for a task of which the suite has another version: the two scores are of unlike data or protocol."""
    if not names:
        return
    from gte.evaluation.board import newer

    own = {newer(name) or name: name for name in suite.tasks}
    for name in names:
        version = own.get(newer(name) or name)
        if version is not None:
            raise UserError(f"tasks={name} is another version than suite={suite.name} has: name {version}")


def counted(name: str, suite: Suite, split: str | None) -> bool:
    """Whether a task's score belongs into the suite's means: one of its own, on the split that it scores."""
    from gte.evaluation.board import official_split

    return name in suite.tasks and (split is None or split == official_split(name))


def check_tasks(
    data_dir: str | list[str] | None,
    tasks: list[str] | str | None,
    suite: Suite | None = None,
    split: str | dict[str, str] | None = None,
) -> None:
    """Raises UserError for a folder of tasks without any, and for a listed task that no folder holds; loads no mteb.

    suite: whose own folder and name count; its list of tasks does not.
    """
    suite = replace(suite or Suite("evaluate", hub=False), tasks=[])
    if (isinstance(tasks, list) and tasks) or (data_dir is None and suite.folder is None):
        plan(replace(suite, hub=suite.hub and data_dir is None), data_dir, only=tasks, split=split)
        return
    for folder in (data_dir, suite.folder):  # all tasks of them, or those of another suite
        if folder is not None:
            find_tasks(folder)


def holds(folder: Path, prefix: str) -> bool:
    """Whether files of a shared folder begin with that, or lie in a folder of its name."""
    return any(folder.glob(f"{prefix}*")) or (prefix != "" and (folder / prefix.rstrip("_")).is_dir())


def tasks_of(folders: dict[str, Path]) -> list[str]:
    """The tasks that these folders hold: mostly one of the folder's name."""
    shared = {place for place, _ in FOLDER_OF.values()}
    tasks = []
    for name, folder in folders.items():
        if name in shared:
            of = FOLDER_OF.items()
            tasks += [task for task, (place, prefix) in of if place == name and holds(folder, prefix)]
        else:
            tasks.append(name)
    return tasks


def name_checkpoints(checkpoint: str | list[str] | dict[str, str]) -> dict[str, str]:
    """Label checkpoints for a table: by default the last part of the path that tells them apart.

    Args:
        checkpoint: a path, a list of paths, or {label: path}.
    Returns: label -> path.
    Raises: UserError where a list names one checkpoint twice.

    >>> name_checkpoints(["runs/pretrain/checkpoints/last.ckpt", "runs/finetune"])
    {'pretrain': 'runs/pretrain/checkpoints/last.ckpt', 'finetune': 'runs/finetune'}
    """
    if isinstance(checkpoint, dict):
        if not all(isinstance(value, str) for value in checkpoint.values()):
            raise UserError("checkpoint={label: path}: every label needs a path")
        return {str(label): path for label, path in checkpoint.items()}
    paths = [checkpoint] if isinstance(checkpoint, str) else list(checkpoint)
    plain = {"checkpoints", "last.ckpt", "/"}
    parts = [[part for part in Path(path).parts if part not in plain] or [path] for path in paths]
    for depth in range(1, max(map(len, parts), default=1) + 1):
        labels = ["-".join(part[-depth:]).removesuffix(".ckpt") for part in parts]
        if len(set(labels)) == len(labels):
            return dict(zip(labels, paths, strict=True))
    raise UserError("checkpoint= names one checkpoint twice; give each a label: 'checkpoint={a: PATH, b: PATH}'")


def run_suite(
    checkpoints: dict[str, str],
    suite: Suite,
    plan: Plan,
    out: str | Path,
    load_model: Callable,
    say: Callable[[str], None] = say,
    stated: dict | None = None,
    board: bool = True,
) -> dict:
    """Run every planned task with every model (label -> checkpoint); write and return `out/results.json`.

    stated, board: fields of mteb's board that no file has (`model_meta`); whether its files are written.
    """
    # mteb takes seconds to import: after everything that can fail at once
    from gte.evaluation.board import write_board
    from gte.evaluation.tasks import kind_of

    out = Path(out)
    (out / "results.json").unlink(missing_ok=True)
    kinds = {name: kind_of(name) for name in suite.tasks}
    planned = {name: plan.task(name).kind for name in plan.run}
    if suite.tasks and not suite.folder:  # its means are over its own tasks; another suite's over what it finds
        plan = replace(
            plan, uncounted=[name for name in plan.run if not counted(name, suite, split_of(plan.split, name))]
        )
    else:
        kinds |= planned
    quiet()
    if None in plan.run.values() and not hub_reachable():
        ask_no_hub()
        refuse_without_hub(suite, plan)
    results = {
        "schema": SCHEMA,
        "suite": suite.name,
        "benchmark": suite.benchmark,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": " ".join(sys.argv),
        "commit": git_commit(),
        "versions": versions(),
        "machine": {"cpu": platform.machine(), "cores": os.cpu_count(), "platform": platform.platform()},
        "models": {},
        "skipped": plan.skipped,
    }
    for label, checkpoint in checkpoints.items():
        say(f"{label} ({checkpoint})")
        model = load_model(checkpoint)
        if note := getattr(model, "note", None):
            say(f"  note: {note}")
        entry = run_model(model, label, checkpoint, plan, out, say)
        results["models"][label] = entry | {"averages": averages(entry, kinds, suite.groups)}
        done = [read_json(task_file(out, label, name))["mteb"] for name in entry["tasks"]]
        if board and hasattr(model, "embed"):  # BM25 is no model that could be published
            line = write_board(out, label, checkpoint, model, list(itertools.chain.from_iterable(done)), stated or {})
            say(f"  {line}")
        if line := model.cut():
            say(f"  note: {line}")
        model.close()
    write_json(out / "results.json", results)
    return results


def run_model(
    model: "EncoderModel | BM25", label: str, checkpoint: str, plan: Plan, out: Path, say: Callable[[str], None]
) -> dict:
    """One model's part of the results: its tasks' scores, what it cannot do, and what failed."""
    description = model.describe()
    entry = {"checkpoint": checkpoint, **description, "tasks": {}, "skipped": {}, "failed": {}}
    for name in plan.run:
        task = plan.task(name)
        if not hasattr(model, "embed") and task.kind not in {"Retrieval", "Reranking"}:
            entry["skipped"][name] = f"{label} only ranks documents by words"
            continue
        try:
            done, fresh = run_task(task, model, description, task_file(out, label, name))
        except Exception as error:
            mendable = isinstance(error, UserError)
            entry["failed"][name] = {"error": str(error) if mendable else repr(error), "mendable": mendable}
            tell(f"error: {name}: {error}" if mendable else traceback.format_exc())
            continue
        entry["tasks"][name] = done | {"counted": name not in plan.uncounted}
        took = f"{done['seconds']:.1f} s" if fresh else "done before"
        say(f"  {name:<40} {done['main_score']:6.2f} {done['metric']}  {took}")
        for note in done["notes"]:
            say(f"    note: {note}")
    return entry


def task_file(out: Path, label: str, name: str) -> Path:
    """Where a finished task of a model is kept."""
    return out / "tasks" / re.sub(r"[^\w.-]", "_", label) / f"{name}.json"


def run_task(task: "Task", model: "EncoderModel | BM25", description: dict, file: Path) -> tuple[dict, bool]:
    """Scores in points of 100, and whether they are fresh: `file` serves again while its identity is the same."""
    from gte.evaluation.board import parts_of, task_results

    started = time.monotonic()
    task.load()
    identity = {"task": task.name, "split": task.split, "data": task.data, "model": description, "versions": versions()}
    if file.exists():
        earlier = read_json(file)
        if earlier.get("identity") == identity and "mteb" in earlier:
            return earlier["result"], False
    texts = model.texts
    model.prompts_used = {}
    scores = task.run(model)
    result = {
        "type": task.kind,
        "metric": task.main_score,
        "main_score": round(scores[task.main_score], 3),
        "scores": {key: round(value, 3) for key, value in scores.items()},
        "seconds": round(time.monotonic() - started, 2),
        "texts": model.texts - texts,
        "prompts": model.prompts_used,
        "precision": model.precision,
        "split": task.split,
        "notes": task.notes,
        "data": task.data,
        "source": "folder" if task.data.startswith("sha256") else "hub",
        "parts": parts_of(task),
    }
    as_mteb = [found.model_dump(mode="json") for found in task_results(task, result["seconds"])]
    write_json(file, {"identity": identity, "result": result, "mteb": as_mteb})
    return result, True


def refuse_without_hub(suite: Suite, plan: Plan) -> None:
    """UserError where the hub cannot be reached and none of the data that are to come from there was read before."""
    from gte.evaluation.board import in_cache

    wanted = [name for name, folder in plan.run.items() if folder is None]
    if len(wanted) == len(plan.run) and not any(in_cache(plan.task(name)) for name in wanted):
        names = ", ".join(wanted[:3]) + (f" and {len(wanted) - 3} more" if len(wanted) > 3 else "")
        raise UserError(
            f"suite={suite.name} needs the hub, which cannot be reached, for the data of {names}; pass data_dir=, a "
            "folder of task folders, or HF_HOME= of a machine that has read them"
        )


def exit_code(results: dict) -> int:
    """0 where all was run; 1 where a task failed, 2 where every failure is one that the user can fix."""
    failures = [failure for model in results["models"].values() for failure in model["failed"].values()]
    if not failures:
        return 0
    return 2 if all(failure["mendable"] for failure in failures) else 1
