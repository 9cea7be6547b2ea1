"""Split files in and out, and draws that follow from the seed."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from vfm_transfer.config import SPLITS, SplitPlan
from vfm_transfer.splits import make_splits, read_split, write_splits

ROWS = [(f"{c}_{n}.jpg", c) for c in ("Forest", "River") for n in range(1, 41)]
PLAN = SplitPlan({"train_2img_per_class": 2, "train_3img_per_class": 3})


def test_files_go_out_and_come_in(tmp_path):
    splits = make_splits(ROWS, PLAN, seed=0)
    write_splits(tmp_path, splits | {"unlabelled": [("ADE_train_00000001.jpg", "")]})
    assert (tmp_path / "train_full.txt").read_text().splitlines()[:2] == ["Forest_1.jpg,Forest", "Forest_2.jpg,Forest"]
    assert (tmp_path / "unlabelled.txt").read_text() == "ADE_train_00000001.jpg\n"
    for name, rows in splits.items():
        assert read_split(tmp_path / f"{name}.txt") == rows


def test_the_published_form_is_read(tmp_path):
    """Lines as the authors' files have them."""
    (tmp_path / "x.txt").write_text(
        "AnnualCrop_2200.jpg,AnnualCrop\nn04235860_14959.JPEG,n04235860\nADE_val_00000001.jpg\n"
    )
    assert read_split(tmp_path / "x.txt") == [
        ("AnnualCrop_2200.jpg", "AnnualCrop"),
        ("n04235860_14959.JPEG", "n04235860"),
        ("ADE_val_00000001.jpg", ""),
    ]


def test_another_seed_draws_other_images_and_the_same_one_the_same():
    one, two, three = (make_splits(ROWS, PLAN, seed)["train_3img_per_class"] for seed in (0, 0, 1))
    assert one == two != three
    shuffled = make_splits(ROWS[::-1], PLAN, 0)
    assert shuffled["train_3img_per_class"] == one, "the order of the list does not matter"


@settings(max_examples=30, deadline=None)
@given(
    st.dictionaries(st.sampled_from("abcdef"), st.integers(3, 60), min_size=2),
    st.integers(0, 99),
    st.sampled_from(sorted(SPLITS)),
)
def test_parts_are_disjoint_and_budgets_nested(counts, seed, name):
    rows = [(f"{label}{n}.jpg", label) for label, count in counts.items() for n in range(count)]
    plan = SPLITS[name]
    small = {"a": 1, "b": 2} if plan.kind != "percent" else {"a": 34, "b": 67}
    if name == "eurosat":
        plan = replace(plan, train=0.5)
    plan = replace(plan, budgets=small, val_images=min(plan.val_images, len(rows) - 3))
    splits = make_splits(rows, plan, seed)
    assert set(splits["a"]) <= set(splits["b"]) <= set(splits["train_full"])
    parts = [set(splits[part]) for part in ("train_full", "val", "test") if part in splits]
    assert sum(map(len, parts)) == len(set().union(*parts)) == len(rows)


def test_what_cannot_be_split(tmp_path):
    with pytest.raises(ValueError, match=r"class 'Forest' has 40 training images, fewer than the 41 of train_41"):
        make_splits(ROWS, SplitPlan({"train_41": 41}), 0)
    with pytest.raises(ValueError, match="1 file names are there twice"):
        make_splits([*ROWS, ROWS[0]], PLAN, 0)
    with pytest.raises(ValueError, match="leave none"):
        make_splits(ROWS, SPLITS["ade20k"], 0)
    with pytest.raises(ValueError, match=r"fewer than the budget of 9605"):
        make_splits([(f"{n}.jpg", "") for n in range(2000)], SPLITS["ade20k"], 0)
    (tmp_path / "a.txt").write_text("x.jpg,a\ny.jpg,a\nx.jpg,b\n")
    with pytest.raises(ValueError, match=r"x\.jpg is there twice"):
        read_split(tmp_path / "a.txt")
    (tmp_path / "b.txt").write_text("\n")
    with pytest.raises(ValueError, match="no lines"):
        read_split(tmp_path / "b.txt")
