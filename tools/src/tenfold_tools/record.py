r"""Keep a full run as a package's recorded run.

    python -m tenfold_tools.record packages/mobileclip report/runs/mobileclip/KEY/claims.json "60 rounds"

writes `results/recorded.json` in the import package, with the attempts of the file before it, and fills the table
in the package's README. The run has to be of this commit, on this machine.

    python -m tenfold_tools.record packages/mobileclip claims.json "learning" --merge --command "..."

records a run of some claims only: they replace those of the same words, and all others stay as they were recorded.
A run on another machine brings its own report: `--environment FILE` names what

    python -c "import json; from tenfold_shared.environment import environment_report; \
        print(json.dumps(environment_report('torch', 'jax')))" > environment.json

wrote there. `configuration.runs` then says which claims came from which run, with its command, commit, versions and
machine.
"""

import datetime
import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro
from tenfold_shared.claims import ClaimResult, read_claims, write_recorded
from tenfold_shared.commands import InputError, run_command
from tenfold_shared.environment import environment_report
from tenfold_shared.files import atomic_write

from tenfold_tools import tables


@dataclass(frozen=True)
class RecordConfig:
    """Options of the command.

    Attributes:
        package: Folder of the package, such as packages/mobileclip.
        claims: The claims of a full run.
        what: What this attempt was, in a few words.
        command: The line that makes the claims.
        merge: Keep the recorded claims that this run did not make.
        environment: Report of the machine and commit that made the claims, where it is another one.
    """

    package: Path
    claims: Path
    what: str
    command: str = ""
    merge: bool = False
    environment: Path | None = None


def run(config: RecordConfig) -> int:
    """Write the recorded file and the README's table.

    Returns:
        0.

    Raises:
        InputError: The claims are not of a full run.
    """
    claims = read_claims(config.claims)
    if any(claim.budget != "full" for claim in claims):
        raise InputError(f"{config.claims} is not of a full run; record one of --budget full.")
    file = tables.recorded_file(config.package)
    before = json.loads(file.read_text()) if file.exists() else {"attempts": [], "claims": []}
    date = datetime.date.today().isoformat()
    attempt = {"date": date, "what": config.what, "result": summarise(claims)}
    name = config.package.name
    command = config.command or f"{name.replace('_', '-')} reproduce --budget full"
    environment = read_environment(config.environment)
    configuration: dict[str, Any] = {"budget": "full"}
    if config.merge and before["claims"]:
        this = {"command": command, "commit": environment["commit"], "versions": environment.get("versions", {})}
        this["machine"] = {key: value for key, value in environment.items() if key not in ("commit", "versions")}
        claims, configuration["runs"] = merge(before, claims, this)
    file.parent.mkdir(exist_ok=True)
    write_recorded(
        file,
        claims,
        configuration=configuration,
        command=command,
        attempts=[*before["attempts"], attempt],
        environment=environment,
    )
    readme = config.package / "README.md"
    with atomic_write(readme, "w") as text:
        text.write(tables.fill(readme.read_text(), file))
    print(f"{file}: {attempt['result']}")
    return 0


def read_environment(path: Path | None) -> dict[str, Any]:
    """Return the report in a file, or of this machine.

    Raises:
        InputError: The file holds no report.
    """
    if path is None:
        return environment_report("torch", "jax", "transformers", "timm", "open-clip-torch")
    try:
        report = json.loads(path.read_text("utf-8"))
        return {"commit": report["commit"], "versions": report["versions"], **report}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} is no report of `environment_report` ({error!r}).") from error


def merge(
    before: dict[str, Any], new: list[ClaimResult], run_facts: dict[str, Any]
) -> tuple[list[ClaimResult], list[dict[str, Any]]]:
    """Put new claims in the place of recorded ones of the same words, and say which run each claim is of.

    Args:
        before: Content of the recorded file.
        new: Claims of this run.
        run_facts: This run's command, commit, versions and machine.

    Returns:
        All claims, in the recorded order with what is new at the end; the runs that made them, the newest last.
    """
    found = {claim.claim: claim for claim in new}
    kept = [ClaimResult.from_dict(row) for row in before["claims"]]
    claims = [found.pop(claim.claim, claim) for claim in kept] + list(found.values())
    replaced = {claim.claim for claim in new}
    header = {key: before[key] for key in ("command", "commit", "versions", "machine")}
    runs = before["configuration"].get("runs") or [{**header, "claims": [claim.claim for claim in kept]}]
    runs = [{**run, "claims": [text for text in run["claims"] if text not in replaced]} for run in runs]
    return claims, [*(run for run in runs if run["claims"]), {**run_facts, "claims": [claim.claim for claim in new]}]


def summarise(claims: list[ClaimResult]) -> str:
    """Return how many claims got which verdict."""
    counts = Counter(claim.verdict for claim in claims)
    return ", ".join(f"{count} {verdict}" for verdict, count in sorted(counts.items()))


if __name__ == "__main__":
    run_command(lambda: run(tyro.cli(Annotated[RecordConfig, tyro.conf.PositionalRequiredArgs])))
