"""Options that several commands share: which model, with which weights, on what."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from mobileclip.predict import Pipeline

ModelName = Literal[
    "mobileclip_s0", "mobileclip_s1", "mobileclip_s2", "mobileclip_b", "mobileclip_blt", "mobileclip_tiny"
]
Device = Literal["auto", "cpu", "cuda", "mps"]


@dataclass(frozen=True)
class ModelOptions:
    """Which model runs, with which weights, on what."""

    model: ModelName | None = None
    """Name of the model; by default what the folder given as --pretrained says, else mobileclip_s2."""
    pretrained: str | None = None
    """Weights: an official .pt file, a folder, or hf-hub:owner/name. Without it the weights are random."""
    backend: Literal["torch", "onnx"] = "torch"
    """Run with torch, or with ONNX Runtime from a folder of `mobileclip export` given as --pretrained (CPU)."""
    device: Device = "auto"
    """Where torch runs; auto takes a GPU when there is one."""
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """Number format of weights and pixels (torch only; bf16 and fp16 are for GPUs)."""

    def load(self) -> Pipeline:
        """Load model, preprocessing and tokenizer."""
        from mobileclip.runtime import load_pipeline

        return load_pipeline(self.model, self.pretrained, self.backend, self.device, precision=self.precision)
