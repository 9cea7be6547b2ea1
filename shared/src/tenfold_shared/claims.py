"""A paper's claim beside our measurement, and the verdict that follows from the numbers alone.

Metrics are oriented so that larger is better: an experiment negates a loss or reports its reduction.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path, PurePosixPath
from typing import Any, Literal, get_args

from tenfold_shared.environment import environment_report, git_commit
from tenfold_shared.files import plain_json, write_json
from tenfold_shared.intervals import paired_interval, prediction_interval, t_quantile

__all__ = [
    "MAX_RECORDED_BYTES",
    "Budget",
    "ClaimResult",
    "Estimate",
    "Evidence",
    "PaperValue",
    "Verdict",
    "paired_interval",
    "prediction_interval",
    "read_claims",
    "read_recorded",
    "t_quantile",
    "verdict",
    "write_claims",
    "write_recorded",
]

Verdict = Literal["shown", "direction only", "contradicted", "not shown", "not attempted", "not judged"]
Evidence = Literal["real", "composed", "synthetic", "authors' records", "arithmetic"]
Budget = Literal["smoke", "laptop", "full"]
Mark = Literal["V", "A", "D"]

MIN_PAIRS_SHOWN = 5  # fewer paired seeds never make more than "direction only"
MAX_RECORDED_BYTES = 200_000
RECORDED_SCHEMA = 1
_RECORDED_KEYS = {
    "schema", "claims", "configuration", "command", "commit", "machine", "versions", "attempts",
}  # fmt: skip


def verdict(
    ours: Sequence[float], control: Sequence[float], minimum_effect: float, *, budget: Budget = "full"
) -> Verdict:
    """Judge our values against the control's, paired by seed.

    `shown`: at least five pairs, and the 95 % paired-t interval lies above the minimum effect.
    `direction only`: above zero, with a smaller effect or fewer pairs. `contradicted`: the interval
    lies below zero. `not shown`: the rest. A smoke run is `not judged`.

    Args:
        ours: One value per seed, larger is better.
        control: The strongest control's values for the same seeds, in the same order.
        minimum_effect: The difference that was said, before the run, to count; at least 0.
        budget: The tier of the run.

    Raises:
        ValueError: Lengths differ, a value is not finite, or the minimum effect is negative.

    Example:
        >>> verdict([3.0, 3.1, 3.2, 3.1, 3.0], [1.0, 1.1, 1.0, 1.1, 1.0], 0.5)
        'shown'
    """
    _check_choice("budget", budget, Budget)
    if not (math.isfinite(minimum_effect) and minimum_effect >= 0):
        raise ValueError(f"`minimum_effect` (={minimum_effect}) must be a finite number of at least 0.")
    differences = _paired_differences(ours, control)
    mean, low, high = paired_interval(differences)
    if budget == "smoke":
        return "not judged"
    if len(differences) == 1:
        return "direction only" if mean > 0 else "not shown"
    if high < 0:
        return "contradicted"
    if low > minimum_effect and len(differences) >= MIN_PAIRS_SHOWN:
        return "shown"
    return "direction only" if low > 0 else "not shown"


@dataclass(frozen=True)
class Estimate:
    """Values of the seeds, their mean and its 95 % t interval; one seed has no interval (nan)."""

    per_seed: tuple[float, ...]
    mean: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Estimate:
        """Estimate from one finite value per seed.

        Raises:
            ValueError: No value, or one that is not finite.

        Example:
            >>> Estimate.of([1.0, 2.0, 3.0]).mean
            2.0
        """
        per_seed = tuple(float(v) for v in values)
        return cls(per_seed, *paired_interval(per_seed))

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> Estimate:
        """Read back what `dataclasses.asdict` wrote, refusing a mean that its values do not give."""
        _check_keys("estimate", record, {f.name for f in dataclasses.fields(cls)})
        estimate = cls.of([_number("per_seed", v) for v in record["per_seed"]])
        for name in ("mean", "low", "high"):
            expected, stored = getattr(estimate, name), record[name]
            same = stored is None if math.isnan(expected) else _is_close(_number(name, stored), expected)
            if not same:
                raise ValueError(f"estimate: `{name}` is {stored}, but the values per seed give {expected}.")
        return estimate


@dataclass(frozen=True)
class PaperValue:
    """A number of the paper, as printed, and how sure we are of it.

    `mark`: V read in official code or files, A in the abstract, D in a model card or a thread.
    """

    value: float
    text: str
    source: str
    mark: Mark

    def __post_init__(self) -> None:
        _check_choice("mark", self.mark, Mark)
        if not math.isfinite(self.value):
            raise ValueError(f"`value` (={self.value}) of a paper must be finite.")

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> PaperValue:
        """Read back what `dataclasses.asdict` wrote; unknown or missing keys are a ValueError."""
        _check_keys("paper_value", record, {f.name for f in dataclasses.fields(cls)})
        return cls(**{**record, "value": _number("value", record["value"])})


@dataclass(frozen=True, kw_only=True)
class ClaimResult:
    """One claim of a paper and what became of it here: the only schema of results.

    The verdict is checked against the values: one that was typed in is refused. Build with `compare`
    or `not_attempted`. `figures` are SVG files relative to the output folder, `seconds` wall time.
    `evidence` is None only where nothing was attempted.
    """

    paper: str
    claim: str
    primary_metric: str
    paper_value: PaperValue | None
    ours: Estimate | None
    control_name: str
    control: Estimate | None
    difference: Estimate | None
    minimum_effect: float | None
    verdict: Verdict
    evidence: Evidence | None
    data: str
    budget: Budget
    commit: str
    seconds: float
    figures: tuple[str, ...] = ()
    note: str = ""
    specification: str = ""

    def __post_init__(self) -> None:
        _check_choice("verdict", self.verdict, Verdict)
        _check_choice("budget", self.budget, Budget)
        if self.verdict != "not attempted" or self.evidence is not None:
            _check_choice("evidence", self.evidence, Evidence)
        if not (math.isfinite(self.seconds) and self.seconds >= 0):
            raise ValueError(f"`seconds` (={self.seconds}) must be a finite number of at least 0.")
        for figure in self.figures:
            _check_figure(figure)
        self._check_verdict()

    def _check_verdict(self) -> None:
        """A verdict on values needs the pair that gives it; without a pair nothing was judged."""
        if self.ours is None or self.control is None or self.minimum_effect is None:
            allowed = ("not attempted",) if self.ours is None else ("not judged",)
            if self.verdict not in allowed or self.difference is not None:
                raise ValueError(
                    f"verdict {self.verdict!r} of claim {self.claim!r} has no paired values behind it; "
                    f"use ClaimResult.compare, or the verdict {allowed[0]!r} without a difference."
                )
            return
        ours, control = self.ours.per_seed, self.control.per_seed
        expected = verdict(ours, control, self.minimum_effect, budget=self.budget)
        if self.verdict != expected:
            raise ValueError(f"verdict {self.verdict!r}: the values of {self.claim!r} give {expected!r}.")
        mean = Estimate.of(_paired_differences(ours, control)).mean
        if self.difference is None or not _is_close(self.difference.mean, mean):
            raise ValueError(f"`difference` of claim {self.claim!r} is not ours minus the control ({mean}).")

    @classmethod
    def compare(
        cls,
        *,
        ours: Sequence[float],
        control: Sequence[float],
        minimum_effect: float,
        budget: Budget,
        **rest: Any,
    ) -> ClaimResult:
        """Fill estimates, difference and verdict from values paired by seed.

        Args:
            ours: One value per seed, larger is better.
            control: The strongest control's values for the same seeds.
            minimum_effect: The difference said before the run to count.
            budget: The tier of the run.
            **rest: The other fields of the class; `commit` defaults to this checkout's.

        Raises:
            ValueError: Values that cannot be judged, see `verdict`.
        """
        if "commit" not in rest:
            rest["commit"] = git_commit()
        return cls(
            ours=Estimate.of(ours),
            control=Estimate.of(control),
            difference=Estimate.of(_paired_differences(ours, control)),
            minimum_effect=minimum_effect,
            verdict=verdict(ours, control, minimum_effect, budget=budget),
            budget=budget,
            **rest,
        )

    @classmethod
    def not_attempted(
        cls,
        *,
        paper: str,
        claim: str,
        primary_metric: str,
        paper_value: PaperValue | None,
        reason: str,
        **rest: Any,
    ) -> ClaimResult:
        """Record a claim that cannot be tried here, with the reason as its note.

        `**rest` may name `control_name`, `data`, `budget` ("full" unless told), `commit`,
        `minimum_effect`, `specification`.
        """
        if not reason.strip():
            raise ValueError(f"claim {claim!r} is not attempted: `reason` must say why.")
        fields: dict[str, Any] = dict(
            control_name="", data="", budget="full", evidence=None, seconds=0.0, minimum_effect=None
        )
        fields |= rest
        if "commit" not in rest:
            fields["commit"] = git_commit()
        return cls(
            paper=paper,
            claim=claim,
            primary_metric=primary_metric,
            paper_value=paper_value,
            note=reason,
            ours=None,
            control=None,
            difference=None,
            verdict="not attempted",
            **fields,
        )

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values; nan becomes None."""
        return plain_json(dataclasses.asdict(self))

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> ClaimResult:
        """Read a dictionary of `to_dict`.

        Raises:
            ValueError: Unknown or missing keys (named), or values that do not fit together.
        """
        _check_keys("claim", record, {f.name for f in dataclasses.fields(cls)})
        values: dict[str, Any] = dict(record)
        values["figures"] = tuple(record["figures"])
        values["seconds"] = _number("seconds", record["seconds"])
        for name in ("ours", "control", "difference"):
            values[name] = None if record[name] is None else Estimate.from_dict(record[name])
        if record["minimum_effect"] is not None:
            values["minimum_effect"] = _number("minimum_effect", record["minimum_effect"])
        if record["paper_value"] is not None:
            values["paper_value"] = PaperValue.from_dict(record["paper_value"])
        return cls(**values)


def write_claims(path: str | Path, claims: Sequence[ClaimResult]) -> None:
    """Write claims as one JSON list; the file is whole at every moment."""
    write_json(path, [claim.to_dict() for claim in claims])


def read_claims(path: str | Path) -> list[ClaimResult]:
    """Read the list of `write_claims`.

    Raises:
        FileNotFoundError: No such file.
        ValueError: Not JSON, or not a list of claims; the message names the file.
    """
    try:
        records = json.loads(Path(path).read_text(encoding="utf-8"))
        if not isinstance(records, list):
            raise ValueError(f"expected a list of claims, found {type(records).__name__}.")
        return [ClaimResult.from_dict(record) for record in records]
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def write_recorded(
    path: str | Path,
    claims: Sequence[ClaimResult],
    *,
    configuration: Mapping[str, Any],
    command: str,
    attempts: Sequence[Mapping[str, str]],
    environment: Mapping[str, Any] | None = None,
) -> None:
    """Write a package's recorded full run, `results/recorded.json`.

    Args:
        path: The file, inside the import package.
        claims: What the run gave.
        configuration: Whatever else would be needed to run it again.
        command: The line that was typed.
        attempts: Every attempt, failures included: `date`, `what`, `result`.
        environment: An `environment_report()` of the machine that ran it; this one's unless told.

    Raises:
        ValueError: Larger than 200 kB, or an attempt without its three keys.
    """
    machine = dict(environment_report() if environment is None else environment)
    record = {
        "schema": RECORDED_SCHEMA,
        "claims": [claim.to_dict() for claim in claims],
        "configuration": plain_json(dict(configuration)),
        "command": command,
        "commit": machine.pop("commit", "unknown"),
        "versions": machine.pop("versions", {}),
        "machine": machine,
        "attempts": [dict(attempt) for attempt in attempts],
    }
    _check_recorded(record)
    size = len(json.dumps(record, indent=2, ensure_ascii=False).encode())
    if size >= MAX_RECORDED_BYTES:
        raise ValueError(f"{path}: {size} bytes; a recorded run holds at most {MAX_RECORDED_BYTES}.")
    write_json(path, record)


def read_recorded(package: str) -> dict[str, Any] | None:
    """Return the recorded full run that is installed with a package, or None where there is none.

    Args:
        package: Import name; the file is its `results/recorded.json`.

    Returns:
        The file's content; `claims` stay dictionaries for `ClaimResult.from_dict`.

    Raises:
        ValueError: The file is damaged, of another schema, or larger than 200 kB.
    """
    file = resources.files(package).joinpath("results", "recorded.json")
    if not file.is_file():
        return None
    text = file.read_text(encoding="utf-8")
    try:
        if len(text.encode()) > MAX_RECORDED_BYTES:
            raise ValueError(f"larger than {MAX_RECORDED_BYTES} bytes.")
        record = json.loads(text)
        _check_recorded(record)
    except ValueError as error:
        raise ValueError(f"{package}/results/recorded.json: {error}") from error
    return record


def _check_recorded(record: Mapping[str, Any]) -> None:
    _check_keys("record", record, _RECORDED_KEYS)
    if record["schema"] != RECORDED_SCHEMA:
        raise ValueError(f"`schema` is {record['schema']!r}; this version reads {RECORDED_SCHEMA}.")
    for attempt in record["attempts"]:
        _check_keys("attempt", attempt, {"date", "what", "result"})
    for claim in record["claims"]:
        ClaimResult.from_dict(claim)


def _paired_differences(ours: Sequence[float], control: Sequence[float]) -> list[float]:
    if len(ours) != len(control):
        raise ValueError(f"{len(ours)} values of ours and {len(control)} of the control do not pair by seed.")
    for name, values in (("ours", ours), ("control", control)):
        if not all(math.isfinite(v) for v in values):
            raise ValueError(f"`{name}` holds a value that is not finite: {list(values)}.")
    return [float(a) - float(b) for a, b in zip(ours, control, strict=True)]


def _check_keys(what: str, record: Any, expected: set[str]) -> None:
    if not isinstance(record, Mapping):
        raise ValueError(f"{what}: expected an object, found {type(record).__name__}.")
    unknown, missing = sorted(set(record) - expected), sorted(expected - set(record))
    if unknown or missing:
        raise ValueError(f"{what}: unknown keys {unknown}, missing keys {missing}.")


def _check_choice(name: str, value: object, choices: Any) -> None:
    if value not in get_args(choices):
        raise ValueError(f"`{name}` (={value!r}) must be one of {', '.join(map(repr, get_args(choices)))}.")


def _check_figure(name: str) -> None:
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or path.suffix != ".svg":
        raise ValueError(f"figure {name!r} must be an .svg file inside the output folder.")


def _number(name: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"`{name}` must be a number, found {value!r}.")
    return float(value)


def _is_close(a: float, b: float) -> bool:
    return math.isclose(a, b, rel_tol=1e-9, abs_tol=1e-12)
