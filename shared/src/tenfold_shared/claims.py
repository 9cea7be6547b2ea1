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
    "MAX_RECORDED_BYTES", "Budget", "ClaimResult", "Estimate", "Evidence", "Mark", "PaperValue", "Verdict",
    "paired_interval", "prediction_interval", "read_claims", "read_recorded", "t_quantile", "verdict",
    "write_claims", "write_recorded",
]  # fmt: skip

Verdict = Literal["shown", "direction only", "contradicted", "not shown", "not attempted", "not judged"]
Evidence = Literal["real", "composed", "synthetic", "authors' records", "arithmetic"]
Budget = Literal["smoke", "laptop", "full"]
Mark = Literal["V", "A", "D"]

MIN_PAIRS_SHOWN = 5  # fewer paired seeds never make more than "direction only"
MAX_RECORDED_BYTES = 200_000
RECORDED_SCHEMA = 1


def verdict(
    ours: Sequence[float],
    control: Sequence[float],
    minimum_effect: float,
    *,
    budget: Budget = "full",
    evidence: Evidence | None = "real",
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
        evidence: With "arithmetic" values were counted, not sampled: their mean decides, even of one pair.

    Returns:
        The verdict.

    Raises:
        ValueError: Lengths differ, a value is not finite, or the minimum effect is negative.

    """
    _check_choice("budget", budget, Budget)
    if not (math.isfinite(minimum_effect) and minimum_effect >= 0):
        raise ValueError(f"`minimum_effect` (={minimum_effect}) must be a finite number of at least 0.")
    differences = _paired_differences(ours, control)
    mean, low, high = paired_interval(differences)
    if budget == "smoke":
        return "not judged"
    if exact := evidence == "arithmetic":
        low = high = mean
    elif len(differences) == 1:
        return "direction only" if mean > 0 else "not shown"
    if high < 0:
        return "contradicted"
    if low > minimum_effect and (exact or len(differences) >= MIN_PAIRS_SHOWN):
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
        """Estimate from one finite value per seed; anything else is a ValueError.

        Example:
            >>> Estimate.of([1.0, 2.0, 3.0]).mean
            2.0
        """
        per_seed = tuple(float(v) for v in values)
        return cls(per_seed, *paired_interval(per_seed))

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values; nan becomes None."""
        return plain_json(dataclasses.asdict(self))

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> Estimate:
        """Read a dictionary of `to_dict`, refusing a mean or interval that its values do not give."""
        _check_keys("estimate", record, _names(cls))
        estimate = cls.of([_number("per_seed", v) for v in record["per_seed"]])
        if estimate.to_dict() != dict(record):
            raise ValueError(f"estimate {dict(record)}: its values give {estimate.to_dict()}.")
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
        if not math.isfinite(_number("value", self.value)):
            raise ValueError(f"`value` (={self.value}) of a paper must be finite.")


@dataclass(frozen=True, kw_only=True)
class ClaimResult:
    """One claim of a paper and what became of it here: the only schema of results.

    Build it with `compare` or `not_attempted`; a verdict that the values do not give is refused.
    `figures` are SVG files relative to the output folder, `seconds` is wall time. `evidence` is None
    only where nothing was attempted.
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
        if not (math.isfinite(_number("seconds", self.seconds)) and self.seconds >= 0):
            raise ValueError(f"`seconds` (={self.seconds}) must be a finite number of at least 0.")
        for figure in self.figures:
            path = PurePosixPath(figure)
            if path.is_absolute() or ".." in path.parts or path.suffix != ".svg":
                raise ValueError(f"figure {figure!r} must be an .svg file inside the output folder.")
        self._check_verdict()

    def _check_verdict(self) -> None:
        """Values and control give difference and verdict; without the pair nothing was judged."""
        expected, difference = "not attempted" if self.ours is None else "not judged", None
        if self.ours and self.control and self.minimum_effect is not None:
            ours, control = self.ours.per_seed, self.control.per_seed
            expected = verdict(ours, control, self.minimum_effect, budget=self.budget, evidence=self.evidence)
            difference = Estimate.of(_paired_differences(ours, control)).to_dict()
        if self.verdict != expected:
            raise ValueError(f"verdict {self.verdict!r} of {self.claim!r}: its values give {expected!r}.")
        if (self.difference.to_dict() if self.difference else None) != difference:
            raise ValueError(f"`difference` of {self.claim!r} is not ours minus the control: {difference}.")

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
        """Fill estimates, difference and verdict from values paired by seed, see `verdict`.

        `**rest` are the other fields; `commit` defaults to that of this checkout.
        """
        rest["commit"] = rest.get("commit") or git_commit()
        return cls(
            ours=Estimate.of(ours),
            control=Estimate.of(control),
            difference=Estimate.of(_paired_differences(ours, control)),
            minimum_effect=minimum_effect,
            verdict=verdict(ours, control, minimum_effect, budget=budget, evidence=rest.get("evidence", "real")),
            budget=budget,
            **rest,
        )

    @classmethod
    def not_attempted(cls, *, paper_value: PaperValue | None, reason: str, **rest: Any) -> ClaimResult:
        """Record a claim that cannot be tried here, with the reason as its note.

        `**rest` are `paper`, `claim`, `primary_metric` and whatever else is known of the plan.
        """
        if not reason.strip():
            raise ValueError("`reason` must say why the claim is not attempted.")
        fields: dict[str, Any] = dict(control_name="", data="", budget="full", seconds=0.0)
        fields |= dict.fromkeys(("ours", "control", "difference", "minimum_effect", "evidence"))
        fields |= {**rest, "commit": rest.get("commit") or git_commit()}
        return cls(paper_value=paper_value, note=reason, verdict="not attempted", **fields)

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values; nan becomes None."""
        return plain_json(dataclasses.asdict(self))

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> ClaimResult:
        """Read a dictionary of `to_dict`.

        Raises:
            ValueError: Unknown or missing keys (named), or values that do not fit together.
        """
        _check_keys("claim", record, _names(cls))
        fields: dict[str, Any] = {**record, "figures": tuple(record["figures"])}
        for name in ("ours", "control", "difference"):
            fields[name] = None if record[name] is None else Estimate.from_dict(record[name])
        if record["minimum_effect"] is not None:
            fields["minimum_effect"] = _number("minimum_effect", record["minimum_effect"])
        if record["paper_value"] is not None:
            _check_keys("paper_value", record["paper_value"], _names(PaperValue))
            fields["paper_value"] = PaperValue(**record["paper_value"])
        return cls(**fields)


def write_claims(path: str | Path, claims: Sequence[ClaimResult]) -> None:
    """Write claims as one JSON list; the file is whole at every moment."""
    write_json(path, [claim.to_dict() for claim in claims])


def read_claims(path: str | Path) -> list[ClaimResult]:
    """Read the list of `write_claims`; a ValueError names the file and what is wrong with it."""
    try:
        records = json.loads(Path(path).read_text(encoding="utf-8"))
        if not isinstance(records, list):
            raise ValueError(f"expected a list of claims, found {type(records).__name__}.")
        return [ClaimResult.from_dict(record) for record in records]
    except (ValueError, TypeError) as error:
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
    """Write a package's recorded full run, `results/recorded.json`, at most 200 kB.

    Args:
        path: The file, inside the import package.
        claims: What the run gave.
        configuration: Whatever else would be needed to run it again.
        command: The line that was typed.
        attempts: Every attempt, failures included: `date`, `what`, `result`.
        environment: `environment_report()` of the machine that ran it; this one's unless told.
    """
    machine = dict(environment_report() if environment is None else environment)
    record = {
        "schema": RECORDED_SCHEMA,
        "claims": [claim.to_dict() for claim in claims],
        "configuration": plain_json(configuration),
        "command": command,
        "commit": machine.pop("commit", "unknown"),
        "versions": machine.pop("versions", {}),
        "machine": machine,
        "attempts": [dict(attempt) for attempt in attempts],
    }
    _parse_recorded(str(path), json.dumps(record, indent=2, ensure_ascii=False))
    write_json(path, record)


def read_recorded(package: str) -> dict[str, Any] | None:
    """Return the recorded full run that is installed with a package, or None where there is none.

    Args:
        package: Import name; the file is its `results/recorded.json`.

    Returns:
        The file's content, checked; `claims` stay dictionaries for `ClaimResult.from_dict`.

    Raises:
        ValueError: The file is damaged, of another schema, or larger than 200 kB.
    """
    file = resources.files(package).joinpath("results", "recorded.json")
    if not file.is_file():
        return None
    return _parse_recorded(f"{package}/results/recorded.json", file.read_text("utf-8"))


def _parse_recorded(name: str, text: str) -> dict[str, Any]:
    try:
        if (size := len(text.encode())) > MAX_RECORDED_BYTES:
            raise ValueError(f"{size} bytes; a recorded run holds at most {MAX_RECORDED_BYTES}.")
        record = json.loads(text)
        keys = "schema claims configuration command commit machine versions attempts"
        _check_keys("record", record, set(keys.split()))
        if record["schema"] != RECORDED_SCHEMA:
            raise ValueError(f"`schema` is {record['schema']!r}; this version reads {RECORDED_SCHEMA}.")
        for attempt in record["attempts"]:
            _check_keys("attempt", attempt, {"date", "what", "result"})
        for claim in record["claims"]:
            ClaimResult.from_dict(claim)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{name}: {error}") from error
    return record


def _paired_differences(ours: Sequence[float], control: Sequence[float]) -> list[float]:
    if len(ours) != len(control):
        raise ValueError(f"{len(ours)} values of ours and {len(control)} of the control do not pair by seed.")
    for name, values in (("ours", ours), ("control", control)):
        if not all(math.isfinite(v) for v in values):
            raise ValueError(f"`{name}` holds a value that is not finite: {list(values)}.")
    return [float(a) - float(b) for a, b in zip(ours, control, strict=True)]


def _names(cls: Any) -> set[str]:
    return {field.name for field in dataclasses.fields(cls)}


def _check_keys(what: str, record: Any, expected: set[str]) -> None:
    if not isinstance(record, Mapping):
        raise ValueError(f"{what}: expected an object, found {type(record).__name__}.")
    unknown, missing = sorted(set(record) - expected), sorted(expected - set(record))
    if unknown or missing:
        raise ValueError(f"{what}: unknown keys {unknown}, missing keys {missing}.")


def _check_choice(name: str, value: object, choices: Any) -> None:
    if value not in get_args(choices):
        raise ValueError(f"`{name}` (={value!r}) must be one of {', '.join(map(repr, get_args(choices)))}.")


def _number(name: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"`{name}` must be a number, found {value!r}.")
    return float(value)
