"""Commands in processes that start in no time: forked from one that has imported everything once.

A killed process is one that has to be started again, and twenty starts of torch take longer than what they test.
"""

import multiprocessing
import os
import sys
import time
from unittest import mock

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(
    ["fastvlm.cli", "fastvlm.train", "fastvlm.start", "fastvlm.profile", "transformers", "torch._dynamo"]
)


def run_line(arguments):
    """What `python -m fastvlm ARGUMENTS` does, without words."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.argv = ["fastvlm", *arguments]
    from fastvlm.cli import main

    main()


def start(arguments):
    """Start the command; `kill`, `join` and `exitcode` are a process's."""
    return call(run_line, [str(argument) for argument in arguments])


def call(function, *arguments):
    """Call a function of a module in a process."""
    process = CONTEXT.Process(target=function, args=arguments)
    process.start()
    return process


def profile_by_arithmetic(folder, grid, pause):
    """Profile with a clock that is arithmetic: an encoder takes its pixels, a prefill its tokens, in microseconds.

    Each measurement takes `pause` seconds in truth.
    """
    from fastvlm import profile as analysis

    def measure(seconds, **facts):
        time.sleep(pause)
        return {"seconds": [seconds], "flops": 1e9, **facts}

    replaced = {
        "_measure_encoder": lambda spec, size, rounds: measure(size**2 / 1e6, params=1e6),
        "_measure_prefill": lambda config, count, grid: measure(count / 1e6, layers=2),
        "check_sharing": lambda rounds: {"full_ms": 1.0},
    }
    with mock.patch.multiple(analysis, **replaced):
        return analysis.profile(folder, grid, resume=True)["rows"]


def finish(arguments):
    """Run the command to its end, which must be a good one."""
    process = start(arguments)
    process.join()
    assert process.exitcode == 0
