"""From a checkpoint to a score, with architectures that are in no table of the package."""

from pathlib import Path

import pytest
import torch

from aerogel.analysis import inspect
from aerogel.evaluation import evaluate, score
from aerogel.models import architecture, load, load_tokenizer, prunable_weights, save
from aerogel.pruning import prune
from aerogel.tasks import load_task
from aerogel.tasks.kinds.language_modelling import PERPLEXITIES
from aerogel.training import TrainingConfig, finetune
from builders import ARCHITECTURES, prose, sentences, write_tsv

NAMES = ["distilbert", "electra", "albert", "roberta", "opt", "gpt-neox", "llama", "t5"]
CONFIG = TrainingConfig(epochs=1, batch_size=8, learning_rate=1e-3, max_length=24, limit=24)


@pytest.fixture
def checkpoint(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A random model of the architecture, with a tokenizer."""
    name = request.param
    zoo = "tiny-gpt2" if name in ("opt", "gpt-neox", "llama") else "tiny-bart"
    save(ARCHITECTURES[name].build(), load_tokenizer(zoo), tmp_path / name)
    return str(tmp_path / name)


@pytest.mark.parametrize("checkpoint", NAMES, indirect=True)
def test_classification_from_checkpoint_to_score(checkpoint: str, tmp_path: Path) -> None:
    data = load_task(str(write_tsv(tmp_path / "moods.tsv", sentences(60))))
    torch.manual_seed(0)
    model, tokenizer = load(checkpoint, data.task.head)
    masks = prune(model, sparsity=0.5)
    before = {weight.name: weight.matrix.clone() for weight in prunable_weights(model)}
    result = finetune(model, tokenizer, data, CONFIG)
    assert result.steps == 3
    for weight in prunable_weights(model):
        assert torch.equal(weight.matrix == 0, ~masks[weight.name])
        assert not torch.equal(weight.matrix, before[weight.name])
    assert inspect(model).sparsity == pytest.approx(0.5, abs=1e-3)

    result = score(model, tokenizer, data)
    save(model, tokenizer, tmp_path / "out")
    again, tokenizer_again = load(str(tmp_path / "out"))
    assert type(again) is type(model)
    assert again.config.id2label == {0: "0", 1: "1"}
    assert score(again, tokenizer_again, data) == result
    assert inspect(again).to_dict() == inspect(model).to_dict()
    batch = tokenizer(["a fine boat", "the lamp was rotten indeed"], padding=True, return_tensors="pt")
    batch.pop("token_type_ids", None)
    with torch.no_grad():
        assert torch.equal(again(**batch).logits, model(**batch).logits)


@pytest.mark.parametrize("checkpoint", NAMES, indirect=True)
def test_language_modelling_from_checkpoint_to_score(checkpoint: str, tmp_path: Path) -> None:
    (tmp_path / "story.txt").write_text(prose(300))
    data = load_task(str(tmp_path / "story.txt"))
    model, tokenizer = load(checkpoint, data.task.head)
    perplexity = PERPLEXITIES[architecture(model.config)]
    dense = evaluate(model, tokenizer, [data], limit=2)["story"]
    assert 2000 < dense[perplexity] < 80_000  # an untrained model of 8000 tokens
    masks = prune(model, sparsity=0.5, scope="global")
    finetune(model, tokenizer, data, CONFIG)
    assert all(torch.equal(weight.matrix == 0, ~masks[weight.name]) for weight in prunable_weights(model))
    result = score(model, tokenizer, data, limit=2)
    assert result.metrics[perplexity] < dense[perplexity]
    save(model, tokenizer, tmp_path / "out")
    assert score(*load(str(tmp_path / "out")), data, limit=2) == result


@pytest.mark.parametrize("checkpoint", ["roberta", "distilbert", "t5"], indirect=True)
def test_long_texts_are_truncated(checkpoint: str, tmp_path: Path) -> None:
    rows = [(f"{text} and {prose(20)}".replace("\n", " "), label) for text, label in sentences(40)]
    data = load_task(str(write_tsv(tmp_path / "long.tsv", rows)))
    model, tokenizer = load(checkpoint, data.task.head)
    score(model, tokenizer, data, limit=4, max_length=1000)
