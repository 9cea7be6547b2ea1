"""The filtering experiment on the pool inside this package: minutes on two cores, no download, too small for a verdict.

The sites of the pool take the parts of the big experiment's sources: the positives (A) are the English pages of
debian-handbook, the evaluation texts are postgresql-doc (B) and sqlite3-doc (C); all other sites are the pool. A model
keeps a quarter, since a tenth would be a few pages. All else is as in `filtering_experiment`, without a power check.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from tenfold_shared.claims import Budget, ClaimResult

from dclm.chain import sample_tasks
from dclm.config import Bloom, Decontaminate, Recipe, RefinedWeb
from dclm.data import read_documents, write_documents
from dclm.document import Document
from dclm.extract import extract
from dclm.filtering_arms import QUIET, Sizes, Texts, prepare_arms
from dclm.filtering_claims import filtering_claims
from dclm.filtering_data import save_prepared
from dclm.filtering_experiment import EXPERIMENT, Experiment, run_experiment
from dclm.pipeline import run
from dclm.sample import sample_pool
from dclm.scales import ModelConfig

__all__ = ["SHIPPED", "shipped_claims"]

A, B, C = "debian-handbook", "postgresql-doc-15", "sqlite3-doc"
ENGLISH = "/en-US/"
SIZES = Sizes(
    vocab=2048, context=129, share=0.25, max_tokens=200_000, evaluation_tokens=30_000, task_items=60, epochs=25
)
SHIPPED = Experiment(
    replace(
        EXPERIMENT.config,
        model=ModelConfig(64, 2, 2, vocab_size=2048, context_length=128, hidden_multiple=64),
        batch_size=4,
    ),
    arms=("classifier", "random", "shuffled"),
    rates=(4e-3, 8e-3),
    power_rate=None,
)
WHERE = ", on the pool inside the package"
SEEDS: dict[Budget, tuple[int, ...]] = {"smoke": (0,), "laptop": (0, 1), "full": (0, 1, 2, 3, 4)}


def shipped_claims(out: Path, *, budget: Budget, seconds: float) -> list[ClaimResult]:
    """Prepare, train and compare.

    Args:
        out: Folder for what is prepared.
        budget: How many seeds; smoke trains too few for a row and only shows that it runs.
        seconds: Wall time after which no run is started.
    """
    prepared = prepare_arms(shipped_texts(out), sample_tasks(), SIZES)
    save_prepared(prepared, out)
    experiment = replace(SHIPPED, seeds=SEEDS[budget])
    if budget != "full":
        experiment = replace(experiment, arms=experiment.arms[:2])
    if budget == "smoke":
        experiment = replace(experiment, rates=experiment.rates[:1], max_tokens=20_000, evaluation_share=0.1)
    found = run_experiment(out, out, experiment=experiment, seconds=seconds, workers=0)
    budget_tokens = found["facts"]["budget_tokens"]
    data = f"the sample pool: {found['facts']['arms']['raw']['documents']} pages, {budget_tokens:,} tokens an arm"
    return filtering_claims(found, budget=budget, data=data, where=WHERE)


def shipped_texts(work: Path) -> Texts:
    """Extract the pages and run the stages."""
    sites: dict[str, list[Document]] = {}
    for path in sample_pool():
        for document, reason in extract(read_documents(path)):
            if reason is None:
                sites.setdefault(document.url.split("/")[2].split(".docs")[0], []).append(document)
    positives = [document.text for document in sites.pop(A) if ENGLISH in document.url]
    sides = {name: [document.text for document in sites.pop(site)] for name, site in (("b", B), ("c", C))}
    for name, texts in sides.items():
        lines = (json.dumps({"text": text}) + "\n" for text in texts)
        (work / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8")
    write_documents(str(work / "pool.jsonl"), [page for pages in sites.values() for page in pages])
    clean = Recipe((Decontaminate((str(work / "b.jsonl"), str(work / "c.jsonl")), 13, False),))
    stages: list[list[str]] = []
    paths = [str(work / "pool.jsonl")]
    for name, recipe in (("raw", clean), ("rw", Recipe((RefinedWeb(),))), ("dd", Recipe((Bloom(),)))):
        paths = run(paths, recipe, out=work / name, options=QUIET)["documents"]
        stages.append([document.text for path in paths for document in read_documents(path)])
    return Texts(*stages, a=positives, **sides)
