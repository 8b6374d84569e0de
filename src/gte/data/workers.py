"""Functions of this package in other processes: of this machine (native), or of the Ray cluster at hand.

A worker is a Python process that is given a function and its arguments, one call at a time, over a pipe. It ends when
this process does, however that ends: its end of the pipe is closed then. Not `multiprocessing`: a user's script
without `if __name__ == "__main__"` would be run again by each worker of it, and its pools outlive a killed parent or
wait for ever for a killed worker.
"""

import os
import pickle
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from queue import Empty, LifoQueue, SimpleQueue
from typing import TypeVar

from gte.cores import allowed_cores
from gte.data.slots import ONE_CORE, SLOTS, make_slots
from gte.errors import UserError

MEMORY_EACH = 3 * 2**29  # bytes that a worker may take; so many at most as fit into what is free
SERVE = "from gte.data.workers import serve; serve()"
ONE_THREAD = {  # a worker is one core's
    **dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1"),
    "TOKENIZERS_PARALLELISM": "false",
}

T = TypeVar("T")


def how_many(asked: int | None, engine: str) -> int:
    """Workers to use at most: as asked; else the cluster's cores, or this machine's as far as its free memory holds."""
    if asked is not None:
        return asked
    if engine == "ray":
        import ray

        return max(1, int(ray.cluster_resources().get("CPU", 1)))
    cores = allowed_cores()
    free = free_memory()
    return cores if free is None else max(1, min(cores, free // MEMORY_EACH))


def free_memory() -> int | None:
    """Bytes that processes may still take on this machine, within its container; None where nothing says so."""
    try:
        facts = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
        free = int(facts["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        return None
    group = Path("/sys/fs/cgroup")
    with suppress(OSError, ValueError):  # no such group, or "max": no limit
        free = min(free, int((group / "memory.max").read_text()) - int((group / "memory.current").read_text()))
    return max(0, free)


class Worker:
    """A process of this machine. Calling it runs a function there and returns what it returns, or raises as it does.

    Raises UserError where the process dies.
    """

    def __init__(self, slots: str | None):
        path = os.pathsep.join(str(Path(folder).resolve()) for folder in sys.path if folder)
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-c", SERVE],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=os.environ | ONE_THREAD | {"PYTHONPATH": path, SLOTS: slots or ""},
            start_new_session=True,  # Ctrl-C is this process's to handle
        )
        self.calls = Connection(os.dup(self.process.stdin.fileno()), readable=False)
        self.answers = Connection(os.dup(self.process.stdout.fileno()), writable=False)
        self.process.stdin.close(), self.process.stdout.close()

    def __call__(self, function: Callable[..., T], *arguments) -> T:
        try:
            self.calls.send_bytes(pickle.dumps((function, arguments)))
            answer = self.answers.recv()
        except (EOFError, OSError) as error:
            raise UserError(
                f"a worker process {self.stop()}; where memory is short, workers=1 takes the least; prepare again: "
                "what is finished is kept"
            ) from error
        return open_answer(answer)

    def stop(self) -> str:
        """Ends the process, whatever it does; returns how it ended."""
        with suppress(OSError):
            self.calls.close()
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(1)  # it ends by itself when the pipe is closed
        self.process.kill()
        code = self.process.wait()
        return f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"


def serve() -> None:
    """Answer the calls that come in on stdin, until there is nobody to ask: the life of a worker process."""
    calls, answers = Connection(os.dup(0), writable=False), Connection(os.dup(1), readable=False)
    os.dup2(2, 1)  # what is printed must not get among the answers
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    waiting: SimpleQueue[bytes] = SimpleQueue()

    def listen() -> None:
        with suppress(EOFError, OSError):
            while True:
                waiting.put(calls.recv_bytes())
        os._exit(1)  # amid a call as well: whoever asked is gone

    threading.Thread(target=listen, daemon=True, name="listen").start()
    while True:
        answers.send(answer(*pickle.loads(waiting.get())))


def answer_on_cluster(function: Callable, arguments: tuple) -> tuple[bool, object]:
    """`answer` in a process of a cluster, which has one core."""
    os.environ |= {SLOTS: "", ONE_CORE: "1"}
    return answer(function, arguments)


def ready() -> None:
    """Import what the tasks of a preparation need, about a second's work, before there is one."""
    import gte.data.tasks  # noqa: F401


def answer(function: Callable, arguments: tuple) -> tuple[bool, object]:
    """(True, what the function returns) or (False, the exception that it raises), either fit to be sent."""
    os.environ |= ONE_THREAD
    try:
        return True, function(*arguments)
    except Exception as error:
        try:
            pickle.loads(pickle.dumps(error))
        except Exception:
            error = RuntimeError(f"{type(error).__name__}: {error}")
        if not isinstance(error, UserError):
            error.add_note(f"in a worker process:\n{traceback.format_exc()}")
        return False, error


def open_answer(answer: tuple[bool, object]):
    """Returns or raises what a call returned or raised elsewhere."""
    done, value = answer
    if not done:
        raise value
    return value


class Workers:
    """So many processes, started when they are needed; a context, at whose end they end.

    count: 1 runs everything in this process. engine: "native" or "ray".
    """

    def __init__(self, count: int, engine: str = "native"):
        self.count, self.engine = count, engine
        self.free = threading.Semaphore(count)
        self.idle: LifoQueue[Worker] = LifoQueue()
        self.started: list[Worker] = []
        self.over = False
        self.slots: str | None = None
        self.before: str | None = None
        self.remote: Callable | None = None  # of Ray: `answer_on_cluster` in one of its processes

    def __enter__(self) -> "Workers":
        self.before = os.environ.get(SLOTS)
        if self.engine == "ray":
            import ray

            self.remote = ray.remote(num_cpus=1)(answer_on_cluster).remote
            for _ in range(self.count):
                self.remote(ready, ())
        elif self.engine == "native" and self.count == 1:
            os.environ[SLOTS] = ""  # this process has one slot, or one worker would hold more than two
        elif self.engine == "native":
            try:
                self.slots = tempfile.mkdtemp(prefix="gte-slots-")
                make_slots(Path(self.slots), self.count)
            except OSError as error:
                raise UserError(f"cannot write to {tempfile.gettempdir()} ({error.strerror}); set TMPDIR") from error
        return self

    @property
    def at_once(self) -> str:
        """End of a line about the rate of several of them."""
        return f" on {self.count} workers" if self.count > 1 else ""

    def stop(self) -> None:
        """Ends the processes; a call under way raises UserError."""
        self.over = True
        for worker in self.started:
            worker.calls.close()  # together; then one waits for each
        for worker in self.started:
            worker.stop()

    def __exit__(self, *_) -> None:
        self.stop()
        if self.slots is not None:
            shutil.rmtree(self.slots, ignore_errors=True)
        os.environ.pop(SLOTS, None)
        if self.before is not None:
            os.environ[SLOTS] = self.before

    def run(self, function: Callable[..., T], *arguments) -> T:
        """Call the function in one of the processes; callable from many threads at once."""
        if self.count == 1 and self.engine == "native":
            return function(*arguments)
        with self.free:
            return self._run(function, *arguments)

    def _run(self, function: Callable[..., T], *arguments) -> T:
        """`run` in a process that is free."""
        if self.engine == "ray":
            import ray

            return open_answer(ray.get(self.remote(function, arguments)))
        if self.over:
            raise UserError("stopped")
        try:
            worker = self.idle.get_nowait()
        except Empty:
            worker = Worker(self.slots)
            self.started.append(worker)
        try:
            return worker(function, *arguments)
        finally:
            if worker.process.poll() is None:
                self.idle.put(worker)

    def each(self, calls: Sequence[Callable[[], T]], sizes: Sequence[int], ahead: int = 0) -> Iterator[T | UserError]:
        """Yield the result of each call, or the UserError that it raises, in the order of the calls.

        As many at a time as there are workers, those of the largest size first: so none of them comes last by itself.
        `ahead`: so many more wait for a worker, which has work while this process flushes what another wrote. Any other
        exception stops all.
        """
        if self.count == 1:
            yield from map(attempt, calls)
            return
        pool = ThreadPoolExecutor(max(1, min(self.count + ahead, len(calls))))
        try:
            order = sorted(range(len(calls)), key=lambda number: -sizes[number])
            futures = {number: pool.submit(attempt, calls[number]) for number in order}
            for number in range(len(calls)):
                yield futures[number].result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            self.__exit__()
            raise
        finally:
            pool.shutdown(cancel_futures=True)


def attempt(call: Callable[[], T]) -> T | UserError:
    """Result of a call, or the UserError that it raises."""
    try:
        return call()
    except UserError as error:
        return error
