"""Composed scenes: truth that fits the pixels, captions that keep their promises."""

import hashlib
import itertools
from importlib import resources

import numpy as np
import pytest
from qualityclip.scene_captions import FILLER, TIERS, caption_scenes
from qualityclip.scenes import FAR, _icon, colour_of, compose, concepts, siblings
from qualityclip.world import World, WorldSize

NAMED = concepts("named", per_family=6)
HELD_OUT = concepts("held out", per_family=1)


@pytest.fixture(scope="module")
def scenes():
    return compose(NAMED, 120, size=48, seed=3)


def test_the_icons_are_those_that_the_script_makes():
    data = resources.files("qualityclip").joinpath("icons", "openmoji.parquet").read_bytes()
    assert hashlib.sha256(data).hexdigest() == "17ef24d36204aa78a701998df896bd3abafc695412f59d03a3ac98aea9107121"
    assert len(data) < 4_000_000


def test_roles_share_no_concept_and_families_are_whole():
    assert not set(concepts("named", per_family=8)) & set(concepts("held out", per_family=2))
    assert len(HELD_OUT) == 12 and len(NAMED) == 72
    assert set(siblings("tiger")) >= {"lion", "fox"} and "tiger" not in siblings("tiger")
    with pytest.raises(ValueError, match="has only"):
        concepts("named", per_family=40)


def test_labels_depth_and_boxes_fit_each_other(scenes):
    for row, things in enumerate(scenes.things):
        labels, depth = scenes.labels[row], scenes.depth[row]
        shown = {NAMED.index(thing.concept) + 1 for thing in things}
        assert set(np.unique(labels)) == shown | {0}
        assert (depth[labels == 0] == FAR).all()
        assert [thing.depth for thing in things] == sorted(thing.depth for thing in things)
        for thing in things:
            rows, columns = np.nonzero(labels == NAMED.index(thing.concept) + 1)
            assert thing.box == (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
            assert np.allclose(depth[rows, columns], thing.depth)


def test_a_mask_is_the_pictures_own_transparency():
    one = compose(("tiger",), 30, size=64, seed=0, objects=(1, 1))
    for row, (thing,) in enumerate(one.things):
        icon = _icon("tiger", round(thing.share * 64))[..., 3] > 0.5
        left, top, right, bottom = thing.box
        inside = one.labels[row, top:bottom, left:right] > 0
        tight = icon[icon.any(1)][:, icon.any(0)]
        assert (inside == tight).all() or (inside == tight[:, ::-1]).all()


def test_a_nearer_object_covers(scenes):
    covered = 0
    for row, things in enumerate(scenes.things):
        for near, far in itertools.pairwise(things):
            left, top = np.maximum(near.box[:2], far.box[:2])
            right, bottom = np.minimum(near.box[2:], far.box[2:])
            if right > left and bottom > top:
                covered += bool((scenes.labels[row, top:bottom, left:right] == NAMED.index(near.concept) + 1).any())
    assert covered > 20


def test_scenes_repeat_and_grow_without_changing(scenes):
    again = compose(NAMED, 10, size=48, seed=3)
    assert (again.images == scenes.images[:10]).all() and again.things == scenes.things[:10]
    assert (compose(NAMED, 10, size=48, seed=4).images != again.images).any()


@pytest.mark.parametrize("tier", TIERS)
def test_no_caption_names_a_held_out_concept(tier):
    world = World(WorldSize(num_pairs=150, num_retrieval=20))
    captions = world.captions(world.pairs, tier, 1)
    assert len(captions) == 150 and all(captions)
    said = " ".join(captions)
    assert not [name for name in HELD_OUT if name in said]
    assert world.tokens(captions).max() < len(world.vocabulary)


def test_a_leak_is_found():
    world = World(WorldSize(num_pairs=20))
    with pytest.raises(ValueError, match="held-out"):
        world.captions(compose(HELD_OUT, 20, size=48, seed=0), "nouns", 0)


def words(text):
    return text.replace(",", "").split()


def test_matched_captions_are_as_long_as_complete_ones(scenes):
    noisy, matched, nouns = (
        caption_scenes(scenes, tier, seed=0, names=NAMED) for tier in ("noisy", "matched", "nouns")
    )
    assert [len(words(text)) for text in matched] == [len(words(text)) for text in nouns]
    for short, long in zip(noisy, matched, strict=True):
        kept = [word for word in words(long) if word in NAMED]
        assert kept == [word for word in words(short) if word in NAMED], "the same draws"
    share = sum(words(text).count(FILLER) for text in matched) / sum(len(things) for things in scenes.things)
    assert share == pytest.approx(0.5, abs=0.08)


def test_complete_captions_say_all_and_shuffled_ones_the_same_elsewhere(scenes):
    nouns, shuffled = (caption_scenes(scenes, tier, seed=0, names=NAMED) for tier in ("nouns", "shuffled"))
    for text, things in zip(nouns, scenes.things, strict=True):
        assert sorted(word for word in words(text) if word != "and") == sorted(thing.concept for thing in things)
    assert sorted(nouns) == sorted(shuffled)
    assert sum(a == b for a, b in zip(nouns, shuffled, strict=True)) < 5


def test_wrong_nouns_are_as_frequent_as_said(scenes):
    noisy = caption_scenes(scenes, "noisy", seed=0, names=NAMED)
    said = [
        (word, {t.concept for t in things})
        for text, things in zip(noisy, scenes.things, strict=True)
        for word in words(text)
        if word in NAMED
    ]
    assert sum(word not in shown for word, shown in said) / len(said) == pytest.approx(0.3, abs=0.09)


def test_relations_are_true(scenes):
    for text, things in zip(caption_scenes(scenes, "relations", seed=0, names=NAMED), scenes.things, strict=True):
        if len(things) < 2:
            continue
        clause = words(text.split(", ")[-1])
        by_name = {thing.concept: thing for thing in things}
        first, second = by_name[clause[0]], by_name[clause[-1]]
        assert ("behind" in clause) == (first.depth > second.depth)
        if "left" in clause:
            assert first.box[0] + first.box[2] < second.box[0] + second.box[2]
        if "above" in clause:
            assert first.box[1] + first.box[3] < second.box[1] + second.box[3]


def test_colours_are_those_of_the_pictures():
    assert colour_of("flamingo") == "pink" and colour_of("broccoli") == "green" and colour_of("elephant") == "grey"
