"""The trainers people have: transformers' Trainer on a tiny Llama, and Accelerate."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from dataset_decomposition import BucketDataset, BucketLoader, bucket_trainer
from dataset_decomposition.trainers import model_inputs

# transformers and accelerate warn about their own dependencies and about machines without a GPU.
pytestmark = pytest.mark.filterwarnings("default")


def llama():
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=32_000,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        rope_parameters={"rope_type": "default", "rope_theta": 100_000.0},
    )
    return LlamaForCausalLM(config)


def load(store, **options):
    return BucketLoader(store, tokens_per_step=1024, cycles=1, seed=0, **options)


def arguments(folder, **options):
    from transformers import TrainingArguments

    settings = {"report_to": [], "save_strategy": "no", "disable_tqdm": True, "use_cpu": True, "logging_steps": 1}
    return TrainingArguments(str(folder), **settings | {"learning_rate": 1e-2, **options})


def test_labels_are_shifted_once(store):
    model = llama()
    inputs = model_inputs(next(iter(BucketDataset(load(store)))))
    logits = model(inputs["input_ids"]).logits
    expected = F.cross_entropy(logits.flatten(0, 1), inputs["labels"].flatten())
    assert model(**inputs).loss.item() == pytest.approx(expected.item(), rel=1e-5)
    twice = model(input_ids=inputs["input_ids"], labels=inputs["labels"]).loss.item()
    assert twice != pytest.approx(expected.item(), rel=1e-4), "without shift_labels they would be shifted again"


def test_the_trainer_takes_the_loaders_steps(store, tmp_path):
    loader = load(store)
    trainer = bucket_trainer(llama(), loader, arguments(tmp_path, max_steps=12, gradient_accumulation_steps=2))
    seen = []
    original = trainer.compute_loss

    def recording(model, inputs, *rest, **options):
        seen.append(tuple(inputs["input_ids"].shape))
        return original(model, inputs, *rest, **options)

    trainer.compute_loss = recording
    trainer.train()
    expected = [(1024 // n // 2, int(n)) for n in load(store).step_lengths()[:12] for _ in range(2)]
    assert seen == expected
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert len(losses) == 12 and losses[0] == pytest.approx(np.log(32_000), rel=0.05)
    assert np.mean(losses[-3:]) < losses[0]


@pytest.mark.slow
def test_the_trainer_resumes_where_it_was(store, tmp_path):
    def run(name, stop, resume=None):
        options = {"max_steps": stop, "save_strategy": "steps", "save_steps": 3, "lr_scheduler_type": "constant"}
        trainer = bucket_trainer(llama(), load(store), arguments(tmp_path / name, **options))
        trainer.train(resume_from_checkpoint=resume)
        return trainer.model.state_dict()

    whole = run("whole", 6)
    run("parts", 3)
    parts = run("parts", 6, str(tmp_path / "parts" / "checkpoint-3"))
    assert all(torch.allclose(whole[key], parts[key], atol=1e-6) for key in whole)
    assert not torch.allclose(whole["lm_head.weight"], run("short", 5)["lm_head.weight"], atol=1e-6)


def test_ranks_of_loader_and_trainer_have_to_agree(store, tmp_path):
    with pytest.raises(ValueError, match="the loader is rank 0 of 2, the trainer 0 of 1"):
        bucket_trainer(llama(), load(store, world_size=2), arguments(tmp_path))


def test_the_trainer_takes_the_loaders_steps_unless_told(store, tmp_path):
    assert bucket_trainer(llama(), load(store), arguments(tmp_path)).args.max_steps == len(load(store)) > 1
    assert bucket_trainer(llama(), load(store), arguments(tmp_path, max_steps=1)).args.max_steps == 1


def test_packed_tails_are_refused_where_there_is_no_mask(store):
    store.decompose(min_length=32, max_length=256, tail="pack")
    batch = next(b for b in BucketDataset(load(store)) if b["bucket"] == 32)
    with pytest.raises(ValueError, match='tail="drop" or "pad"'):
        model_inputs(batch)
    batch["segments"] = torch.zeros_like(batch["segments"])
    assert set(model_inputs(batch)) == {"input_ids", "labels", "shift_labels"}


def test_accelerate_needs_no_code_of_ours(store):
    from accelerate import Accelerator

    accelerator = Accelerator(cpu=True)
    model = llama()
    model, optimizer = accelerator.prepare(model, torch.optim.AdamW(model.parameters(), lr=1e-2))
    loader = load(store, rank=accelerator.process_index, world_size=accelerator.num_processes)
    losses = []
    for batch in BucketDataset(loader).batches():
        loss = model(**model_inputs(batch)).loss
        accelerator.backward(loss)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
        if loader.step == 10:
            break
    assert np.mean(losses[-3:]) < losses[0]
