"""The contract: one row per package, and what each row is held to.

A new package joins by adding its row to `ROWS`. The checks are functions of the workspace's top, so that a
test can show on a copy that they fail when they should.
"""

import re
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from contract_muscle import MUSCLE

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


def _mobileclip_round_trip(folder: Path) -> None:
    import mobileclip
    import torch
    from mobileclip.config import MCiConfig, TextConfig

    config = mobileclip.MobileCLIPConfig(
        image=MCiConfig(depths=(1, 1, 1, 1), dims=(32, 32, 32, 32), image_size=64),
        text=TextConfig(num_layers=1, dim=32, num_heads=2),
        embed_dim=16,
    )
    torch.manual_seed(0)
    model = mobileclip.MobileCLIP(config).eval()
    mobileclip.save_pretrained(model, folder)
    loaded = mobileclip.from_pretrained(folder)
    assert loaded.config == config
    expected, state = model.state_dict(), loaded.state_dict()
    assert list(state) == list(expected)
    assert all(torch.equal(state[key], expected[key]) for key in expected)


_MOBILECLIP_ALONE = """
import subprocess, sys
from pathlib import Path
import mobileclip
from PIL import Image

Image.new("RGB", (40, 30), (200, 30, 30)).save("red.png")
model, _, preprocess = mobileclip.create_model_and_transforms("mobileclip_s0")
pixels = preprocess(mobileclip.load_image("red.png")).unsqueeze(0)
assert model.encode_image(pixels).shape == (1, 512)
assert model.encode_text(mobileclip.get_tokenizer("mobileclip_s0")(["a red square"])).shape == (1, 512)
mobileclip.save_pretrained(model, "weights")
command = [str(Path(sys.executable).with_name("mobileclip")), "classify", "red.png", "--labels", "a red square,a cat"]
result = subprocess.run([*command, "--pretrained", "weights"], check=True, capture_output=True, text=True)
assert "a red square" in result.stdout
"""


def _fastvlm_round_trip(folder: Path) -> None:
    from dataclasses import replace

    import fastvlm
    import torch

    language = replace(fastvlm.PRESETS["fastvlm_0.5b"].language, num_layers=1, vocab_size=64)
    encoder = fastvlm.EncoderConfig((1, 1, 1, 1, 1), (32, 32, 32, 32, 32), image_size=128)
    torch.manual_seed(0)
    model = fastvlm.FastVLM.from_config(fastvlm.FastVLMConfig(language, encoder))
    model.save_pretrained(folder)
    loaded = fastvlm.FastVLM.from_pretrained(folder)
    assert loaded.encoder.config == replace(encoder, embed_dim=768)
    expected, state = model.state_dict(), loaded.state_dict()
    assert list(state) == list(expected)
    assert all(torch.equal(state[key], expected[key]) for key in expected)


_FASTVLM_ALONE = """
import subprocess, sys
from dataclasses import replace
from pathlib import Path
import fastvlm, torch
from PIL import Image

Image.new("RGB", (40, 30), (200, 30, 30)).save("red.png")
language = replace(fastvlm.PRESETS["fastvlm_0.5b"].language, num_layers=1, vocab_size=64)
encoder = fastvlm.EncoderConfig((1, 1, 1, 1, 1), (32, 32, 32, 32, 32), image_size=128)
model = fastvlm.FastVLM.from_config(fastvlm.FastVLMConfig(language, encoder)).optimize()
pixels = fastvlm.FastVLMProcessor(None, 128).pixels(fastvlm.load_image("red.png"))
assert model.generate(torch.tensor([[5, -200, 7]]), pixels, max_new_tokens=3).shape == (1, 3)
command = [str(Path(sys.executable).with_name("fastvlm")), "presets"]
assert "fastvlm_7b" in subprocess.run(command, check=True, capture_output=True, text=True).stdout
"""


def _dclm_round_trip(folder: Path) -> None:
    import dclm

    documents = [dclm.Document("a text\nof two lines", {"id": str(number)}) for number in range(3)]
    for suffix in ("jsonl.gz", "jsonl.zst", "parquet"):
        path = str(folder / f"x.{suffix}")
        assert dclm.write_documents(path, documents) == 3
        assert [page.to_record() for page in dclm.read_documents(path)] == [page.to_record() for page in documents]


_DCLM_ALONE = """
import subprocess, sys
from pathlib import Path
import dclm

made = dclm.run(dclm.sample_pool()[:1], dclm.PRESETS["dclm_baseline"], out="corpus")
assert made["num_documents"] > 20
command = [str(Path(sys.executable).with_name("dclm")), "stats", "corpus"]
assert "02-bloom" in subprocess.run(command, check=True, capture_output=True, text=True).stdout
"""


def _decomposition_round_trip(folder: Path) -> None:
    import numpy as np
    import torch
    from dataset_decomposition.checkpoint import from_pretrained, save_pretrained
    from dataset_decomposition.config import PRESETS
    from dataset_decomposition.model import Decoder
    from dataset_decomposition.store import TokenStore, write_store

    torch.manual_seed(0)
    model = Decoder(PRESETS["tiny"].model)
    save_pretrained(model, folder / "model")
    loaded = from_pretrained(folder / "model")
    assert loaded.config == model.config
    state = loaded.state_dict()
    assert all(torch.equal(state[key], value) for key, value in model.state_dict().items())
    write_store(folder / "store", [np.arange(300)], vocab_size=300).decompose(min_length=64, max_length=256)
    store = TokenStore(folder / "store")
    assert store.tokens.tolist() == list(range(300))
    assert store.num_rows == {64: 0, 128: 0, 256: 1}


_DECOMPOSITION_ALONE = """
import subprocess, sys
from pathlib import Path
import dataset_decomposition as dd

Path("corpus.jsonl").write_text('{"text": "%s"}\\n' % ("some words " * 500))
store = dd.tokenize(["corpus.jsonl"], "store").decompose(min_length=64, max_length=256)
loader = dd.BucketLoader(store, tokens_per_step=256, cycles=1)
assert {batch["input_ids"].size for batch in loader} == {256}
command = [str(Path(sys.executable).with_name("dataset-decomposition")), "verify", "store", "--json"]
result = subprocess.run(command, check=True, capture_output=True, text=True)
assert '"documents": 1' in result.stdout
"""


def _ticclip_round_trip(folder: Path) -> None:
    import jax
    import numpy as np
    import ticclip
    from flax import nnx
    from ticclip.model import CLIP

    model = CLIP(ticclip.PRESETS["icons"], rngs=nnx.Rngs(0))
    ticclip.save_pretrained(model, folder)
    loaded = ticclip.from_pretrained(folder)
    assert loaded.config == model.config
    pairs = zip(jax.tree.leaves(nnx.state(model)), jax.tree.leaves(nnx.state(loaded)), strict=True)
    assert all((np.asarray(ours) == np.asarray(again)).all() for ours, again in pairs)


_TICCLIP_ALONE = """
import subprocess, sys
from pathlib import Path
import ticclip

assert ticclip.replay_plan("exp", [8, 8, 8], 8)[2] == {1: 4, 2: 4}
command = str(Path(sys.executable).with_name("ticclip"))
subprocess.run([command, "build", "--demo", "openmoji", "--out", "index", "--quiet"], check=True)
index = ticclip.TimeIndex("index")
config = ticclip.StreamConfig(ticclip.PRESETS["icons"], method="cumulative-exp", samples_per_step=8192)
assert len(ticclip.plan_stream(config, index.sizes(), index.steps)) == len(index.steps)
assert ticclip.transfer_scores([[1.0]])["in_domain"] == 1.0
"""

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
        round_trip=_fastvlm_round_trip,
        alone=_FASTVLM_ALONE,
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
        round_trip=_dclm_round_trip,
        alone=_DCLM_ALONE,
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
        round_trip=_decomposition_round_trip,
        alone=_DECOMPOSITION_ALONE,
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
        round_trip=_mobileclip_round_trip,
        alone=_MOBILECLIP_ALONE,
    ),
    Row(**MUSCLE),
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
        round_trip=_ticclip_round_trip,
        alone=_TICCLIP_ALONE,
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
