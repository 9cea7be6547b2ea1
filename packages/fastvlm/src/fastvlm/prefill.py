"""The language model's share of the time to first token: one pass over image and text tokens, nothing in a cache.

A 7B model in float32 needs 28 GB. Here one decoder layer's tensors serve all layers: the same operations on tensors
of the same shapes, in 1.3 to 3.2 GB, so that its time can be taken on a small machine. Its answers mean nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor, nn

from fastvlm.config import LanguageConfig

if TYPE_CHECKING:
    from transformers import PreTrainedModel

INIT_RANGE = 0.03


class Prefill(nn.Module):
    """A causal language model of a given shape, random weights, that maps embeddings to the next token's logits.

    Args:
        config: Shape of the model.
        num_layers: Decoder layers that run; all of them by default.
        shared: Whether one layer's tensors serve all layers.
    """

    def __init__(self, config: LanguageConfig, num_layers: int | None = None, *, shared: bool = True) -> None:
        super().__init__()
        self.config = config
        self.num_layers = config.num_layers if num_layers is None else num_layers
        self.model = _build(config, self.num_layers, shared)

    @torch.inference_mode()
    def forward(self, embeds: Float[Tensor, "batch tokens dim"]) -> Float[Tensor, "batch 1 vocab"]:
        """Return the logits of the token after the last one."""
        return self.model(inputs_embeds=embeds, use_cache=False, logits_to_keep=1).logits

    @torch.inference_mode()
    def read_out(self, embeds: Float[Tensor, "batch tokens dim"]) -> Float[Tensor, "batch 1 vocab"]:
        """Return what the output layer alone makes of the last embedding (to tell its time from the layers')."""
        return self.model.lm_head(embeds[:, -1:])

    def extrapolate(self, seconds: float, read_out_seconds: float) -> float:
        """Return the time of all layers from that of the `num_layers` that ran; layers are alike."""
        layers = max(0.0, seconds - read_out_seconds)  # both are measured, and noise can be larger than one layer
        return layers * self.config.num_layers / self.num_layers + read_out_seconds


def _build(config: LanguageConfig, num_layers: int, shared: bool) -> PreTrainedModel:
    """Build transformers' model without the token embedding, which a pass over embeddings never reads."""
    from transformers import AutoConfig, AutoModelForCausalLM

    fields = config.to_transformers() | {"num_hidden_layers": num_layers}
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**fields))
    body = model.model
    body.rotary_emb = type(body.rotary_emb)(body.config)
    if shared:
        body.layers = nn.ModuleList([body.layers[0]] * num_layers)
    for part in (body.layers, body.norm, model.lm_head):
        fill_randomly(part)
    return model.eval()


@torch.no_grad()
def fill_randomly(module: nn.Module) -> None:
    """Give a module that was defined on the meta device memory and small random weights.

    Much quicker than the initialisation of its library, which latency does not depend on.
    """
    module.to_empty(device="cpu")
    for parameter in module.parameters():
        if parameter.ndim > 1:
            parameter.uniform_(-INIT_RANGE, INIT_RANGE)
        else:
            parameter.fill_(1.0)


def count_flops(config: LanguageConfig, num_tokens: int) -> float:
    """Return floating-point operations of one pass: two per weight and token, plus attention, plus one output row.

    Attention counts the full square of `num_tokens`, as kernels without a causal shortcut compute it.
    """
    attention = 4 * num_tokens**2 * config.dim
    layer = 2 * config.layer_params * num_tokens + attention
    return config.num_layers * layer + 2 * config.dim * config.vocab_size
