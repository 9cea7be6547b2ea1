"""Numbers of the paper's files that need no training."""

import numpy as np
import pytest
from vfm_transfer.config import SPLITS
from vfm_transfer.curation import curate_report, images_per_query
from vfm_transfer.splits import make_splits

# README of the authors' split files: queries of ADE20K and images retrieved from YFCC15M.
PUBLISHED = {1200: 152_400, 2401: 151_263, 4802: 148_862, 9605: 144_075, 19_210: 134_470}
EUROSAT = {"AnnualCrop": 3000, "Forest": 3000, "HerbaceousVegetation": 3000, "Highway": 2500, "Industrial": 2500,
           "Pasture": 2000, "PermanentCrop": 2500, "Residential": 3000, "River": 2500, "SeaLake": 3000}  # fmt: skip
HAM10K = {"AKIEC": 327, "BCC": 514, "BKL": 1099, "DF": 115, "MEL": 1113, "NV": 6705, "VASC": 142}


def test_published_counts_follow_from_a_constant_total():
    assert [images_per_query(q) for q in PUBLISHED] == [127, 63, 31, 15, 7]
    for queries, retrieved in PUBLISHED.items():
        assert queries * images_per_query(queries) == retrieved
        assert 153_600 <= queries + retrieved <= 153_680 == 8 * 19_210


@pytest.mark.parametrize("queries", [12, 24, 48, 96])
def test_a_hundredth_of_the_published_sets_has_each_query_equally_often(queries):
    generator, total = np.random.default_rng(queries), 1536
    each = images_per_query(queries, total)
    pile = generator.normal(size=(3 * total, 16)).astype(np.float32)
    found = curate_report(generator.normal(size=(queries, 16)), pile, queries * each)
    assert set(found.per_query.tolist()) == {each}
    assert len(np.unique(found.indices)) == queries * each


def rows_of(counts):
    return [(f"{name}_{n}.jpg", name) for name, count in counts.items() for n in range(1, count + 1)]


def test_eurosat_is_cut_as_the_papers_files_are():
    splits = make_splits(rows_of(EUROSAT), SPLITS["eurosat"], seed=0)
    sizes = {name: len(rows) for name, rows in splits.items()}
    assert sizes == {"test": 18_900, "train_full": 2_700, "val": 5_400, "train_5img_per_class": 50,
                     "train_10img_per_class": 100, "train_25img_per_class": 250}  # fmt: skip
    for name, first, last in (("test", 1, 2100), ("train_full", 2101, 2400), ("val", 2401, 3000)):
        numbers = [int(file[:-4].split("_")[1]) for file, label in splits[name] if label == "AnnualCrop"]
        assert (min(numbers), max(numbers), len(numbers)) == (first, last, last - first + 1)
    assert set(splits["train_5img_per_class"]) < set(splits["train_10img_per_class"]) < set(splits["train_full"])


def test_ham10k_takes_at_most_so_many_of_a_class():
    splits = make_splits(rows_of(HAM10K), SPLITS["ham10k"], seed=0)
    sizes = [len(splits[f"train_{n}img_max_per_class"]) for n in (100, 250, 500, 1000)]
    assert (sizes, len(splits["train_full"])) == ([700, 1507, 2584, 4098], 10_015)


def test_ade20k_keeps_a_thousand_images_for_validation_and_halves_the_rest():
    rows = [(f"ADE_train_{n:08}.jpg", "") for n in range(1, 20_211)]
    splits = make_splits(rows, SPLITS["ade20k"], seed=0, test=[(f"ADE_val_{n:08}.jpg", "") for n in range(1, 2001)])
    assert len(splits["train_full"]) == 19_210 and len(splits["test"]) == 2000
    assert [name for name, _ in splits["val"]][:1] == ["ADE_train_00019211.jpg"] and len(splits["val"]) == 1000
    sizes = [1200, 2401, 4802, 9605]
    assert (
        [len(splits[f"train_{n}img"]) for n in sizes] == sizes == [19_210 >> 4, 19_210 >> 3, 19_210 >> 2, 19_210 >> 1]
    )
    assert splits["train_2401img"][:1200] == splits["train_1200img"]


def test_places365_and_imagenet():
    rows = [(f"{c}/{n}.jpg", f"c{c}") for c in range(365) for n in range(60)]
    plan = SPLITS["places365"]
    val = [(f"v{n}.jpg", f"c{n % 365}") for n in range(36_500)]
    from dataclasses import replace

    splits = make_splits(rows, replace(plan, budgets={"train_50img_per_class": 50}), seed=0, val=val)
    assert (len(splits["val"]), len(splits["test"]), len(splits["train_50img_per_class"])) == (3650, 32_850, 18_250)
    assert not set(splits["val"]) & set(splits["test"])
    rows = [(f"{c}_{n}.JPEG", f"n{c:03}") for c in range(20) for n in range(1300)]
    sizes = {name: len(found) for name, found in make_splits(rows, SPLITS["imagenet"], seed=0).items()}
    assert sizes == {"train_full": 26_000, "train_1percent": 260, "train_10percent": 2600, "train_25percent": 6500,
                     "train_50percent": 13_000}  # fmt: skip
