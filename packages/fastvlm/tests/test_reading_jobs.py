"""The reading experiment's plan: which trainings there are, in which order, and what they cost."""

import dataclasses

import pytest
from fastvlm import reading, reading_jobs
from fastvlm.readers import ARMS, LANGUAGE_MODELS
from tenfold_shared.commands import InputError

NAME = next(iter(LANGUAGE_MODELS))


def test_jobs_come_after_their_needs_and_cover_the_plan():
    jobs = reading_jobs.make_jobs(reading_jobs.PLANS["full"])
    keys = [job.key for job in jobs]
    assert len(set(keys)) == len(keys)
    for place, job in enumerate(jobs):
        assert all(keys.index(need) < place for need in job.needs)
    cells = set(reading_jobs._cells(reading_jobs.PLANS["full"]))
    assert {("fastvithd", 1, size, 0) for size in (128, 192, 256, 384)} < cells
    judged = [("fastvithd", 1, 384), ("fastvithd", 1, 128), ("fastvithd", 2, 384), ("short vit", 1, 192)]
    judged += [("vit", 1, size) for size in (128, 192)]
    assert {(*cell, seed) for seed in range(3) for cell in judged} <= cells
    seen = {(arm.name, size) for name, tiles, size, _ in cells for arm in reading_jobs.arms_of(name, tiles, size)}
    every = {(arm.name, size) for arm in ARMS.values() for size in (128, 192, 256, 384)}
    assert seen == {pair for pair in every if reading_jobs.is_read(ARMS[pair[0]], pair[1])}
    assert {ARMS[name].num_tokens(size) for name, size in seen} == {4, 9, 16, 20, 36, 45, 64}


def test_rates_are_tuned_before_they_are_used():
    """Where an arm has its largest resolution, with the first seed."""
    needs = {job.key: set(job.needs) for job in reading_jobs.make_jobs(reading_jobs.PLANS["full"])}
    assert not {key for key in needs["readers vit, 1 tiles, 192 px, seed 0"] if key.startswith("readers")}
    assert "readers vit, 1 tiles, 384 px, seed 0" in needs["readers vit, 1 tiles, 256 px, seed 0"]
    for seed in (1, 2):
        for cell in ("fastvithd, 1 tiles, 384 px", "vit, 1 tiles, 192 px", "vit, 1 tiles, 128 px"):
            assert f"readers {cell}, seed 0" in needs[f"readers {cell}, seed {seed}"]


def test_a_vit_of_equal_operations_has_fewer_steps():
    ours, theirs = (reading_jobs.pretraining_operations(name) for name in ("fastvithd", "vit"))
    assert 2.5 < theirs / ours < 2.9 and reading_jobs.pretraining_operations("short vit") == theirs


def test_operations_grow_with_resolution_and_tokens():
    count = reading_jobs.count_operations
    assert count("FastViTHD", 384, NAME) > 1.5 * count("FastViTHD", 192, NAME)
    assert count("ViT + pooling", 256, NAME) > count("FastViTHD", 256, NAME)
    assert count("FastViTHD, 2 x 2 tiles", 256, NAME) > count("FastViTHD", 256, NAME)


def test_a_job_that_fails_can_be_tried_again(tmp_path, monkeypatch):
    def fail(lab):
        raise RuntimeError("out of memory")

    job = reading_jobs.Job("one", (), fail)
    monkeypatch.setattr(reading, "make_jobs", lambda plan: [job])
    monkeypatch.setattr(reading, "prepare_pages", lambda *arguments: None)
    with pytest.raises(RuntimeError, match="out of memory"):
        reading.run_jobs(tmp_path, "smoke", seconds=10.0)
    job = dataclasses.replace(job, run=lambda lab: {"done": True})
    (record,) = reading.run_jobs(tmp_path, "smoke", seconds=10.0)
    assert record["key"] == "one" and record["done"] and record["cpu_seconds"] >= 0
    with pytest.raises(InputError, match="another budget"):
        reading.run_jobs(tmp_path, "full", seconds=10.0)
