"""The contract: one row per package, and what each row is held to.

A new package joins by adding its row to `ROWS`. The checks are functions of the workspace's top, so that a
test can show on a copy that they fail when they should.
"""

import re
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import contract_jobs as jobs

ROOT = Path(__file__).resolve().parents[1]
HEAVY = ("torch", "jax", "transformers", "timm", "open_clip", "sklearn", "matplotlib")

# Modules with a fixed name may be left out, but these may not.
REQUIRED_MODULES = ("__init__", "__main__", "cli", "config", "reproduce", "benchmark")
VAGUE_MODULES = {"utils", "helpers", "common", "misc", "base"}
ALLOWED_IN_PACKAGE = {"pyproject.toml", "README.md", "CHANGELOG.md", "LICENSE", "src", "tests"}

README_SECTIONS = (
    "Install",
    "Use",
    "Command line",
    "Reproduce",
    "Benchmarks",
    "Scale",
    "Differences from the paper",
    "Moving from the authors' code",
    "Licences",
    "Citation",
)


@dataclass(frozen=True)
class Row:
    """What the contract needs to know of a package.

    Attributes:
        folder: Name of its folder in `packages/`, and its import name; its command has dashes for underscores.
        dist: Name of its distribution.
        verbs: Verbs of its command.
        round_trip: Saves something small into the folder it is given, loads it, and asserts equality.
        alone: Python that does the package's smallest real job, in an environment with nothing else of ours.
    """

    folder: str
    dist: str
    verbs: tuple[str, ...]
    round_trip: Callable[[Path], None]
    alone: str

    @property
    def module(self) -> str:
        """Name to import."""
        return self.folder.replace("-", "_")

    @property
    def command(self) -> str:
        """Name of its command."""
        return self.folder.replace("_", "-")

    def source(self, root: Path = ROOT) -> Path:
        """Folder of its import package."""
        return root / "packages" / self.folder / "src" / self.module


ROWS = (
    Row(
        folder="fastvlm",
        dist="fastvlm",
        verbs=(
            "predict",
            "chat",
            "train",
            "evaluate",
            "merge",
            "convert",
            "export",
            "presets",
            "profile",
            "benchmark",
            "reproduce",
        ),
        round_trip=jobs.fastvlm_round_trip,
        alone=jobs.FASTVLM_ALONE,
    ),
    Row(
        folder="dclm",
        dist="dclm",
        verbs=(
            "run",
            "extract",
            "filter",
            "dedup",
            "classify",
            "decontaminate",
            "stats",
            "tokenize",
            "manifest",
            "train",
            "evaluate",
            "convert",
            "scales",
            "plan",
            "pool",
            "aggregate",
            "leaderboard",
            "presets",
            "benchmark",
            "reproduce",
        ),
        round_trip=jobs.dclm_round_trip,
        alone=jobs.DCLM_ALONE,
    ),
    Row(
        folder="dataset_decomposition",
        dist="dataset-decomposition",
        verbs=(
            "tokenize",
            "decompose",
            "stats",
            "plan",
            "simulate",
            "verify",
            "export",
            "import",
            "train",
            "evaluate",
            "presets",
            "benchmark",
            "reproduce",
        ),
        round_trip=jobs.decomposition_round_trip,
        alone=jobs.DECOMPOSITION_ALONE,
    ),
    Row(
        folder="mobileclip",
        dist="mobileclip-torch",
        verbs=(
            "classify",
            "embed",
            "search",
            "reinforce",
            "validate",
            "join",
            "train",
            "evaluate",
            "export",
            "presets",
            "benchmark",
            "reproduce",
        ),
        round_trip=jobs.mobileclip_round_trip,
        alone=jobs.MOBILECLIP_ALONE,
    ),
    Row(
        folder="muscle",
        dist="muscle-torch",
        verbs=("compare", "adapt", "train", "run", "evaluate", "presets", "benchmark", "reproduce"),
        round_trip=jobs.muscle_round_trip,
        alone=jobs.MUSCLE_ALONE,
    ),
    Row(
        folder="nots",
        dist="nots-torch",
        verbs=(
            "pretrain",
            "adapt",
            "embed",
            "evaluate",
            "compare",
            "plot",
            "benchmark",
            "reproduce",
            "presets",
        ),
        round_trip=jobs.nots_round_trip,
        alone=jobs.NOTS_ALONE,
    ),
    Row(
        folder="physiomae",
        dist="physiomae",
        verbs=(
            "prepare",
            "simulate",
            "train",
            "probe",
            "analyze",
            "embed",
            "stage",
            "evaluate",
            "benchmark",
            "reproduce",
            "presets",
        ),
        round_trip=jobs.physiomae_round_trip,
        alone=jobs.PHYSIOMAE_ALONE,
    ),
    Row(
        folder="qualityclip",
        dist="qualityclip",
        verbs=(
            "score",
            "caption",
            "mix",
            "filter",
            "train",
            "dense",
            "curve",
            "evaluate",
            "presets",
            "benchmark",
            "reproduce",
        ),
        round_trip=jobs.qualityclip_round_trip,
        alone=jobs.QUALITYCLIP_ALONE,
    ),
    Row(
        folder="ticclip",
        dist="ticclip",
        verbs=(
            "build",
            "split",
            "stats",
            "plan",
            "run",
            "evaluate",
            "robustness",
            "compare",
            "presets",
            "benchmark",
            "reproduce",
        ),
        round_trip=jobs.ticclip_round_trip,
        alone=jobs.TICCLIP_ALONE,
    ),
    Row(
        folder="vfm_transfer",
        dist="vfm-transfer",
        verbs=(
            "run",
            "teach",
            "distill",
            "finetune",
            "curate",
            "embed",
            "splits",
            "evaluate",
            "compare",
            "presets",
            "benchmark",
            "reproduce",
        ),
        round_trip=jobs.vfm_transfer_round_trip,
        alone=jobs.VFM_TRANSFER_ALONE,
    ),
)


def row_problems(root: Path, rows: tuple[Row, ...] = ROWS) -> list[str]:
    """Return the folders in `packages/` without a row, and the rows without a folder."""
    folders = {path.name for path in (root / "packages").iterdir() if path.is_dir()}
    known = {row.folder for row in rows}
    problems = [f"packages/{name} has no row in tests/contract.py" for name in sorted(folders - known)]
    return problems + [f"the row {name} has no folder in packages/" for name in sorted(known - folders)]


def layout_problems(row: Row, root: Path = ROOT) -> list[str]:
    """Return what is not where a reader who knows another package looks for it."""
    folder, source = root / "packages" / row.folder, row.source(root)
    hidden = {"__pycache__"}
    extra = {path.name for path in folder.iterdir() if not path.name.startswith(".")} - ALLOWED_IN_PACKAGE - hidden
    problems = [f"{name} does not belong beside pyproject.toml" for name in sorted(extra)]
    problems += [f"no {name}" for name in sorted(ALLOWED_IN_PACKAGE) if not (folder / name).exists()]
    problems += [f"no module {name}" for name in REQUIRED_MODULES if not (source / f"{name}.py").exists()]
    problems += [f"no {name}" for name in ("py.typed",) if not (source / name).exists()]
    vague = VAGUE_MODULES & {path.stem for path in source.rglob("*.py")}
    problems += [f"the name {name}.py says nothing" for name in sorted(vague)]
    if len(list((folder / "src").glob("[!.]*"))) != 1:
        problems.append("more than one import package in src/")
    if not list((folder / "tests").glob("test_*.py")):
        problems.append("no tests")
    return problems


def project_problems(row: Row, root: Path = ROOT) -> list[str]:
    """Return what its pyproject says otherwise than the house style."""
    content = tomllib.loads((root / "packages" / row.folder / "pyproject.toml").read_text())
    project = content["project"]
    expected = {
        "name": (project["name"], row.dist),
        "scripts": (project.get("scripts"), {row.command: f"{row.module}.cli:main"}),
        "license": (project.get("license"), "MIT"),
        "requires-python": (project["requires-python"], ">=3.11"),
    }
    for kind in ("experiments", "benchmarks"):
        verb = {"experiments": "reproduce", "benchmarks": "benchmark"}[kind]
        entry = project.get("entry-points", {}).get(f"tenfold.{kind}")
        expected[f"tenfold.{kind}"] = (entry, {row.module: f"{row.module}.{verb}:{verb}"})
    problems = [f"{key} is {got}, expected {want}" for key, (got, want) in expected.items() if got != want]
    shared = [line for line in project["dependencies"] if line.startswith("tenfold-shared")]
    if not shared or not re.search(r">=[\d.]+,<[\d.]+$", shared[0]):
        problems.append("the bounds on tenfold-shared are written by hand: >=0.1,<0.2")
    return problems


def changelog_problems(folder: Path) -> list[str]:
    """Return what is wrong between a member's changelog and its version."""
    version = tomllib.loads((folder / "pyproject.toml").read_text())["project"]["version"]
    file = folder / "CHANGELOG.md"
    heading = re.search(r"^## (\S+)", file.read_text(), flags=re.MULTILINE) if file.exists() else None
    if heading is None:
        return ["CHANGELOG.md has no entry"]
    return [] if heading.group(1) == version else [f"the top entry is {heading.group(1)}, the version {version}"]


def readme_section_problems(text: str) -> list[str]:
    """Return which sections of a package's README are missing, unknown or out of order."""
    found = re.findall(r"^## (.+?)\s*$", without_code(text), flags=re.MULTILINE)
    problems = [f"no section `## {name}`" for name in README_SECTIONS if name not in found]
    problems += [f"section `## {name}` is none of a package's README" for name in found if name not in README_SECTIONS]
    known = [name for name in found if name in README_SECTIONS]
    if not problems and known != list(README_SECTIONS):
        problems.append(f"sections are in the order {known}")
    if "not affiliated with" not in " ".join(text.split("\n## ")[0].split()):
        problems.append("the introduction does not say `not affiliated with the authors`")
    return problems


def without_code(text: str) -> str:
    """Return Markdown without its fenced blocks."""
    return re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
