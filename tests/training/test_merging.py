"""An adapter merged into a pruned model leaves its zeros where they are."""

import copy
import warnings
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from transformers import PreTrainedModel

import aerogel as ag
from aerogel.errors import ModelError
from aerogel.models import prunable_weights
from builders import ARCHITECTURES, train

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")  # of transformers, for what peft calls


def adapted(model: PreTrainedModel, config: Any) -> Any:
    with warnings.catch_warnings():  # peft sets fan_in_fan_out for Conv1D by itself, and says so
        warnings.simplefilter("ignore")
        return peft.get_peft_model(model, config)


LORA = dict(target_modules="all-linear", init_lora_weights=False)


@pytest.mark.parametrize("name", ["tiny-gpt2", "tiny-bert"])
@pytest.mark.parametrize(
    "config",
    [lambda: peft.LoraConfig(**LORA), lambda: peft.LoraConfig(**LORA, use_dora=True)],
    ids=["lora", "dora"],
)
def test_it_is_the_merge_of_peft_with_the_zeros_kept(name: str, config: Any) -> None:
    model, _ = ag.load(name)
    masks = ag.prune(model, sparsity=0.9)
    torch.manual_seed(0)
    both = adapted(model, config())
    expected = copy.deepcopy(both).merge_and_unload()
    merged = ag.merge(both)
    assert type(merged) is type(model)
    for weight, wide in zip(prunable_weights(merged), prunable_weights(expected), strict=True):
        kept = masks[weight.name]
        assert torch.equal(weight.matrix, wide.matrix * kept), weight.name
        assert wide.zeros.sum() < weight.zeros.sum() == (~kept).sum()
    pruned = {f"{name}.weight" for name in masks}
    for key, value in expected.state_dict().items():
        assert key in pruned or torch.equal(merged.state_dict()[key], value), key


def test_heads_that_were_trained_whole_are_in_the_merged_model(tmp_path: Path) -> None:
    model = ARCHITECTURES["bert"].build()
    ag.prune(model, sparsity=0.8)
    config = peft.LoraConfig(target_modules=["query"], modules_to_save=["transform"])
    both = adapted(model, config)
    before = model.cls.predictions.transform.original_module.dense.weight.clone()
    train(both, tmp_path, ag.SparsityCallback())
    copied = model.cls.predictions.transform.modules_to_save.default.dense.weight.clone()
    after = ag.merge(both).cls.predictions.transform.dense.weight
    assert torch.equal(after, copied)
    assert not torch.equal(after, before)


def test_an_adapter_that_was_merged_before_is_refused() -> None:
    model = ARCHITECTURES["bert"].build()
    ag.prune(model, sparsity=0.8)
    both = adapted(model, peft.LoraConfig(**LORA))
    both.merge_adapter()
    with pytest.raises(ModelError, match=r"layer\.0\.attention\.self\.query"):
        ag.merge(both)


def test_an_adapter_without_weights_to_merge_is_refused() -> None:
    model = ARCHITECTURES["gpt2"].build()
    both = adapted(model, peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2))
    with pytest.raises(ModelError, match="PROMPT_TUNING"):
        ag.merge(both)


def test_a_model_without_an_adapter_is_refused() -> None:
    with pytest.raises(ModelError, match=r"peft\.PeftModel.*BertForMaskedLM"):
        ag.merge(ARCHITECTURES["bert"].build())
