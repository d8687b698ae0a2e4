"""Public functions accept names and paths, and refuse other arguments in one sentence."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedModel, PreTrainedTokenizerBase

import aerogel as ag
from aerogel.benchmark import Subject
from aerogel.pruning.sensitivity import sensitivity
from aerogel.training import DistillationConfig, TrainingConfig
from builders import prose, sentences, write_tsv

Pair = tuple[PreTrainedModel, PreTrainedTokenizerBase]


@pytest.fixture(scope="module")
def bert() -> Pair:
    return ag.load("tiny-bert")


class Table:
    """Like a DataFrame or a Dataset: it has a length and columns."""

    def __len__(self) -> int:
        return 2

    def __iter__(self) -> Any:
        return iter(["sentence", "label"])


TABLE, TEXTS = Table(), ["a text", "another text"]
DATA: Any = ag.load_task("python-reference")
REFUSED: dict[str, tuple[Callable[[PreTrainedModel, PreTrainedTokenizerBase], object], str]] = {
    "load(None)": (lambda m, t: ag.load(None), "NoneType"),
    "load(model)": (lambda m, t: ag.load(m), "BertForMaskedLM"),
    "load(head)": (lambda m, t: ag.load("tiny-bert", "sst2"), "str 'sst2'"),
    "inspect(name)": (lambda m, t: ag.inspect("tiny-bert"), "str 'tiny-bert'"),
    "compress(name)": (lambda m, t: ag.compress("tiny-bert"), "str 'tiny-bert'"),
    "decompress(None)": (lambda m, t: ag.decompress(None), "NoneType"),
    "prune(name)": (lambda m, t: ag.prune("tiny-bert", sparsity=0.5), "str 'tiny-bert'"),
    "prune(dict)": (lambda m, t: ag.prune(m, {"sparsity": 0.5}), "dict"),
    "prune(percent)": (lambda m, t: ag.prune(m, sparsity=90), r"0\.9\?"),
    "prune(text)": (lambda m, t: ag.prune(m, sparsity="0.9"), r"str '0\.9'"),
    "prune(method)": (lambda m, t: ag.prune(m, method=["best"], sparsity=0.9), "list"),
    "prune(pattern)": (lambda m, t: ag.prune(m, pattern=(2, 4)), "tuple"),
    "prune(pairs)": (lambda m, t: ag.prune(m, method="wanda", sparsity=0.5, calibration=[("a", "b")]), "list"),
    "prune(task)": (lambda m, t: ag.prune(m, method="wanda", sparsity=0.5, calibration="sst2"), "str 'sst2'"),
    "sensitivity(percent)": (
        lambda m, t: sensitivity(m, ag.calibration("python-reference", t), sparsities=[50]),
        r"0\.5\?",
    ),
    "sensitivity(pairs)": (lambda m, t: sensitivity(m, [("a", "b")]), "list"),
    "PruneConfig(percent)": (lambda m, t: ag.PruneConfig(sparsity=90), r"0\.9\?"),
    "GradualPruning(percent)": (lambda m, t: ag.GradualPruning(ag.PruneConfig(sparsity=90)), r"0\.9\?"),
    "SparsityCallback(text)": (lambda m, t: ag.SparsityCallback(sparsity="0.9"), r"str '0\.9'"),
    "SparsityCallback(0.9)": (lambda m, t: ag.SparsityCallback(0.9), r"float 0\.9"),
    "SparsityCallback(numbers)": (lambda m, t: ag.SparsityCallback(sparsity=0.9, calibration=[3]), "list"),
    "SparsityCallback(score)": (lambda m, t: ag.SparsityCallback(sparsity=0.9, score=3), "3"),
    "SparsityCallback(values)": (lambda m, t: ag.SparsityCallback(values=8), "8.*int8"),
    "calibration(pairs)": (lambda m, t: ag.calibration([("a", "b")], t), "list"),
    "calibration(model)": (lambda m, t: ag.calibration("python-reference", m), "BertForMaskedLM"),
    "calibration(samples)": (lambda m, t: ag.calibration("python-reference", t, samples="64"), "str '64'"),
    "load_task(table)": (lambda m, t: ag.load_task(TABLE), "Table"),
    "load_task(folder)": (lambda m, t: ag.load_task("sst2", ["data"]), "list"),
    "evaluate(table)": (lambda m, t: ag.evaluate(m, t, TABLE), "Table"),
    "evaluate([table])": (lambda m, t: ag.evaluate(m, t, [TABLE]), "Table"),
    "evaluate(model)": (lambda m, t: ag.evaluate("tiny-bert", t, [DATA]), "str 'tiny-bert'"),
    "evaluate(swapped)": (lambda m, t: ag.evaluate(m, m, [DATA]), "BertForMaskedLM"),
    "evaluate(reference)": (lambda m, t: ag.evaluate(m, t, [DATA], reference="tiny-bert"), "str 'tiny-bert'"),
    "evaluate(limit)": (lambda m, t: ag.evaluate(m, t, [DATA], limit="5"), "str '5'"),
    "finetune(table)": (lambda m, t: ag.finetune(m, t, TABLE), "Table"),
    "finetune(name)": (lambda m, t: ag.finetune(m, t, "movie-revews"), "movie-reviews"),
    "finetune(model)": (lambda m, t: ag.finetune("tiny-bert", t, DATA), "str 'tiny-bert'"),
    "finetune(swapped)": (lambda m, t: ag.finetune(m, m, DATA), "BertForMaskedLM"),
    "finetune(dict)": (lambda m, t: ag.finetune(m, t, DATA, {"epochs": 1}), "dict"),
    "finetune(sparsity)": (lambda m, t: ag.finetune(m, t, DATA, sparsity=0.9), r"float 0\.9"),
    "finetune(teacher)": (lambda m, t: ag.finetune(m, t, DATA, teacher="tiny-bert"), "str 'tiny-bert'"),
    "TrainingConfig(epochs)": (lambda m, t: TrainingConfig(epochs="3"), "str '3'"),
    "DistillationConfig(hardness)": (lambda m, t: DistillationConfig(hardness=None), "NoneType"),
    "bench(name)": (lambda m, t: ag.bench(["tiny-bert"]), "str 'tiny-bert'"),
    "Subject(model)": (lambda m, t: Subject(m), "BertForMaskedLM"),
    "merge(name)": (lambda m, t: ag.merge("tiny-bert"), "str 'tiny-bert'"),
}


@pytest.mark.parametrize("call", REFUSED)
def test_wrong_arguments_are_refused_in_one_sentence(bert: Pair, call: str) -> None:
    function, named = REFUSED[call]
    with pytest.raises(ag.AerogelError, match=named) as raised:
        function(*bert)
    text = str(raised.value)
    assert len(text) < 250
    assert "\n" not in text


def test_paths_are_accepted_like_names(bert: Pair, tmp_path: Path) -> None:
    model, tokenizer = bert
    text, rows = tmp_path / "text.txt", write_tsv(tmp_path / "moods.tsv", sentences(40))
    text.write_text(prose(300))
    assert ag.calibration(text, tokenizer, samples=2, length=16).batches(model)
    assert ag.load_task(rows) == ag.load_task(str(rows))
    one = ag.evaluate(model, tokenizer, text, limit=2)
    assert one == ag.evaluate(model, tokenizer, [text], limit=2) == ag.evaluate(model, tokenizer, str(text), limit=2)
    model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    data = ag.load_task(rows)
    loaded, its = ag.load(tmp_path / "model", data.task.head)
    done = ag.finetune(loaded, its, data, TrainingConfig(epochs=1), checkpoints=str(tmp_path / "checkpoints"))
    assert "held out" in done.source
    assert list((tmp_path / "checkpoints").glob("checkpoint-*"))
    assert Subject(tmp_path / "model") == Subject(str(tmp_path / "model"))
    with pytest.raises(ag.AerogelError, match="missing"):
        ag.load(tmp_path / "missing")
