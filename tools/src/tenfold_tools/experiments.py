"""`tenfold reproduce`: run every paper's experiment in a process of its own and write the report."""

import contextlib
import fcntl
import shutil
import sys
import textwrap
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Literal

from tenfold_shared.claims import ClaimResult, write_claims
from tenfold_shared.commands import InputError, print_result

from tenfold_tools.cache import CLAIMS_FILE, cache_key, expected_seconds, load_finished, load_run
from tenfold_tools.config import BUDGET_SECONDS, ReproduceConfig
from tenfold_tools.discovery import discover, select
from tenfold_tools.display import Display
from tenfold_tools.process import run_child, worker_command

LOG_FILE = "log.txt"
EXIT_FAILED, EXIT_INTERRUPTED = 1, 130

State = Literal["finished", "failed", "interrupted", "waiting"]


@dataclass(frozen=True)
class PaperRun:
    """One paper in the report.

    `folder` is where its run lies or would lie; `claims` is empty unless it is finished; `reused` says that
    the run is an earlier one; `problem` and `tail` say how it failed; `run` holds seconds, date and
    environment.
    """

    entry: EntryPoint
    folder: Path
    state: State
    claims: tuple[ClaimResult, ...] = ()
    reused: bool = False
    problem: str = ""
    tail: str = ""
    run: Mapping | None = None

    @property
    def name(self) -> str:
        """The paper's name, which is its import package."""
        return self.entry.name


def run(papers: Sequence[str], config: ReproduceConfig) -> int:
    """Run the named papers (all for none), write the report, print the claims.

    The page and `results.json` are written again after every paper, so that they are right at any moment; a
    paper whose run is finished already, under the same cache key, is not run again.

    Returns:
        0 when every paper ran, 1 when one failed, 130 after Ctrl-C.

    Raises:
        ValueError: an unknown paper, or an output folder that cannot be used.
    """
    found = discover("reproduce")
    selected = select(found, papers)
    with exclusive(config.out):
        runs = {entry.name: look_up(entry, found, config) for entry in found.values()}
        todo = [entry.name for entry in selected if config.fresh or runs[entry.name].state != "finished"]
        try:
            return run_all(runs, todo, [entry.name for entry in selected], config)
        except KeyboardInterrupt:
            say_how_to_continue(papers, config)
            return EXIT_INTERRUPTED


def look_up(entry: EntryPoint, found: Mapping[str, EntryPoint], config: ReproduceConfig) -> PaperRun:
    """Find the finished run of a paper, if there is one for its present state."""
    try:
        key = cache_key(entry, found, budget=config.budget, seed=config.seed)
    except FileNotFoundError as error:
        folder = config.out / "runs" / entry.name / "missing"
        return PaperRun(entry, folder, "waiting", problem=str(error))
    folder = config.out / "runs" / entry.name / key
    claims = load_finished(folder, entry.name)
    if claims is None:
        return PaperRun(entry, folder, "waiting")
    return PaperRun(entry, folder, "finished", tuple(claims), reused=True, run=load_run(folder))


def run_all(runs: dict[str, PaperRun], todo: list[str], selected: list[str], config: ReproduceConfig) -> int:
    """Run what is to do, keeping the report up to date."""
    expected = {name: expect(name, config) for name in todo}
    display = Display(expected, quiet=config.quiet)
    for name in [name for name in selected if name not in todo]:
        display.say(f"{name}: finished before, nothing changed since (--fresh runs it again)")
    publish(runs, config)
    for name in todo:
        try:
            runs[name] = run_one(runs[name], config, display)
        except KeyboardInterrupt:
            runs[name] = replace(runs[name], state="interrupted", claims=(), reused=False)
            raise
        finally:
            publish(runs, config)
    print_claims([runs[name] for name in selected], config)
    display.say(f"report: {config.out / 'index.html'}")
    return EXIT_FAILED if any(runs[name].state == "failed" for name in selected) else 0


def expect(name: str, config: ReproduceConfig) -> float | None:
    """Expected seconds of a paper: as long as last time, else its whole budget."""
    return expected_seconds(config.out / "runs", name, config.budget) or BUDGET_SECONDS[config.budget]


def run_one(paper: PaperRun, config: ReproduceConfig, display: Display) -> PaperRun:
    """Run one experiment and read what it left; files of an interrupted run stay, for it to go on from."""
    display.start(paper.name)
    if config.fresh:
        shutil.rmtree(paper.folder, ignore_errors=True)
    paper.folder.mkdir(parents=True, exist_ok=True)
    (paper.folder / CLAIMS_FILE).unlink(missing_ok=True)
    outcome = run_child(
        worker_command("reproduce", paper.name, out=paper.folder, budget=config.budget, seed=config.seed),
        paper.folder / LOG_FILE,
        limit_seconds=config.limit_seconds,
        show=display.line,
        tick=display.tick,
    )
    claims = None if outcome.problem else load_finished(paper.folder, paper.name)
    problem = outcome.problem or ("" if claims else "its process ended without writing its claims")
    display.end(outcome.seconds, f"{problem}; log: {paper.folder / LOG_FILE}" if problem else "")
    if claims is None:
        took = {"seconds": outcome.seconds}
        return PaperRun(paper.entry, paper.folder, "failed", problem=problem, tail=outcome.tail, run=took)
    return PaperRun(paper.entry, paper.folder, "finished", tuple(claims), run=load_run(paper.folder))


def publish(runs: Mapping[str, PaperRun], config: ReproduceConfig) -> None:
    """Write the page and `results.json` from what is finished."""
    from tenfold_tools.report import write_report

    write_claims(config.out / "results.json", [claim for run in runs.values() for claim in run.claims])
    write_report(config.out / "index.html", list(runs.values()), budget=config.budget, seed=config.seed)


def print_claims(runs: Sequence[PaperRun], config: ReproduceConfig) -> None:
    """Print the claims on stdout."""
    claims = [claim for run in runs for claim in run.claims]
    if config.json:
        print_result([claim.to_dict() for claim in claims], True)
    elif claims:
        print_result([summarise(claim) for claim in claims], False)


def summarise(claim: ClaimResult) -> dict[str, str | float]:
    """One line of the printed table."""
    return {
        "paper": claim.paper,
        "claim": claim.claim,
        "in the paper": textwrap.shorten(claim.paper_value.text, 24, placeholder="...") if claim.paper_value else "",
        "ours": claim.ours.mean if claim.ours else "",
        "control": claim.control.mean if claim.control else "",
        "verdict": claim.verdict,
    }


def say_how_to_continue(papers: Sequence[str], config: ReproduceConfig) -> None:
    """Say after Ctrl-C what there is and which command goes on."""
    options = [f"--budget {config.budget}", f"--seed {config.seed}", f"--out {config.out}"]
    command = " ".join(["tenfold reproduce", *papers, *options])
    print(
        f"\ninterrupted; what is finished is in {config.out / 'index.html'}. Continue with: {command}",
        file=sys.stderr,
    )


@contextlib.contextmanager
def exclusive(out: Path) -> Generator[None]:
    """Hold the output folder for this process; the lock goes with the process, however it ends.

    Raises:
        InputError: the folder cannot be written, or another process holds it.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        lock = (out / ".lock").open("a")
    except OSError as error:
        raise InputError(f"cannot write to {out} ({error.strerror}); choose another --out.") from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(f"another run is writing {out}; wait for its end or choose another --out.") from None
        yield
