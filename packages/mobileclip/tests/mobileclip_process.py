"""Commands in processes that start in no time: forked from one that has imported everything once.

A killed process is one that has to be started again, and twenty starts of torch take longer than what they test.
"""

import multiprocessing
import os
import sys

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(
    ["mobileclip.cli", "mobileclip.train", "mobileclip.reinforce", "webdataset", "timm", "torch._dynamo"]
)


def run_line(arguments):
    """What `python -m mobileclip ARGUMENTS` does, without words."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.argv = ["mobileclip", *arguments]
    from mobileclip.cli import main

    main()


def start(arguments):
    """Start the command; `kill`, `join` and `exitcode` are a process's."""
    process = CONTEXT.Process(target=run_line, args=([str(argument) for argument in arguments],))
    process.start()
    return process


def finish(arguments):
    """Run the command to its end, which must be a good one."""
    process = start(arguments)
    process.join()
    assert process.exitcode == 0
