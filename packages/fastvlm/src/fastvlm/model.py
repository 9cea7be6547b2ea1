"""FastVLM (Sec. 3): FastViTHD, a projector, and a causal language model of transformers."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Int
from mobileclip.fusion import reparameterize
from mobileclip.model import optimize_for_inference
from tenfold_shared.commands import InputError
from torch import Tensor, nn

from fastvlm import checkpoint
from fastvlm.config import FastVLMConfig
from fastvlm.encoder import FastViTHD
from fastvlm.layouts import IMAGE_PLACEHOLDER, IMAGE_TOKEN_ID, Layout, Parts, check_layout

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class Sampling:
    """How an answer is drawn from the model.

    Args:
        max_new_tokens: At most this many tokens per row.
        temperature: 0 takes the most probable token; above, tokens are drawn.
        eos_token_ids: Tokens that end a row; by default those of the language model's configuration.
        generator: Source of chance for drawing.
    """

    max_new_tokens: int = 256
    temperature: float = 0.0
    eos_token_ids: tuple[int, ...] | None = None
    generator: torch.Generator | None = None

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1 or self.temperature < 0:
            raise ValueError(
                f"`max_new_tokens` (={self.max_new_tokens}) must be at least 1 and "
                f"`temperature` (={self.temperature}) at least 0."
            )


class FastVLM(nn.Module):
    """A vision-language model: image tokens take the place of `<image>` among the embedded words.

    Source: Sec. 3; with equal weights its logits are those of transformers' `FastVlmForConditionalGeneration`.
    Any causal language model of transformers fits, FastVLM's own are Qwen2.

    Args:
        encoder: Pixels to image tokens.
        projector: Image tokens to the language model's width.
        language_model: Takes `inputs_embeds` and a cache.
        image_aspect_ratio: What belongs to the model's preprocessing: "pad" or "anyres".
        grid_pinpoints: (width, height) of the canvases of "anyres".

    Example:
        >>> from dataclasses import replace
        >>> import fastvlm, torch
        >>> preset = fastvlm.PRESETS["fastvlm_0.5b"]
        >>> config = replace(preset, language=replace(preset.language, num_layers=1, vocab_size=200),
        ...                  encoder=fastvlm.EncoderConfig((1, 1, 1, 1, 1), (32, 32, 32, 32, 32), image_size=64))
        >>> model = FastVLM.from_config(config)
        >>> model.generate(torch.tensor([[7, -200, 8]]), torch.rand(1, 3, 64, 64), max_new_tokens=3).shape
        torch.Size([1, 3])
    """

    def __init__(
        self,
        encoder: FastViTHD,
        projector: nn.Sequential,
        language_model: PreTrainedModel,
        *,
        image_aspect_ratio: str = "pad",
        grid_pinpoints: Sequence[tuple[int, int]] = (),
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.projector = projector
        self.language_model = language_model
        self.image_aspect_ratio = image_aspect_ratio
        self.grid_pinpoints = list(grid_pinpoints)

    @classmethod
    def from_config(cls, config: FastVLMConfig) -> FastVLM:
        """Build a model with random weights, in train form."""
        from transformers import AutoConfig, AutoModelForCausalLM

        text = AutoConfig.for_model(**config.language.to_transformers())
        encoder = FastViTHD(config.encoder)
        projector = checkpoint.make_projector(config.encoder.out_dim, config.language.dim, config.projector_layers)
        return cls(encoder, projector, AutoModelForCausalLM.from_config(text)).eval()

    @classmethod
    def from_pretrained(cls, source: str | Path, dtype: torch.dtype = torch.float32) -> FastVLM:
        """Read a folder in the authors' or in transformers' layout.

        Args:
            source: A folder, or owner/name on the Hugging Face hub.
            dtype: Number format of the weights.

        Returns:
            The model in evaluation mode, its encoder in the form in which it is stored.

        Raises:
            FileNotFoundError: The folder, its configuration or a shard is missing.
            InputError: The layout is unknown, or a tensor is missing, left over or of another shape.
        """
        origin = str(source)
        parts = checkpoint.read_parts(checkpoint.find_folder(source))
        encoder = checkpoint.build_encoder(parts.encoder, parts.image_size, parts.multi_scale, origin=origin)
        language = checkpoint.build_language_model(parts.language, parts.text_config, origin=origin)
        hidden = int(language.get_input_embeddings().embedding_dim)
        projector = checkpoint.build_projector(parts.projector, encoder.config.out_dim, hidden, origin=origin)
        options: dict[str, Any] = {name: getattr(parts, name) for name in ("image_aspect_ratio", "grid_pinpoints")}
        return cls(encoder, projector, language, **options).to(dtype).eval()

    def save_pretrained(
        self, folder: str | Path, layout: Layout = "llava_qwen2", image_token_id: int = IMAGE_TOKEN_ID
    ) -> None:
        """Write a folder that `from_pretrained`, and the layout's own library, read.

        Args:
            folder: Made if missing; gets `config.json` and weights, in shards of at most 4 GB.
            layout: "llava_qwen2" (the authors') or "fast_vlm" (transformers', which has the fused form only).
            image_token_id: What stands for an image in `fast_vlm`'s token ids.

        Raises:
            ValueError: There is no such layout, or it cannot hold this model.
        """
        check_layout(layout)
        checkpoint.write_parts(self.to_parts(fused=layout == "fast_vlm"), Path(folder), layout, image_token_id)

    def to_parts(self, *, fused: bool) -> Parts:
        """Take the model apart for writing."""
        language = self.language_model.state_dict()
        if self.language_model.config.tie_word_embeddings:
            language.pop("lm_head.weight", None)
        return Parts(
            (reparameterize(self.encoder) if fused else self.encoder).state_dict(),
            self.projector.state_dict(),
            language,
            self.language_model.config.to_dict(),
            image_size=self.encoder.config.image_size,
            multi_scale=self.encoder.config.multi_scale,
            image_aspect_ratio=self.image_aspect_ratio,
            grid_pinpoints=self.grid_pinpoints,
        )

    def optimize(self) -> FastVLM:
        """Return a model that computes the same sooner: the encoder folded and channels-last, the rest shared."""
        fast = optimize_for_inference(self.encoder)
        options: dict[str, Any] = {name: getattr(self, name) for name in ("image_aspect_ratio", "grid_pinpoints")}
        return FastVLM(fast, self.projector, self.language_model, **options).eval()

    def set_image_size(self, size: int) -> None:
        """Make another resolution the model's own (Sec. 3.2: resolution scaling); weights fit any.

        Args:
            size: Height and width in pixels, divisible by 64.
        """
        self.encoder.config = dataclasses.replace(self.encoder.config, image_size=size)

    def encode_images(self, pixels: Float[Tensor, "views 3 size size"]) -> Float[Tensor, "views tokens dim"]:
        """Return image tokens in the language model's width.

        Args:
            pixels: RGB in [0, 1], height and width divisible by 64.
        """
        return self.projector(self.encoder(pixels))

    def embed(
        self,
        input_ids: Int[Tensor, "batch length"],
        pixels: Tensor | None = None,
        attention_mask: Tensor | None = None,
        views: Sequence[int] | None = None,
    ) -> tuple[Float[Tensor, "batch long dim"], Int[Tensor, "batch long"]]:
        """Embed words and put the image tokens in their places; shorter rows are padded on the left.

        Args:
            input_ids: Token ids, -200 where an image goes.
            pixels: All views of all images [views, 3, size, size], in the order of their placeholders; or what
                `encode_images` returned for them, to ask again about the same images.
            attention_mask: 1 for tokens, 0 for padding of `input_ids` (all tokens by default).
            views: Views per image (its tiles and the overview); one each by default.

        Returns:
            Embeddings, and 1 where a token is and 0 where padding is.

        Raises:
            InputError: There is another number of placeholders than of images, or the sequence is longer than the
                language model's context.
        """
        features = pixels if pixels is None or pixels.ndim == 3 else self.encode_images(pixels)
        images = [] if features is None else _split_views(features, views)
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        num_placeholders = int(((input_ids == IMAGE_PLACEHOLDER) & mask.bool()).sum())
        if num_placeholders != len(images):
            raise InputError(f"the prompt has {num_placeholders} `<image>` but {len(images)} images were given.")
        waiting = iter(images)
        rows = [self._splice(ids[keep.bool()], waiting) for ids, keep in zip(input_ids, mask, strict=True)]
        self._check_length(max(row.shape[0] for row in rows))
        return _pad_left(rows)

    def forward(
        self,
        input_ids: Int[Tensor, "batch length"],
        pixels: Tensor | None = None,
        attention_mask: Tensor | None = None,
        views: Sequence[int] | None = None,
    ) -> Float[Tensor, "batch long vocab"]:
        """Return logits at every position; see `embed` for the arguments."""
        embeds, mask = self.embed(input_ids, pixels, attention_mask, views)
        output = self.language_model(
            inputs_embeds=embeds, attention_mask=mask, position_ids=count_positions(mask), use_cache=False
        )
        return output.logits

    @torch.inference_mode()
    def generate(
        self,
        input_ids: Int[Tensor, "batch length"],
        pixels: Tensor | None = None,
        attention_mask: Tensor | None = None,
        *,
        views: Sequence[int] | None = None,
        **sampling: Any,
    ) -> Int[Tensor, "batch new"]:
        """Return what the model answers, as token ids; rows that end sooner are filled with their end token.

        Args:
            input_ids: See `embed`, as `pixels`, `attention_mask` and `views`.
            pixels: See `embed`.
            attention_mask: See `embed`.
            views: See `embed`.
            **sampling: Fields of `Sampling`, such as `max_new_tokens` and `temperature`.
        """
        embeds, mask = self.embed(input_ids, pixels, attention_mask, views)
        return torch.stack(list(self.stream(embeds, mask, Sampling(**sampling))), dim=1)

    @torch.inference_mode()
    def stream(
        self, embeds: Float[Tensor, "batch long dim"], mask: Int[Tensor, "batch long"], sampling: Sampling
    ) -> Iterator[Int[Tensor, " batch"]]:
        """Yield one token per row and step, with a key-value cache, until every row has ended.

        Args:
            embeds: What `embed` returned.
            mask: What `embed` returned.
            sampling: How tokens are chosen, and when the answer ends.
        """
        ends = torch.tensor(self._end_tokens(sampling), device=mask.device)
        inputs: dict[str, Any] = {"inputs_embeds": embeds, "position_ids": count_positions(mask)}
        ended, token, cache = torch.zeros_like(mask[:, 0], dtype=torch.bool), None, None
        name = cache_keyword(self.language_model)
        for _ in range(sampling.max_new_tokens):
            inputs |= {"attention_mask": mask, name: cache}
            output = self.language_model(**inputs, use_cache=True, logits_to_keep=1)
            cache, new = output[name], _pick(output.logits[:, -1], sampling)
            token = new if token is None else torch.where(ended, token, new)
            ended = ended | torch.isin(token, ends)
            yield token
            if bool(ended.all()):
                return
            mask = torch.cat([mask, mask.new_ones(mask.shape[0], 1)], dim=1)
            inputs = {"input_ids": token[:, None], "position_ids": count_positions(mask)[:, -1:]}

    def _end_tokens(self, sampling: Sampling) -> list[int]:
        if sampling.eos_token_ids is not None:
            return list(sampling.eos_token_ids)
        eos = self.language_model.config.eos_token_id
        return [] if eos is None else [eos] if isinstance(eos, int) else list(eos)

    def _splice(self, ids: Tensor, images: Iterator[Tensor]) -> Tensor:
        """Return the embeddings of one row, without padding."""
        embedding = self.language_model.get_input_embeddings()
        chunks: list[Tensor] = []
        start = 0
        for place in (ids == IMAGE_PLACEHOLDER).nonzero().flatten().tolist():
            chunks += [embedding(ids[start:place]), next(images)]
            start = place + 1
        return torch.cat([*chunks, embedding(ids[start:])])

    def _check_length(self, length: int) -> None:
        limit = getattr(self.language_model.config, "max_position_embeddings", None)
        if limit is not None and length > limit:
            raise InputError(
                f"prompt and images make {length} tokens, longer than the language model's context of {limit}; "
                "use fewer or smaller images."
            )


def _split_views(features: Tensor, views: Sequence[int] | None) -> list[Tensor]:
    """Return the tokens of each image: those of its views one after the other (the authors' "flat")."""
    counts = [1] * features.shape[0] if views is None else list(views)
    return [image.flatten(0, 1) for image in features.split(counts)]


def _pad_left(rows: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Stack rows of embeddings [length, dim] with zeros before the shorter ones."""
    length = max(row.shape[0] for row in rows)
    embeds = rows[0].new_zeros(len(rows), length, rows[0].shape[1])
    mask = torch.zeros(len(rows), length, dtype=torch.long, device=embeds.device)
    for index, row in enumerate(rows):
        embeds[index, length - row.shape[0] :] = row
        mask[index, length - row.shape[0] :] = 1
    return embeds, mask


def count_positions(mask: Int[Tensor, "batch length"]) -> Int[Tensor, "batch length"]:
    """Return positions that count from the first token that is no padding."""
    return (mask.cumsum(-1) - 1).clamp(min=0)


def cache_keyword(language_model: nn.Module) -> str:
    """Return what transformers' `forward` calls its key-value cache: `cache` from 5.24 on, `past_key_values` before."""
    inner = getattr(language_model, "get_base_model", lambda: language_model)()  # peft's forward takes anything
    return "cache" if "cache" in inspect.signature(inner.forward).parameters else "past_key_values"


def _pick(logits: Tensor, sampling: Sampling) -> Tensor:
    """Return one token per row of logits [batch, vocab]."""
    if sampling.temperature == 0:
        return logits.argmax(-1)
    probabilities = (logits.float() / sampling.temperature).softmax(-1)
    return torch.multinomial(probabilities, 1, generator=sampling.generator)[:, 0]
