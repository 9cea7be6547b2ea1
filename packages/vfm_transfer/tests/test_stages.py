"""Teaching, matching, fine-tuning: what learns, what stays, what a step costs, what is kept."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from vfm_transfer import build_network, distill, finetune, teach
from vfm_transfer.config import NetworkConfig, Schedule, Transfer
from vfm_transfer.evaluate import evaluate
from vfm_transfer.images import IGNORED, ArrayImages, Labelled
from vfm_transfer.ledger import Ledger, count_flops
from vfm_transfer.stages import cross_entropy
from vfm_transfer.targets import CachedTargets, LiveTargets
from vfm_transfer.train import fit, make_batch, rate_at
from vfm_transfer.views import apply_views, draw_views, order_of, view_matrices

GENERATOR = np.random.default_rng(0)
PIXELS = GENERATOR.integers(0, 256, (24, 28, 28, 3), dtype=np.uint8)
LABELS = np.arange(24) % 3
PIXELS[LABELS == 1, :14] //= 4  # dark above
PIXELS[LABELS == 2, 14:] //= 4  # dark below
FEW = Labelled(ArrayImages(PIXELS), LABELS, ("a", "b", "c"))
QUICK = Schedule(steps=30, batch_size=12, lr=3e-3, views=0, min_area=0.9)


def network(classes=3, task="classify", seed=0):
    torch.manual_seed(seed)
    return build_network(NetworkConfig("convnet", classes, task))


def changed(before, after):
    return {name for name, value in after.items() if not torch.equal(value, before[name])}


def state(module):
    return {name: value.clone() for name, value in module.state_dict().items()}


def test_a_student_learns_a_few_images_by_heart():
    done = finetune(network(), FEW, replace(QUICK, steps=60))
    assert done.losses[-1] < 0.1 < done.losses[0]
    assert evaluate(done.network, FEW)["score"] == 1.0


def test_a_student_becomes_its_teacher_without_labels():
    teacher = finetune(network(seed=1), FEW, replace(QUICK, steps=60)).network
    schedule = replace(QUICK, steps=80, views=2)
    done = distill(network(seed=2), teacher, FEW.images, Transfer("task", schedule=schedule))
    assert done.losses[-1] < 0.2 * done.losses[0]
    assert evaluate(done.network, FEW)["score"] > 0.9
    assert changed(state(teacher), teacher.state_dict()) == set()


@pytest.mark.parametrize("objective", ["cosine", "mse", "contrastive", "patch", "logits"])
def test_features_are_matched_better_with_every_step(objective):
    teacher = network(classes=5, seed=1)
    student = network(classes=5 if objective == "logits" else 3, seed=2)
    done = distill(student, teacher, FEW.images, Transfer(objective, schedule=replace(QUICK, steps=40, views=1)))
    assert done.losses[-1] < done.losses[0]


def test_what_each_mode_of_teaching_moves():
    found = {}
    for mode in ("full", "lora", "linear"):
        teacher = network()
        before = state(teacher)
        teach(teacher, FEW, replace(QUICK, steps=2), mode=mode, rank=2)
        assert set(teacher.state_dict()) == set(before), "low-rank updates are folded in"
        found[mode] = changed(before, teacher.state_dict())
    assert found["linear"] == {"head.weight", "head.bias"}
    assert found["lora"] == {"backbone.dense.1.weight", "head.weight", "head.bias"}
    assert {"backbone.layers.0.weight", "head.weight"} < found["full"]
    assert not any("running" in name for name in found["full"]), "statistics stay"


def test_low_rank_updates_have_their_rank():
    teacher = network()
    before = teacher.backbone.dense[1].weight.detach().clone()
    teach(teacher, FEW, replace(QUICK, steps=5), mode="lora", rank=2)
    assert torch.linalg.matrix_rank(teacher.backbone.dense[1].weight - before, atol=1e-6) == 2


def test_heads_alone_and_heads_first():
    student = network()
    before = state(student)
    linear = finetune(student, FEW, replace(QUICK, steps=20, lr=3e-2), mode="linear")
    assert changed(before, student.state_dict()) == {"head.weight", "head.bias"}
    flops = count_flops(student)
    assert linear.ledger.flops["student_forward"] == 24 * flops["forward"]  # once an image
    assert linear.ledger.flops["head_backward"] == 2 * flops["head"] * 20 * 12
    both = finetune(network(), FEW, replace(QUICK, steps=20), mode="linear-then-full")
    assert both.ledger.flops["student_forward"] == (24 + 10 * 12) * flops["forward"]
    assert len(both.losses) == 20


def test_the_bill_by_hand():
    """Three convolutions and two products; a multiply-add counts as two."""
    macs = 14 * 14 * 16 * 27 + 7 * 7 * 32 * 144 + 7 * 7 * 64 * 288 + 16 * 64 * 128 + 128 * 3
    student = network()
    assert count_flops(student) == {"forward": 2 * macs, "backward": 4 * macs, "head": 2 * 128 * 3}
    teacher, schedule = network(seed=1), replace(QUICK, steps=5, views=2)
    done = distill(student, teacher, FEW.images, Transfer("task", schedule=schedule))
    assert done.ledger.flops == {  # 60 images in steps of 12 are two and a half passes over 24: both views were kept
        "teacher_forward": 2 * 24 * 2 * macs,
        "student_forward": 60 * 2 * macs,
        "student_backward": 60 * 4 * macs,
    }
    live = distill(network(), teacher, FEW.images, Transfer("task", cache=False, schedule=replace(schedule, views=0)))
    assert live.ledger.flops["teacher_forward"] == 60 * 2 * macs
    assert done.ledger.merge(live.ledger).total == done.ledger.total + live.ledger.total
    with pytest.raises(ValueError, match="unknown kind"):
        Ledger().add("coffee", 1.0, num_images=1)


def test_kept_outputs_are_the_live_ones_for_every_view(tmp_path):
    teacher, schedule = network(seed=1), replace(QUICK, views=3, view_seed=5)
    kept, live = CachedTargets(teacher, "logits", FEW.images, schedule, tmp_path), LiveTargets(teacher, "logits")
    for step in range(6):
        batch = make_batch(FEW.images, schedule, step, torch.device("cpu"))
        assert torch.allclose(kept.batch(batch), live.batch(batch), atol=2e-3)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["view-0.npy", "view-1.npy", "view-2.npy"]
    assert (kept.num_forward, kept.num_computed(), live.num_forward) == (72, 72, 72)
    again = CachedTargets(teacher, "logits", FEW.images, schedule, tmp_path)
    again.batch(make_batch(FEW.images, schedule, 0, torch.device("cpu")))
    assert again.num_forward == 0
    other = make_batch(FEW.images, replace(schedule, view_seed=6), 0, torch.device("cpu"))
    assert not torch.allclose(other.pixels, make_batch(FEW.images, schedule, 0, torch.device("cpu")).pixels)


def test_batches_follow_from_seed_and_step():
    one, two = (make_batch(FEW.images, QUICK, 7, torch.device("cpu")) for _ in range(2))
    assert torch.equal(one.pixels, two.pixels) and np.array_equal(one.ids, two.ids)
    ids, epochs = order_of(10, 3, 0, 30)
    assert [sorted(ids[epochs == e].tolist()) for e in range(3)] == [[*range(10)]] * 3
    assert ids[:10].tolist() != ids[10:20].tolist()
    assert np.array_equal(order_of(10, 3, 17, 5)[0], ids[17:22])


def test_views_by_hand():
    draws = np.array([[1.0, 0.5, 0.5, 0.0], [1.0, 0.5, 0.5, 0.9], [0.0, 0.0, 1.0, 0.9]], np.float32)
    theta = view_matrices(draws, 0.25)
    assert theta[0].tolist() == [[-1, 0, 0], [0, 1, 0]], "mirrored"
    assert theta[1].tolist() == [[1, 0, 0], [0, 1, 0]], "whole"
    assert theta[2].tolist() == [[0.5, 0, -0.5], [0, 0.5, 0.5]], "a quarter: left, below"
    pixels = torch.from_numpy(PIXELS[:3]).permute(0, 3, 1, 2)
    seen = apply_views(pixels, draws, 0.25)
    assert torch.allclose(seen[0], pixels[0].flip(-1) / 255, atol=1e-5)
    masks = torch.arange(28).expand(28, 28)[None]
    assert apply_views(masks, draws[2:], 0.25).unique().tolist() == [*range(14)]
    assert not np.array_equal(draw_views(4, 0, 0), draw_views(4, 0, 1))


def test_rates_rise_and_fall():
    schedule = Schedule(steps=100, warmup=0.1)
    rates = [rate_at(step, schedule) for step in range(100)]
    assert rates[0] == pytest.approx(1 / 11) and max(rates) == rates[10] == 1.0
    assert rates[55] == pytest.approx(0.5) and rates[-1] < 1e-3


def test_masks_that_count_for_nothing_do_not():
    logits = torch.tensor([[[[5.0, -5.0]], [[-5.0, 5.0]]]], requires_grad=True)
    right, half = torch.tensor([[[0, 1]]]), torch.tensor([[[0, IGNORED]]])
    assert cross_entropy(logits, right).item() == pytest.approx(cross_entropy(logits, half).item())
    assert cross_entropy(logits, torch.tensor([[[0, 0]]])) > 1


def test_scores_by_hand():
    class Fixed(torch.nn.Module):
        def __init__(self, task, answers):
            super().__init__()
            self.config, self.answers = NetworkConfig("convnet", 3, task), answers
            self.weight = torch.nn.Parameter(torch.zeros(1))

        def forward(self, pixels):
            return torch.nn.functional.one_hot(self.answers, 3).movedim(-1, 1).float()

        segment = forward

    images = ArrayImages(PIXELS[:4])
    found = evaluate(
        Fixed("classify", torch.tensor([0, 1, 1, 0])), Labelled(images, np.array([0, 1, 0, 0]), ("x", "y", "z"))
    )
    assert (found["score"], found["per_class"]) == (0.75, {"x": 2 / 3, "y": 1.0, "z": 0.0})
    masks = np.zeros((4, 28, 28), np.uint8)
    masks[:2] = 1
    masks[0, 0] = IGNORED
    answers = torch.ones(4, 28, 28, dtype=torch.long)
    found = evaluate(Fixed("segment", answers), Labelled(images, ArrayImages(masks, masks=True), ("x", "y", "z")))
    one = (2 * 784 - 28) / (4 * 784 - 28)
    assert found["per_class"] == pytest.approx({"x": 0.0, "y": one, "z": 0.0})
    assert found["score"] == pytest.approx(one / 2), "z occurs nowhere"


def test_a_loss_that_is_not_finite_stops_with_step_rate_and_images():
    model = torch.nn.Linear(1, 1)

    def loss_of(batch):
        return model.weight.sum() * (float("nan") if batch.ids[0] >= 0 else 1)

    with pytest.raises(ValueError, match=r"the loss is nan at step 0, rate .*, images \["):
        fit(model, FEW.images, loss_of, QUICK)


def test_stages_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="the teacher has 4 classes and the student 3"):
        distill(network(), network(4), FEW.images, Transfer())
    with pytest.raises(ValueError, match="24 images, under one batch of 64"):
        distill(network(), network(), FEW.images, Transfer())
    with pytest.raises(ValueError, match="the student has 4 classes, the labels have 3"):
        finetune(network(4), FEW, QUICK)
    with pytest.raises(ValueError, match="which cannot be cached"):
        Transfer(schedule=Schedule(views=0))
