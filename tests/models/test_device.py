import pytest
import torch

from aerogel.errors import ModelError
from aerogel.models import load_model, to_device
from aerogel.pruning import prune
from aerogel.runtime import compress

IS_GPU_THERE = torch.cuda.is_available()


def test_the_default_is_a_gpu_if_torch_sees_one() -> None:
    assert to_device(load_model("tiny-bert")).device.type == ("cuda" if IS_GPU_THERE else "cpu")


def test_a_packed_model_stays_on_the_cpu_by_default() -> None:
    model = load_model("tiny-bert")
    prune(model, sparsity=0.9)
    assert to_device(compress(model)).device.type == "cpu"


@pytest.mark.parametrize("name", ["cuda:99", "warp", "meta"])
def test_a_device_that_torch_does_not_see_is_refused_with_those_that_it_sees(name: str) -> None:
    model = load_model("tiny-bert")
    with pytest.raises(ModelError, match=f"(?s){name}.*cpu"):
        to_device(model, name)
    assert model.device.type == "cpu"


@pytest.mark.gpu
def test_a_packed_model_is_refused_on_a_gpu() -> None:
    model = load_model("tiny-bert")
    prune(model, sparsity=0.9)
    with pytest.raises(ModelError, match="cuda"):
        to_device(compress(model), "cuda")
