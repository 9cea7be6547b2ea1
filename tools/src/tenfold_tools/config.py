"""Options of `tenfold reproduce` and `tenfold bench`; standard library only, for an instant `--help`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Budget = Literal["smoke", "laptop", "full"]

# What a paper may take on two cores, in seconds; a full run has no such bound.
BUDGET_SECONDS: dict[Budget, float | None] = {"smoke": 30.0, "laptop": 150.0, "full": None}
# A slow or busy machine is not an error; ten times the budget is a hang.
LIMIT_FACTOR = 10


@dataclass(frozen=True)
class RunConfig:
    """What both commands have in common.

    Attributes:
        budget: smoke proves that it runs (30 s a paper), laptop checks the recorded numbers (150 s a paper),
            full makes the numbers (hours).
        seed: First seed of every paper.
        timeout_seconds: Stop a paper after this time; ten times its budget unless told, never at full budget.
        json: Print the results as JSON instead of a table.
        quiet: No progress, only failures.
    """

    budget: Budget = "laptop"
    seed: int = 0
    timeout_seconds: float | None = None
    json: bool = False
    quiet: bool = False

    def __post_init__(self) -> None:
        """Refuse what would only fail inside each paper's process."""
        if not 0 <= self.seed < 2**32:
            raise ValueError(f"`seed` (={self.seed}) must be at least 0 and below 2**32.")
        if self.timeout_seconds is not None and not self.timeout_seconds > 0:
            raise ValueError(f"`timeout_seconds` (={self.timeout_seconds:g}) must be above 0.")

    @property
    def limit_seconds(self) -> float | None:
        """The wall-clock limit of one paper, None for none."""
        budget = BUDGET_SECONDS[self.budget]
        return self.timeout_seconds or (None if budget is None else LIMIT_FACTOR * budget)


@dataclass(frozen=True)
class ReproduceConfig(RunConfig):
    """Options of `tenfold reproduce`.

    Attributes:
        out: Folder of the page, its results and the finished runs.
        fresh: Run again what is finished already.
    """

    out: Path = Path("report")
    fresh: bool = False


@dataclass(frozen=True)
class BenchConfig(RunConfig):
    """Options of `tenfold bench`.

    Attributes:
        out: Folder of benchmarks.json and the logs.
    """

    out: Path = Path("report/benchmarks")
