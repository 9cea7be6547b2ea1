"""Commands in processes that start in no time: forked from one that has imported everything once."""

import multiprocessing
import os
import sys

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["nots.cli", "nots.train", "nots.tasks", "torch._dynamo"])


def run_line(arguments):
    """What `python -m nots ARGUMENTS` does, without words."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.argv = ["nots", *arguments]
    from nots.cli import main

    main()


def start(arguments):
    """Start the command; `kill`, `join` and `exitcode` are a process's."""
    process = CONTEXT.Process(target=run_line, args=([str(argument) for argument in arguments],))
    process.start()
    return process
