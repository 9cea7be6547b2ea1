"""What the contract's row of muscle does: a round trip, and its smallest real job alone."""

from pathlib import Path
from typing import Any


def muscle_round_trip(folder: Path) -> None:
    """Save and load an adapter and answers."""
    import json

    import torch
    from muscle import flips
    from muscle.config import LoraSettings
    from muscle.models import add_adapter, load_adapter, save_adapter
    from muscle.records import read_answers
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=40, hidden_size=16, intermediate_size=24, num_hidden_layers=1, num_attention_heads=2
    )
    base = LlamaForCausalLM(config)
    state = {name: value.clone() for name, value in base.state_dict().items()}
    model = add_adapter(base, LoraSettings(rank=2, alpha=4.0), seed=0)
    with torch.no_grad():
        for name, value in model.named_parameters():
            if "lora_B" in name:
                value.normal_()
    save_adapter(model, folder / "adapter")
    again = LlamaForCausalLM(config)
    again.load_state_dict(state)
    loaded = load_adapter(again, folder / "adapter").state_dict()
    assert all(torch.equal(loaded[name], value) for name, value in model.state_dict().items())
    rows = [{"id": str(i), "prediction": i % 3, "gold": i % 2} for i in range(6)]
    (folder / "answers.jsonl").write_text("\n".join(map(json.dumps, rows)))
    answers = read_answers(folder / "answers.jsonl")
    assert answers.ids == [row["id"] for row in rows]
    assert flips(answers.predictions, answers.predictions, answers.gold).churn == 0


MUSCLE_ALONE = """
import json, subprocess, sys
from pathlib import Path
from typing import Any
import muscle

for name, last in (("old", "b"), ("new", "c")):
    rows = [{"id": i, "prediction": p, "gold": "ab"[i]} for i, p in enumerate(("a", last))]
    Path(f"{name}.jsonl").write_text("\\n".join(map(json.dumps, rows)))
assert muscle.flips([0, 1], [0, 2], [0, 1]).nfr == 0.5
command = [str(Path(sys.executable).with_name("muscle")), "compare", "old.jsonl", "new.jsonl", "--budget", "nfr=2%"]
result = subprocess.run(command, capture_output=True, text=True)
assert result.returncode == 1 and "over the budget" in result.stdout
"""

MUSCLE: dict[str, Any] = {
    "folder": "muscle",
    "dist": "muscle-torch",
    "verbs": ("compare", "adapt", "train", "run", "evaluate", "presets", "benchmark", "reproduce"),
    "round_trip": muscle_round_trip,
    "alone": MUSCLE_ALONE,
}
