"""Runs that are killed, in processes that start in no time: forked from one that has imported everything once."""

import json
import multiprocessing
import os
import signal

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["dclm.pipeline", "dclm.stages", "dclm.lmrun", "dclm.tokendata"])


def start(function, *arguments):
    """Call a function of this module in a process; `kill`, `join` and `exitcode` are a process's."""
    process = CONTEXT.Process(target=function, args=arguments)
    process.start()
    return process


def clean(shards, out):
    """Clean shards of text, going on with what is there."""
    from dclm import Recipe, RunOptions, run
    from dclm.config import Bloom, MinHash, RefinedWeb

    recipe = Recipe((RefinedWeb(), MinHash(), Bloom()))
    run(shards, recipe, out=out, options=RunOptions(quiet=True, resume=True))


def train_and_die(out, data, config, compiled, die):
    """Train on one device, and die before update `die` of this process; 0 lives. Compiled code is kept in a folder."""
    # The same single device every time: another number of them is another order of additions.
    os.environ["XLA_FLAGS"] = ""
    import jax
    from dclm.lmrun import LoopOptions, train
    from dclm.lmtrain import Trainer
    from dclm.mesh import build_mesh
    from dclm.scales import TrainConfig
    from dclm.tokendata import MixedTokens

    jax.config.update("jax_compilation_cache_dir", compiled)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    step, count = Trainer.step, [0]

    def dying(self, *arguments):
        count[0] += 1
        if count[0] == die:
            os.kill(os.getpid(), signal.SIGKILL)
        return step(self, *arguments)

    Trainer.step = dying
    options = LoopOptions(checkpoint_every=2, quiet=True)
    train(
        TrainConfig.from_dict(json.loads(config)), MixedTokens([data], seed=1), out, mesh=build_mesh(1), options=options
    )
