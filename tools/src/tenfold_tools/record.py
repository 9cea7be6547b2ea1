"""Keep a full run as a package's recorded run.

    python -m tenfold_tools.record packages/mobileclip report/runs/mobileclip/KEY/claims.json "60 rounds"

writes `results/recorded.json` in the import package, with the attempts of the file before it, and fills the table
in the package's README. The run has to be of this commit, on this machine.
"""

import datetime
import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

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
    """

    package: Path
    claims: Path
    what: str
    command: str = ""


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
    before = json.loads(file.read_text())["attempts"] if file.exists() else []
    attempt = {"date": datetime.date.today().isoformat(), "what": config.what, "result": summarise(claims)}
    name = config.package.name
    file.parent.mkdir(exist_ok=True)
    write_recorded(
        file,
        claims,
        configuration={"budget": "full"},
        command=config.command or f"{name.replace('_', '-')} reproduce --budget full",
        attempts=[*before, attempt],
        environment=environment_report("torch", "jax", "transformers", "timm", "open-clip-torch"),
    )
    readme = config.package / "README.md"
    with atomic_write(readme, "w") as text:
        text.write(tables.fill(readme.read_text(), file))
    print(f"{file}: {attempt['result']}")
    return 0


def summarise(claims: list[ClaimResult]) -> str:
    """Return how many claims got which verdict."""
    counts = Counter(claim.verdict for claim in claims)
    return ", ".join(f"{count} {verdict}" for verdict, count in sorted(counts.items()))


if __name__ == "__main__":
    run_command(lambda: run(tyro.cli(Annotated[RecordConfig, tyro.conf.PositionalRequiredArgs])))
