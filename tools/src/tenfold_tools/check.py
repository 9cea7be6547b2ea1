"""Everything that has to hold before a change is merged or released, within thirty minutes on two cores.

tenfold check                      all parts, with their times; the last line counts
tenfold check --only lint fast     some of them
tenfold check --metrics            sizes against the house style
tenfold check --mutate mobileclip  do its tests notice changed mathematics?
"""

import fnmatch
import json
import os
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from tenfold_tools import affected, house_metrics, mutate, versions

PartName = Literal["lint", "fast", "slow", "contract", "smoke", "wheels"]
WHEEL_TESTS = "tests/test_wheels.py"
# Left out of every part, by definition of the markers; each such test has a row in tests/allowed.toml.
NEVER = "not weekly and not gpu"


@dataclass(frozen=True)
class CheckConfig:
    """Check the whole repository.

    Attributes:
        metrics: Print sizes against the house style instead.
        mutate: Package whose tests are tried on changed mathematics instead.
        only: Parts to run.
    """

    metrics: bool = False
    mutate: str | None = None
    only: tuple[PartName, ...] = ("lint", "fast", "slow", "contract", "smoke", "wheels")


@dataclass
class Tally:
    """What a check has seen.

    Attributes:
        passed: Tests and tools that passed.
        failed: Those that did not.
        ran: Tests that ran, passed or failed.
        left_out: Tests that were skipped, expected to fail, or deselected, with which of these.
    """

    passed: int = 0
    failed: int = 0
    ran: set[str] = field(default_factory=set)
    left_out: dict[str, str] = field(default_factory=dict)

    def note(self, name: str, *, good: bool) -> None:
        """Count one tool."""
        self.passed, self.failed = self.passed + good, self.failed + (not good)
        print(f"{'ok    ' if good else 'FAILED'} {name}", flush=True)

    def add(self, account: dict[str, list[str]]) -> None:
        """Count the tests of one run of pytest."""
        self.passed, self.failed = self.passed + len(account["passed"]), self.failed + len(account["failed"])
        self.ran |= {*account["passed"], *account["failed"]}
        for outcome in ("deselected", "xfailed", "skipped"):
            self.left_out.update(dict.fromkeys(account[outcome], outcome))


def _tool(name: str) -> str:
    """Return the path of a command of this environment."""
    return str(Path(sys.executable).with_name(name))


def _run(name: str, command: list[str], folder: Path, tally: Tally, **environment: str) -> None:
    """Run one tool and count it; its output is shown if it fails."""
    _count(name, _call(command, folder, **environment), tally)


def _call(command: list[str], folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, **environment}
    return subprocess.run(
        command, cwd=folder, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )


def _count(name: str, result: subprocess.CompletedProcess[str], tally: Tally) -> None:
    if result.returncode:
        print(result.stdout + result.stderr, flush=True)
    tally.note(name, good=result.returncode == 0)


def lint(root: Path, tally: Tally) -> None:
    """Style, types, boundaries between modules, declared dependencies, versions."""
    _run("ruff check", [_tool("ruff"), "check", "--no-cache"], root, tally)
    _run("ruff format", [_tool("ruff"), "format", "--check", "--no-cache"], root, tally)
    _run("ty", [_tool("ty"), "check", "--python", sys.prefix, "--error-on-warning"], root, tally)
    _run("import-linter", [_tool("lint-imports"), "--no-cache"], root, tally)
    for folder in affected.read_members(root):
        command = [_tool("deptry"), "src", "--no-ansi", *_extras(root / folder)]
        _run(f"deptry {folder}", command, root / folder, tally)
    difference = versions.difference(root)
    for line in difference:
        print(line)
    tally.note("versions", good=not difference)


def _extras(folder: Path) -> list[str]:
    """Return deptry's option for what extras bring: imported by name where needed, or peers."""
    extras = tomllib.loads((folder / "pyproject.toml").read_text())["project"].get("optional-dependencies", {})
    names = {affected.requirement_name(line) for lines in extras.values() for line in lines}
    return ["--per-rule-ignores", f"DEP002={'|'.join(sorted(names))}"] if names else []


def fast(root: Path, tally: Tally) -> None:
    """Tests of the members that plain pytest runs."""
    pytest(root, tally, *member_tests(root))


def slow(root: Path, tally: Tally) -> None:
    """Tests of the members that take longer; what starts processes of its own runs alone."""
    several = "(ray or distributed)"
    pytest(root, tally, "-m", f"(slow or browser) and not {several} and {NEVER}", *member_tests(root))
    pytest(root, tally, "-m", f"{several} and {NEVER}", "-n", "0", *member_tests(root))


def contract(root: Path, tally: Tally) -> None:
    """The contract that every package keeps, and the workspace's own rules."""
    # The README tests of one file take half of the time: two workers share them.
    pytest(root, tally, "-m", NEVER, "--dist", "worksteal", "--ignore", WHEEL_TESTS, "tests")


def smoke(root: Path, tally: Tally) -> None:
    """Every experiment once, at its smallest, two at a time: it runs, and says nothing about its claim."""
    papers = sorted(name.removeprefix("packages/") for name in affected.read_members(root) if "/" in name)
    claims: list[dict[str, str]] = []
    with tempfile.TemporaryDirectory(prefix="smoke-") as folder, ThreadPoolExecutor(2) as pool:

        def reproduce(half: list[str]) -> subprocess.CompletedProcess[str]:
            command = [_tool("tenfold"), "reproduce", *half, "--budget", "smoke", "--out", f"{folder}/{half[0]}"]
            return _call(command, root, OMP_NUM_THREADS="1")

        halves = [papers[::2], papers[1::2]]
        for half, result in zip(halves, pool.map(reproduce, halves), strict=True):
            _count(f"reproduce {' '.join(half)} --budget smoke", result, tally)
            results = Path(folder) / half[0] / "results.json"
            claims += json.loads(results.read_text()) if results.exists() else []
    for paper in papers:
        # Arithmetic is true at any budget, and what cannot be had here is not attempted at any.
        verdicts = {claim["verdict"] for claim in claims if claim["paper"] == paper and claim["budget"] == "smoke"}
        tally.note(f"smoke claims of {paper}: {', '.join(verdicts) or 'none'}", good=verdicts == {"not judged"})


def wheels(root: Path, tally: Tally) -> None:
    """Every wheel alone in a clean environment."""
    pytest(root, tally, "-m", NEVER, "-n", "0", WHEEL_TESTS)


PARTS: dict[PartName, tuple[Callable[[Path, Tally], None], float]] = {
    # Part and its share of the thirty minutes.
    "lint": (lint, 2),
    "fast": (fast, 10),
    "slow": (slow, 6),
    "contract": (contract, 2),
    "smoke": (smoke, 5),
    "wheels": (wheels, 2),
}


def member_tests(root: Path) -> list[str]:
    """Return the members' test folders that exist."""
    return [f"{folder}/tests" for folder in affected.read_members(root) if (root / folder / "tests").exists()]


def pytest(root: Path, tally: Tally, *arguments: str) -> None:
    """Run pytest with the root's settings and count its tests.

    No collected test is no failure (a package need not have slow ones); a crash without any failed test is.
    """
    with tempfile.TemporaryDirectory(prefix="account-") as folder:
        file = Path(folder) / "account.json"
        command = [sys.executable, "-m", "pytest", "-c", str(root / "pyproject.toml"), "--rootdir", str(root)]
        command += ["-p", "tenfold_tools.account", "-q", "--durations", "5", "--timeout", "600", *arguments]
        environment = {**os.environ, "TENFOLD_ACCOUNT": str(file), "OMP_NUM_THREADS": "1"}
        result = subprocess.run(command, cwd=root, env=environment, stdin=subprocess.DEVNULL, check=False)
        account = json.loads(file.read_text()) if file.exists() else None
    if account is not None:
        tally.add(account)
    if result.returncode not in (0, 5) and not (account and account["failed"]):
        tally.note(f"pytest {' '.join(arguments)} (exit {result.returncode})", good=False)


def allowance_problems(tally: Tally, rows: list[dict[str, str]], *, whole: bool) -> list[str]:
    """Compare what did not run with the list of what need not.

    Args:
        tally: What ran and what did not. A test that one part deselects and another runs has run.
        rows: `id` (a pattern) and `reason` of each allowed test.
        whole: Whether every part ran. Otherwise deselection and unused rows say nothing.

    Returns:
        One sentence per test left out without a reason, and per row that nothing needs.
    """
    outcomes = tally.left_out if whole else {k: v for k, v in tally.left_out.items() if v != "deselected"}
    missing = {test: outcome for test, outcome in outcomes.items() if test not in tally.ran or outcome != "deselected"}
    patterns = [row["id"] for row in rows if row["reason"].strip()]
    problems = [
        f"{test} was {outcome}; run it, or give the reason in tests/allowed.toml"
        for test, outcome in sorted(missing.items())
        if not any(fnmatch.fnmatchcase(test, escape(pattern)) for pattern in patterns)
    ]
    if whole:
        used = {p for p in patterns if any(fnmatch.fnmatchcase(test, escape(p)) for test in missing)}
        problems += [f"tests/allowed.toml: nothing needs `{row['id']}`" for row in rows if row["id"] not in used]
    return problems


def escape(pattern: str) -> str:
    """Return a pattern in which `*` is special and the brackets of parametrised tests are not."""
    return pattern.replace("[", "[[]")


def run_parts(root: Path, names: tuple[PartName, ...]) -> Tally:
    """Run parts one after the other, print each one's time, then what was left out without a reason."""
    tally, times, before = Tally(), {}, _status(root)
    for name in names:
        print(f"\n== {name}", flush=True)
        start = time.monotonic()
        PARTS[name][0](root, tally)
        times[name] = time.monotonic() - start
    tally.note("working tree as it was", good=_status(root) == before)
    rows = tomllib.loads((root / "tests" / "allowed.toml").read_text()).get("test", [])
    problems = allowance_problems(tally, rows, whole=set(names) == set(PARTS))
    for line in problems:
        print(line)
    tally.failed += len(problems)
    print()
    for line in time_lines(times):
        print(line)
    return tally


def _status(root: Path) -> str:
    """Return what git would say has changed; nothing outside a repository."""
    command = ["git", "-C", str(root), "status", "--porcelain"]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout


def time_lines(times: dict[PartName, float]) -> Iterator[str]:
    """Yield one line per part: its time, and its share of the thirty minutes."""
    for name, seconds in times.items():
        late = "  over its share" if seconds > 60 * PARTS[name][1] else ""
        yield f"{name:10} {seconds / 60:5.1f} min of {PARTS[name][1]:g}{late}"
    yield f"{'all':10} {sum(times.values()) / 60:5.1f} min of 30"


def run(config: CheckConfig, root: Path | None = None) -> int:
    """Check the repository, or one of the two other looks at it.

    Args:
        config: What to check.
        root: Top of the workspace; the one this file lies in by default.

    Returns:
        0 if everything passed, 1 if not.
    """
    top = root or Path(__file__).resolve().parents[3]
    members = affected.read_members(top)
    if config.metrics:
        return house_metrics.run(top, list(members))
    if config.mutate is not None:
        return mutate.run(top, mutate.find_folder(config.mutate, list(members)))
    tally = run_parts(top, config.only)
    print(f"{tally.passed} passed, {tally.failed} failed", flush=True)
    return 1 if tally.failed else 0
