"""OpenLM for `transformers`, in plain torch: the file that goes into exported folders (`trust_remote_code=True`).

Our own writing, from the same description as `openlm.py`; it imports nothing of this package, so a folder stands alone.
"""

import torch
from torch import nn
from torch.nn import functional
from transformers import PretrainedConfig, PreTrainedModel
from transformers.generation import GenerationMixin
from transformers.modeling_outputs import CausalLMOutput


class OpenLMConfig(PretrainedConfig):
    """Sizes of an OpenLM model under the names of the original wrapper."""

    model_type = "openlm"

    def __init__(
        self, dim=64, n_layers=2, n_heads=2, vocab_size=50432, seq_len=2048, ffn_multiple_of=256, norm_eps=1e-5, **rest
    ):
        """Keep the sizes."""
        self.dim, self.n_layers, self.n_heads = dim, n_layers, n_heads
        self.seq_len, self.ffn_multiple_of, self.norm_eps = seq_len, ffn_multiple_of, norm_eps
        self.hidden_size, self.num_hidden_layers, self.num_attention_heads = dim, n_layers, n_heads
        super().__init__(**{"tie_word_embeddings": False, **rest})
        self.vocab_size = vocab_size


class Gain(nn.Module):
    """Layer norm with a gain and no bias."""

    def __init__(self, dim, eps):
        """Start at one."""
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.ones(dim)), eps

    def forward(self, x):
        """Norm the last axis."""
        return functional.layer_norm(x, x.shape[-1:], self.weight, None, self.eps)


class Attention(nn.Module):
    """Causal attention with norms of queries and keys over the full width."""

    def __init__(self, config):
        """Build the projections."""
        super().__init__()
        self.num_heads = config.n_heads
        self.in_proj = nn.Linear(config.dim, 3 * config.dim, bias=False)
        self.out_proj = nn.Linear(config.dim, config.dim, bias=False)
        self.q_norm, self.k_norm = Gain(config.dim, config.norm_eps), Gain(config.dim, config.norm_eps)

    def forward(self, x):
        """Mix positions."""
        batch, length, dim = x.shape
        query, key, value = self.in_proj(x).chunk(3, dim=-1)
        query, key, value = (
            part.view(batch, length, self.num_heads, -1).transpose(1, 2)
            for part in (self.q_norm(query), self.k_norm(key), value)
        )
        mixed = functional.scaled_dot_product_attention(turn(query), turn(key), value, is_causal=True)
        return self.out_proj(mixed.transpose(1, 2).reshape(batch, length, dim))


def turn(x):
    """Rotate the halves of every head by the angle of their position."""
    length, width = x.shape[-2:]
    powers = torch.arange(0, width, 2, dtype=torch.float32, device=x.device) / width
    angles = torch.outer(torch.arange(length, dtype=torch.float32, device=x.device), 10000.0**-powers)
    cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
    first, second = x.chunk(2, dim=-1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)


class SwiGLU(nn.Module):
    """Gate and value from one matrix."""

    def __init__(self, config):
        """Round the hidden width up."""
        super().__init__()
        multiple = config.ffn_multiple_of
        hidden = multiple * ((int(8 * config.dim / 3) + multiple - 1) // multiple)
        self.w12 = nn.Linear(config.dim, 2 * hidden, bias=False)
        self.w3 = nn.Linear(hidden, config.dim, bias=False)

    def forward(self, x):
        """Gate with SiLU."""
        gate, value = self.w12(x).chunk(2, dim=-1)
        return self.w3(functional.silu(gate) * value)


class Block(nn.Module):
    """One layer."""

    def __init__(self, config):
        """Build both halves."""
        super().__init__()
        self.attention, self.feed_forward = Attention(config), SwiGLU(config)
        self.attention_norm, self.ffn_norm = Gain(config.dim, config.norm_eps), Gain(config.dim, config.norm_eps)

    def forward(self, x):
        """Add attention, then the feed-forward part."""
        x = x + self.attention(self.attention_norm(x))
        return x + self.feed_forward(self.ffn_norm(x))


class Transformer(nn.Module):
    """Embedding, layers, norm, output."""

    def __init__(self, config):
        """Build all layers."""
        super().__init__()
        self.tok_embeddings = nn.Embedding(config.vocab_size, config.dim)
        self.layers = nn.ModuleList(Block(config) for _ in range(config.n_layers))
        self.norm = Gain(config.dim, config.norm_eps)
        self.output = nn.Linear(config.dim, config.vocab_size, bias=False)

    def forward(self, ids):
        """Return float32 logits."""
        x = self.tok_embeddings(ids)
        for layer in self.layers:
            x = layer(x)
        return self.output(self.norm(x)).float()


class OpenLMForCausalLM(PreTrainedModel, GenerationMixin):
    """The model with a loss, as `AutoModelForCausalLM` expects it."""

    config_class = OpenLMConfig

    def __init__(self, config):
        """Build with random weights."""
        super().__init__(config)
        self.model = Transformer(config)
        self.post_init()

    def get_input_embeddings(self):
        """Return the table of tokens."""
        return self.model.tok_embeddings

    def get_output_embeddings(self):
        """Return the last matrix."""
        return self.model.output

    def prepare_inputs_for_generation(self, input_ids, **rest):  # ty: ignore[incompatible-method-override]
        """Feed everything anew: there is no cache."""
        return {"input_ids": input_ids}

    def forward(self, input_ids, labels=None, **rest):
        """Return logits, and the loss of the next tokens where labels are given; padding goes to the right."""
        logits = self.model(input_ids)
        loss = None
        if labels is not None:
            loss = functional.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
        return CausalLMOutput(loss=loss, logits=logits)
