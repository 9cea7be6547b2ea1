"""The loader: constant tokens, one length per step, the same rows for any ranks, workers and resumption."""

import json
import pickle

import numpy as np
import pytest
import torch
from dataset_decomposition import BucketDataset, BucketLoader
from dataset_decomposition.config import CURRICULA
from dataset_decomposition.curriculum import draw_cycle
from scipy import stats
from tenfold_shared.commands import InputError

# More workers than this machine has cores are meant.
pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create")


def load(store, **options):
    return BucketLoader(store, **{"tokens_per_step": 1024, "cycles": 2, "seed": 3, **options})


def content(batches):
    return [(int(b["step"]), b["bucket"], np.asarray(b["input_ids"]).tolist()) for b in batches]


@pytest.mark.parametrize("curriculum", CURRICULA)
def test_every_step_has_one_length_and_all_its_tokens(store, curriculum):
    loader = load(store, curriculum=curriculum)
    shapes = [batch["input_ids"].shape for batch in loader]
    assert len(shapes) == len(loader) and {rows * length for rows, length in shapes} == {1024}
    assert [length for _, length in shapes] == loader.step_lengths().tolist()
    assert shapes[0][1] == 256, "the longest first: a memory that is too small shows at once"


def test_rows_come_once_an_epoch_and_are_reported_exactly(store):
    loader, counts = load(store, epochs=2), {}
    for number, _ in enumerate(loader):
        _, length, rows = loader.locate(number)
        for row in rows.tolist():
            counts[length, row] = counts.get((length, row), 0) + 1
        if number % 7 == 0 or number == len(loader) - 1:
            for line in loader.report():
                times = [counts.get((line["length"], row), 0) for row in range(line["rows"])]
                assert (line["seen"], line["never"]) == (sum(times), times.count(0))
                assert (line["times_least"], line["times_most"]) == (min(times), max(times))
                assert line["tokens"] == sum(times) * line["length"]
    assert max(counts.values()) == 2
    assert all(line["never"] < 1024 // line["length"] for line in loader.report()), "less than a step is left"


def test_cycles_divide_every_bucket(store):
    loader = load(store, cycles=2, longest_first=False, curriculum="grow-p100")
    lengths = loader.step_lengths()
    half = int((loader.batches // 2).sum())
    for length, batches in zip(loader.lengths, loader.batches, strict=True):
        assert (lengths[:half] == length).sum() == batches // 2
    assert lengths[: half // 4].mean() < lengths[half - half // 4 : half].mean()


@pytest.mark.parametrize("world_size", [2, 4])
def test_ranks_together_read_what_one_process_reads(store, world_size):
    whole = content(load(store))
    ranks = [content(load(store, rank=rank, world_size=world_size)) for rank in range(world_size)]
    for step, parts in enumerate(zip(*ranks, strict=True)):
        assert {part[1] for part in parts} == {whole[step][1]}, "one length on all ranks"
        assert [row for part in parts for row in part[2]] == whole[step][2]


@pytest.mark.parametrize("workers", [1, 2, 8])
def test_batches_are_the_same_for_any_number_of_workers(store, workers):
    loader = load(store)
    assert content(BucketDataset(loader).batches(num_workers=workers)) == content(load(store))
    assert loader.step == len(loader)


def test_a_loader_is_sent_to_spawned_workers_without_its_data(store):
    """DataLoader starts workers so on macOS, and on Linux from Python 3.14."""
    loader = load(store)
    whole = content(loader)
    sent = pickle.dumps(load(store))
    assert len(sent) < 10_000
    assert content(pickle.loads(sent)) == whole


def test_resume_at_any_step_goes_on_exactly(store):
    whole = content(load(store))
    loader = load(store)
    for step in range(len(loader)):
        state = json.loads(json.dumps(loader.state_dict()))
        resumed = load(store)
        resumed.load_state_dict(state)
        assert content([next(resumed)]) == whole[step : step + 1]
        next(loader)
    with pytest.raises(StopIteration):
        next(loader)


@pytest.mark.parametrize("workers", [0, 2])
def test_resume_with_workers_and_another_world_size(store, workers):
    whole = content(load(store))
    loader = load(store)
    stream = BucketDataset(loader).batches(num_workers=workers)
    for _ in range(5):
        next(stream)
    state = loader.state_dict()
    assert state["step"] == 5
    parts = []
    for rank in range(2):
        resumed = load(store, rank=rank, world_size=2)
        resumed.load_state_dict(state)
        parts.append(content(BucketDataset(resumed).batches(num_workers=workers)))
    joined = [(a[0], a[1], a[2] + b[2]) for a, b in zip(*parts, strict=True)]
    assert joined == whole[5:]


@pytest.mark.parametrize("workers", [0, 3])
def test_micro_batches_of_a_step_have_one_length(store, workers):
    loader = load(store)
    parts = content(BucketDataset(loader, micro_batches=2).batches(num_workers=workers))
    joined = [(a[0], a[1], a[2] + b[2]) for a, b in zip(parts[::2], parts[1::2], strict=True)]
    assert joined == content(load(store))


def test_a_step_is_served_when_its_last_micro_batch_is(store):
    loader = load(store)
    stream = BucketDataset(loader, micro_batches=2).batches()
    steps = [(next(stream), loader.state_dict()["step"])[1] for _ in range(6)]
    assert steps == [0, 1, 1, 2, 2, 3]


def test_a_state_of_another_run_is_refused(store):
    state = load(store).state_dict()
    with pytest.raises(ValueError, match="`seed` was 3 when the state was saved and is 4 now"):
        load(store, seed=4).load_state_dict(state)
    other = store.decompose(min_length=32, max_length=256, seed=9)
    with pytest.raises(ValueError, match="`store` was"):
        load(other).load_state_dict(state)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"tokens_per_step": 1000}, r"must be a multiple of the longest row times `world_size` \(=256\); use 1024"),
        ({"rank": 2, "world_size": 2}, "`rank` .* from 0 to 1"),
        ({"curriculum": "grow"}, "unknown curriculum 'grow'"),
        ({"cycles": 0}, "`cycles` .* at least 1"),
    ],
)
def test_options_out_of_range_are_named(store, options, sentence):
    with pytest.raises(ValueError, match=sentence):
        load(store, **options)


def test_a_bucket_smaller_than_a_step_is_refused(store):
    with pytest.raises(InputError, match=r"bucket 32 has \d+ rows, a step of 1048576 tokens needs 32768"):
        load(store, tokens_per_step=2**20)


def one_at_a_time(counts, odds, generator):
    weights, left, order = odds * counts, counts.copy(), []
    while left.any():
        share = np.where(left > 0, weights, 0)
        order.append(generator.choice(len(counts), p=share / share.sum()))
        left[order[-1]] -= 1
    return order


def test_bulk_draws_are_distributed_as_one_at_a_time():
    """Whole orders of a small cycle, compared by frequency."""
    counts, odds = np.array([2, 2, 1]), np.array([4.0, 2.0, 1.0])
    generator = np.random.default_rng(0)
    tables = [{}, {}]
    for _ in range(4000):
        for table, order in zip(
            tables, (draw_cycle(counts, "grow-p2", generator), one_at_a_time(counts, odds, generator)), strict=True
        ):
            key = tuple(int(i) for i in order)
            table[key] = table.get(key, 0) + 1
    keys = sorted(set(tables[0]) | set(tables[1]))
    both = np.array([[table.get(key, 0) for key in keys] for table in tables])
    common = both.sum(axis=0) >= 20
    assert len(keys) == 30
    assert stats.chi2_contingency(both[:, common]).pvalue > 1e-3


def test_tensors_are_what_the_numpy_iterator_gives(store):
    store.decompose(min_length=32, max_length=256, tail="pack")
    loader = load(store)
    batch = next(iter(BucketDataset(loader)))
    assert isinstance(batch["input_ids"], torch.Tensor) and batch["input_ids"].dtype == torch.int64
    packed = next(b for b in BucketDataset(loader) if b["bucket"] == 32)
    assert set(packed) == {"input_ids", "labels", "segments", "bucket", "step"}
