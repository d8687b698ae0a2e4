"""The dense pruned model as ONNX: the same outputs in ONNX Runtime, and the same zeros in the file."""

import copy
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import numpy_helper
from onnxruntime.quantization import QuantType, quantize_dynamic
from transformers import PreTrainedModel

import aerogel as ag
from aerogel.models import load, prunable_weights

pytestmark = pytest.mark.filterwarnings("ignore")  # the exporter's own


class Plain(torch.nn.Module):
    """A model that takes and returns tensors only."""

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.model(input_ids=input_ids, attention_mask=attention_mask).logits
        return logits


def inputs(batch: int, length: int) -> tuple[torch.Tensor, torch.Tensor]:
    ids = torch.arange(5, 5 + batch * length).view(batch, length)
    mask = torch.ones_like(ids)
    mask[0, length // 2 :] = 0
    return ids, mask


def zeros_by_shape(arrays: Any) -> list[tuple[tuple[int, ...], int]]:
    """Sizes, whatever the orientation, and zeros of the matrices that have many."""
    return sorted(
        (tuple(sorted(array.shape)), int((array == 0).sum())) for array in arrays if (array == 0).mean() > 0.25
    )


def matrices(file: Path) -> list[Any]:
    stored = [numpy_helper.to_array(tensor) for tensor in onnx.load(file).graph.initializer]
    return [array for array in stored if array.ndim == 2 and min(array.shape) > 1]


def exported(model: PreTrainedModel, file: Path) -> Path:
    batch, length = torch.export.Dim("batch", min=1, max=64), torch.export.Dim("length", min=2, max=64)
    torch.onnx.export(
        Plain(model).eval(),
        inputs(2, 8),
        file,
        input_names=["input_ids", "attention_mask"],
        output_names=["logits"],
        dynamic_shapes=({0: batch, 1: length}, {0: batch, 1: length}),
        dynamo=True,
        external_data=False,
    )
    return file


def assert_same_outputs(model: PreTrainedModel, file: Path) -> None:
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    for sizes in ((2, 8), (3, 21)):
        ids, mask = inputs(*sizes)
        (result,) = session.run(None, {"input_ids": ids.numpy(), "attention_mask": mask.numpy()})
        with torch.inference_mode():
            expected = model(input_ids=ids, attention_mask=mask).logits
        assert np.allclose(result[mask.bool()], expected[mask.bool()], atol=1e-4)


def test_a_decompressed_model_in_onnx_runtime(tmp_path: Path) -> None:
    model, _ = load("tiny-bert")
    ag.prune(model, sparsity=0.9)
    masks = zeros_by_shape(weight.matrix.numpy() for weight in prunable_weights(model))
    file = exported(ag.decompress(ag.compress(copy.deepcopy(model))), tmp_path / "model.onnx")
    assert_same_outputs(model, file)
    assert zeros_by_shape(matrices(file)) == masks
    quantize_dynamic(file, tmp_path / "int8.onnx", weight_type=QuantType.QInt8)
    rounded = [array for array in matrices(tmp_path / "int8.onnx") if array.dtype == np.int8]
    assert [shape for shape, _ in zeros_by_shape(rounded)] == [shape for shape, _ in masks]


@pytest.mark.parametrize("uniform", [True, False])
def test_a_model_with_fewer_neurons_in_onnx_runtime(tmp_path: Path, uniform: bool) -> None:
    model, tokenizer = load("tiny-bert")
    dense = sum(array.size for array in matrices(exported(model, tmp_path / "dense.onnx")))
    text = ag.calibration("python-reference", tokenizer, samples=4)
    ag.prune_structure(model, ag.StructureConfig(sparsity=0.5, uniform=uniform), text)
    file = exported(model, tmp_path / "smaller.onnx")
    assert_same_outputs(model, file)
    assert sum(array.size for array in matrices(file)) < 0.8 * dense
