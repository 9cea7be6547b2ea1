"""The same tasks in this process, in local processes, or on Ray: which one changes nothing but the time."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Literal

from tenfold_shared.commands import require_extra
from tenfold_shared.environment import switch_off_telemetry

from dclm.config import check_above, check_choice

__all__ = ["Execute", "RunOptions", "open_engine"]

MAX_RETRIES = 3  # of a task whose worker was killed
Task = tuple[Any, int]
Execute = Callable[[Callable[[Any, int], None], Sequence[Task]], Iterator[None]]


@dataclass(frozen=True)
class RunOptions:
    """How a recipe runs; nothing here changes a byte of the documents, but for their format.

    Args:
        engine: Where the work is done.
        num_workers: Processes, or Ray tasks at a time.
        file_format: Of the documents written.
        keep_removed: Also write every removed document with its reason.
        resume: Go on with an output folder that a run left.
        work: Local (or, for a Ray cluster, shared) folder for intermediate files; by default `work` inside the output.
        ray_address: Of a running cluster; None starts Ray on this machine.
        quiet: No progress.
    """

    engine: Literal["serial", "processes", "ray"] = "serial"
    num_workers: int = 2
    file_format: Literal["jsonl.gz", "jsonl.zst", "jsonl", "parquet"] = "jsonl.gz"
    keep_removed: bool = False
    resume: bool = False
    work: str | None = None
    ray_address: str | None = None
    quiet: bool = False

    def __post_init__(self) -> None:
        check_choice("engine", self.engine, ("serial", "processes", "ray"))
        check_choice("file_format", self.file_format, ("jsonl.gz", "jsonl.zst", "jsonl", "parquet"))
        check_above("num_workers", self.num_workers, 0)


@contextmanager
def open_engine(options: RunOptions) -> Generator[Execute]:
    """Start an engine and stop it at the end of the block.

    A task is a function of two picklable values that writes its result atomically, so that it can run again after
    its worker was killed.

    Args:
        options: Which engine, how many workers.

    Yields:
        A function that runs tasks and yields once for each that is done.
    """
    if options.engine == "serial":
        yield _run_here
        return
    with ExitStack() as stack:
        if options.engine == "processes":
            pool = _Pool(options.num_workers)
            stack.callback(pool.close)
            yield pool.execute
        else:
            ray = stack.enter_context(_ray(options))
            yield lambda function, tasks: _run_on_ray(ray, function, tasks, num_workers=options.num_workers)


def _run_here(function: Callable[[Any, int], None], tasks: Sequence[Task]) -> Iterator[None]:
    for task in tasks:
        yield function(*task)


class _Pool:
    """Local processes that stay for all phases of a run, and are replaced when one of them is killed."""

    def __init__(self, num_workers: int) -> None:
        self.num_workers = num_workers
        self.pool = self._start()

    def _start(self) -> ProcessPoolExecutor:
        return ProcessPoolExecutor(self.num_workers, mp_context=multiprocessing.get_context("spawn"))

    def execute(self, function: Callable[[Any, int], None], tasks: Sequence[Task]) -> Iterator[None]:
        left = list(tasks)
        for attempt in range(MAX_RETRIES + 1):
            try:
                futures = {self.pool.submit(function, *task): task for task in left}
                for future in as_completed(futures):
                    future.result()
                    left.remove(futures[future])
                    yield None
                return
            except BrokenProcessPool as error:
                self.pool.shutdown()
                self.pool = self._start()
                if attempt == MAX_RETRIES:
                    raise RuntimeError(
                        f"workers were killed {MAX_RETRIES + 1} times (out of memory?); start again with --resume "
                        "and fewer --num-workers."
                    ) from error

    def close(self) -> None:
        self.pool.shutdown(cancel_futures=True)


@contextmanager
def _ray(options: RunOptions) -> Generator[Any]:
    switch_off_telemetry()
    ray = require_extra("ray", "ray", "dclm")
    started = not ray.is_initialized()
    if started:
        local = {} if options.ray_address else {"num_cpus": options.num_workers, "include_dashboard": False}
        ray.init(address=options.ray_address, log_to_driver=False, logging_level="error", **local)
    try:
        yield ray
    finally:
        if started:
            ray.shutdown()


def _run_on_ray(
    ray: Any, function: Callable[[Any, int], None], tasks: Sequence[Task], *, num_workers: int
) -> Iterator[None]:
    remote = ray.remote(num_cpus=1, max_retries=MAX_RETRIES)(function)
    waiting = list(reversed(tasks))
    running: list[Any] = []
    while waiting or running:
        while waiting and len(running) < num_workers:
            running.append(remote.remote(*waiting.pop()))
        done, running = ray.wait(running)
        for reference in done:
            _get(ray, reference)
            yield None


def _get(ray: Any, reference: Any) -> None:
    """Raise what a task raised as it was, not wrapped with the trace of the worker."""
    try:
        ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        raise error.cause from None
