"""Functions as tasks of Daft's engine: threads of this process (native), or processes of a Ray cluster."""

import asyncio
import json
import os
from collections.abc import AsyncIterator, Callable
from typing import Any

import pyarrow as pa

os.environ.setdefault("DO_NOT_TRACK", "1")  # Daft reports its use to its makers otherwise
os.environ.setdefault("DAFT_PROGRESS_BAR", "0")
import daft
from daft.io.source import DataSource, DataSourceTask
from daft.recordbatch import RecordBatch

from gte.data.slots import slot
from gte.errors import UserError

RESULT = pa.schema([("number", pa.int64()), ("result", pa.string())])


def run_tasks(name: str, functions: list[Callable[[], Any]]) -> list:
    """Call every function as a task of the engine, as many at a time as there are cores.

    What they return must be small: it comes back to this process. A machine that dies repeats its functions elsewhere,
    so each must be able to run twice.

    Args:
        name: what the engine calls the work.
        functions: without arguments; with engine=ray they are pickled.
    Returns: what each returned, through JSON, in their order.
    Raises: UserError and OSError as the first function that failed raised them; other errors as Daft tells them.
    """
    if not functions:
        return []
    rows = Tasks(name, functions).read().to_pydict()
    results = dict(zip(rows["number"], map(json.loads, rows["result"]), strict=True))
    for number in range(len(functions)):
        if refused := results[number].get("refused"):
            raise UserError(refused)
        if failed := results[number].get("failed"):
            raise OSError(*failed)
    return [results[number]["value"] for number in range(len(functions))]


def result(function: Callable[[], Any]) -> str:
    """Call a function and spell what came out as JSON: exceptions do not keep their type across the engine."""
    # the C library's allocator: Arrow's own gives memory back to the system after each block and takes it anew, a
    # quarter of the time of reading and sorting pairs
    pa.set_memory_pool(pa.system_memory_pool())
    try:
        with slot():
            return json.dumps({"value": function()})
    except UserError as error:
        return json.dumps({"refused": str(error)})
    except OSError as error:
        return json.dumps({"failed": [error.errno, error.strerror or str(error), error.filename]}, default=str)


class Tasks(DataSource):
    """Functions as a Daft source of their results."""

    def __init__(self, name: str, functions: list[Callable[[], Any]]):
        self.title, self.functions = name, functions

    @property
    def name(self) -> str:
        return self.title

    @property
    def schema(self) -> daft.Schema:
        return daft.Schema.from_pyarrow_schema(RESULT)

    async def get_tasks(self, pushdowns: object) -> AsyncIterator["Task"]:
        for number, function in enumerate(self.functions):
            yield Task(number, function)


class Task(DataSourceTask):
    """The task of one function."""

    def __init__(self, number: int, function: Callable[[], Any]):
        self.number, self.function = number, function

    @property
    def schema(self) -> daft.Schema:
        return daft.Schema.from_pyarrow_schema(RESULT)

    async def read(self) -> AsyncIterator[RecordBatch]:
        # in a thread: Daft reads all Python sources of a process in one event loop, so one would wait for the other
        found = await asyncio.to_thread(result, self.function)
        row = pa.record_batch([[self.number], [found]], schema=RESULT)
        yield RecordBatch.from_arrow_record_batches([row], RESULT)
