"""What the contract's rows do: a round trip through files, and a package's smallest real job where it stands alone."""

from pathlib import Path


def mobileclip_round_trip(folder: Path) -> None:
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


MOBILECLIP_ALONE = """
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


def fastvlm_round_trip(folder: Path) -> None:
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


FASTVLM_ALONE = """
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


def dclm_round_trip(folder: Path) -> None:
    import dclm

    documents = [dclm.Document("a text\nof two lines", {"id": str(number)}) for number in range(3)]
    for suffix in ("jsonl.gz", "jsonl.zst", "parquet"):
        path = str(folder / f"x.{suffix}")
        assert dclm.write_documents(path, documents) == 3
        assert [page.to_record() for page in dclm.read_documents(path)] == [page.to_record() for page in documents]


DCLM_ALONE = """
import subprocess, sys
from pathlib import Path
import dclm

made = dclm.run(dclm.sample_pool()[:1], dclm.PRESETS["dclm_baseline"], out="corpus")
assert made["num_documents"] > 20
command = [str(Path(sys.executable).with_name("dclm")), "stats", "corpus"]
assert "02-bloom" in subprocess.run(command, check=True, capture_output=True, text=True).stdout
"""


def decomposition_round_trip(folder: Path) -> None:
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


DECOMPOSITION_ALONE = """
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


def ticclip_round_trip(folder: Path) -> None:
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


TICCLIP_ALONE = """
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


def nots_round_trip(folder: Path) -> None:
    """Save and load a model and a fitted estimator."""
    import nots
    import numpy as np
    import torch
    from nots.checkpoint import save_pretrained
    from nots.config import PRESETS

    torch.manual_seed(0)
    model = nots.NoTS(PRESETS["tiny"]).eval()
    save_pretrained(model, folder / "model")
    loaded = nots.from_pretrained(folder / "model")
    assert loaded.config == model.config
    state = loaded.state_dict()
    assert all(torch.equal(state[name], value) for name, value in model.state_dict().items())
    x, y = np.random.default_rng(0).normal(size=(6, 2, 32)), np.arange(6) % 2
    fitted = nots.NoTSClassifier(model, adapt_steps=2, random_state=0).fit(x, y)
    fitted.save_pretrained(folder / "classifier")
    again = nots.NoTSClassifier.from_pretrained(folder / "classifier")
    assert np.array_equal(again.predict_proba(x), fitted.predict_proba(x))


NOTS_ALONE = """
import subprocess, sys
from pathlib import Path
import nots, torch

command = str(Path(sys.executable).with_name("nots"))
line = [command, "pretrain", "synthetic", "--preset", "tiny", "--num-series", "40", "--steps", "3", "--out", "model"]
subprocess.run([*line, "--quiet"], check=True)
model = nots.from_pretrained("model")
assert model.embed(torch.randn(3, 1, 32)).shape == (3, 16)
assert nots.degrade(torch.ones(1, 1, 8), "box", 4).eq(1).all()
assert nots.group_causal_mask(2, 3).sum() == 27
try:
    nots.NoTSClassifier
except ImportError as error:
    assert "pip install 'nots-torch[aeon]'" in str(error)
"""


def physiomae_round_trip(folder: Path) -> None:
    """Save and load a model and a recording."""
    import numpy as np
    import physiomae
    import torch
    from physiomae.readers import write_npz
    from physiomae.recordings import Recording, Signal

    torch.manual_seed(0)
    model = physiomae.PhysioMAE(physiomae.PRESETS["tiny"]).eval()
    physiomae.save_pretrained(model, folder)
    loaded = physiomae.from_pretrained(folder)
    assert loaded.config == model.config
    state = loaded.state_dict()
    assert all(torch.equal(state[name], value) for name, value in model.state_dict().items())
    samples = np.array([1.0, np.nan, 3.0], dtype=np.float32)
    write_npz(folder / "night.npz", Recording("one", (Signal("ECG", "mV", 100.0, samples),)))
    again = physiomae.read_recording(folder / "night.npz")
    assert again.subject == "one"
    assert np.array_equal(again.signals[0].samples, samples, equal_nan=True)


PHYSIOMAE_ALONE = """
import subprocess, sys
from pathlib import Path
import numpy as np
import physiomae

command = str(Path(sys.executable).with_name("physiomae"))
subprocess.run([command, "simulate", "recordings", "--subjects", "6", "--windows", "12", "--quiet"], check=True)
line = [command, "prepare", "files", "recordings", "windows", "--preset", "simulator", "--quiet", "--json"]
assert '"windows_written": 72' in subprocess.run(line, check=True, capture_output=True, text=True).stdout
windows = np.random.default_rng(0).normal(size=(20, 2, 64)).astype(np.float32)
encoder = physiomae.PhysioEncoder("tiny", num_steps=3).fit(windows)
windows[:, 1] = np.nan
assert np.isfinite(encoder.transform(windows)).all()
"""


def vfm_transfer_round_trip(folder: Path) -> None:
    import numpy as np
    import torch
    import vfm_transfer
    from vfm_transfer.config import NetworkConfig
    from vfm_transfer.embeddings import open_embeddings, save_embeddings

    torch.manual_seed(0)
    network = vfm_transfer.build_network(NetworkConfig("convnet", 3, image_size=28)).eval()
    from vfm_transfer.checkpoint import save_pretrained

    save_pretrained(network, folder / "network")
    loaded = vfm_transfer.from_pretrained(folder / "network")
    assert loaded.config == network.config
    state = loaded.state_dict()
    assert all(torch.equal(state[name], value) for name, value in network.state_dict().items())
    save_embeddings(folder / "x.npy", np.eye(2, dtype=np.float32), fingerprint="f", names=["a", "b"], labels=["0", "1"])
    again = open_embeddings(folder / "x.npy")
    assert (again.fingerprint, again.names, again.labels) == ("f", ("a", "b"), ("0", "1"))


VFM_TRANSFER_ALONE = """
import subprocess, sys
from pathlib import Path
import numpy as np, vfm_transfer
from PIL import Image

assert len(set(vfm_transfer.curate(np.eye(4, 8), np.random.default_rng(0).normal(size=(100, 8)), 40).tolist())) == 40
for name in ("few/dark", "few/light", "pile"):
    Path(name).mkdir(parents=True)
    for number in range(8):
        shade = (number % 2) * 200 if name == "pile" else 200 * (name == "few/light")
        Image.new("RGB", (28, 28), (shade, shade, 10 * number)).save(f"{name}/{number}.png")
command = [str(Path(sys.executable).with_name("vfm-transfer")), "run", "--labels", "few", "--transfer", "pile"]
command += ["--test", "few", "--preset", "tiny", "--device", "cpu", "--out", "run", "--json", "--quiet"]
result = subprocess.run(command, check=True, capture_output=True, text=True)
assert '"metric": "accuracy"' in result.stdout
"""


def qualityclip_round_trip(folder: Path) -> None:
    """Save and load a model in the three layouts."""
    from dataclasses import replace

    import qualityclip
    import torch
    from qualityclip.config import TextConfig, VisionConfig
    from qualityclip.model import CLIP

    config = replace(
        qualityclip.PRESETS["tiny"], vision=VisionConfig(16, 8, 64, 1, 1), text=TextConfig(8, 50, 64, 1, 1)
    )
    torch.manual_seed(0)
    model = CLIP(config).eval()
    for layout in ("qualityclip", "open_clip", "hugging_face"):
        qualityclip.save_pretrained(model, folder / layout, layout=layout)
        loaded = qualityclip.from_pretrained(folder / layout)
        assert loaded.config == config
        state = loaded.state_dict()
        assert all(torch.equal(state[name], value) for name, value in model.state_dict().items())


QUALITYCLIP_ALONE = """
import json, subprocess, sys
from pathlib import Path
import qualityclip

assert abs(qualityclip.mean_iou([0, 0, 1, 1], [0, 1, 1, 1], 2) - 7 / 12) < 1e-12
assert qualityclip.mix(["a dog"], [], uid="1", step=2) == "a dog"
command = str(Path(sys.executable).with_name("qualityclip"))
subprocess.run([command, "mix", "scenes:nouns:8", "--out", "mixed.parquet", "--quiet"], check=True)
line = [command, "train", "mixed.parquet", "--batch-size", "8", "--num-steps", "2", "--out", "run", "--device", "cpu"]
subprocess.run([*line, "--quiet"], check=True)
result = subprocess.run(
    [command, "evaluate", "run/model", "--data", "scenes:nouns:8", "--json"], check=True, capture_output=True, text=True
)
assert 0 <= json.loads(result.stdout)["text_to_image@1"] <= 1
"""
