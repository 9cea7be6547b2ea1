"""Work on other processes, in order, that Ctrl-C or the death of one ends at once."""

from __future__ import annotations

import multiprocessing
import signal
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any

Start = tuple[Callable[..., object], tuple[Any, ...]]
Worker = tuple[BaseProcess, Connection]


def map_in_order(
    function: Callable[[Any], Any], items: Iterable[Any], workers: int, start: Start
) -> Generator[Any, None, None]:
    """Yield `function(item)` of each item, in the items' order; each worker has one item at a time.

    Unlike the pools of the standard library there are no threads and no locks that a killed worker could hold, and a
    worker that is gone is an error rather than a result that never comes.

    Args:
        function: Of a module, so that a spawned process finds it.
        items: Read as workers get free.
        workers: Processes.
        start: What each process calls first, and its arguments.

    Raises:
        RuntimeError: A worker ended, for example for want of memory.
    """
    crew = _hire(function, workers, start)
    busy: deque[Worker] = deque()
    try:
        for number, item in enumerate(items):
            if len(busy) == workers:
                yield _receive(busy.popleft())
            worker = crew[number % workers]
            worker[1].send(item)
            busy.append(worker)
        while busy:
            yield _receive(busy.popleft())
    finally:
        for process, connection in crew:
            process.kill()
            connection.close()
        for process, _ in crew:
            process.join()


def _hire(function: Callable[[Any], Any], workers: int, start: Start) -> list[Worker]:
    """Start the processes; they ignore Ctrl-C, which reaches all of a terminal, so that this one alone speaks."""
    context, crew = multiprocessing.get_context("spawn"), []
    here = threading.current_thread() is threading.main_thread()  # no other thread may set a signal's handler
    before = signal.signal(signal.SIGINT, signal.SIG_IGN) if here else None
    try:
        for _ in range(workers):
            ours, theirs = context.Pipe()
            process = context.Process(target=_serve, args=(theirs, function, start), daemon=True)
            process.start()
            theirs.close()
            crew.append((process, ours))
    finally:
        if here:
            signal.signal(signal.SIGINT, before)
    return crew


def _receive(worker: Worker) -> Any:
    try:
        result, error = worker[1].recv()
    except (EOFError, ConnectionResetError) as gone:
        worker[0].join()
        raise RuntimeError(f"a worker process ended with status {worker[0].exitcode}; is memory short?") from gone
    if error is not None:
        raise error
    return result


def _serve(connection: Connection, function: Callable[[Any], Any], start: Start) -> None:
    """Answer until the other end is closed or gone."""
    prepare, arguments = start
    prepare(*arguments)
    while True:
        try:
            item = connection.recv()
        except (EOFError, ConnectionResetError):
            return
        try:
            answer = (function(item), None)
        except Exception as error:
            answer = (None, error)
        connection.send(answer)
