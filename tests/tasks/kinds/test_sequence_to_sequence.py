"""Texts for texts: read, encoded, generated and scored; trained, pruned, distilled, packed and compared."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from aerogel.errors import AerogelWarning, DataError, ModelError
from aerogel.evaluation import evaluate, score
from aerogel.evaluation.scoring import predict
from aerogel.models import load, load_tokenizer, save
from aerogel.pruning import Calibration, prune
from aerogel.pruning.kl import Reference
from aerogel.runtime import compress
from aerogel.tasks import IGNORED, TASKS, InputSettings, Task, TaskData, load_task
from aerogel.tasks.kind import all_kinds
from aerogel.tasks.kinds.sequence_to_sequence import TextPairs
from aerogel.tasks.rows import Rows
from aerogel.training import GradualPruning, TrainingConfig, finetune
from builders import ARCHITECTURES, sentences

KIND = all_kinds()["sequence_to_sequence"]
TEXTS = [text for text, _ in sentences(40)]
PAIRS = TextPairs(TEXTS, [" ".join(text.split()[-4:]) for text in TEXTS])  # the last four words of a text
SHORT = InputSettings(limit=12, max_length=24, batch_size=5)


def data() -> TaskData:
    task = Task("starts", "sequence_to_sequence", metrics=("bleu", "chrf"))
    return TaskData(task, {"train": PAIRS, "validation": PAIRS.first(12)}, "made")


def write(path: Path, *rows: dict[str, object]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def trained() -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    torch.manual_seed(0)
    model, tokenizer = load("tiny-bart", data().task.head)
    finetune(model, tokenizer, data(), TrainingConfig(epochs=12, batch_size=8, learning_rate=2e-3, max_length=24))
    return model, tokenizer


def rows_of(source: str, target: str, *pairs: tuple[object, object]) -> Rows:
    rows = Rows((source, target), [{source: first, target: second} for first, second in pairs], "rows")
    return rows.renamed({"source": source, "target": target})


class TestRead:
    def test_texts(self) -> None:
        task, splits = KIND.read(Task("own", KIND.name), {"train": rows_of("en", "fr", ("Hello", "Bonjour"))})
        assert splits["train"] == TextPairs(["Hello"], ["Bonjour"])
        assert task.metrics == ("bleu", "chrf")

    @pytest.mark.parametrize("column", ["summary", "Highlights"])
    def test_summaries_are_scored_by_rouge(self, column: str) -> None:
        task, _ = KIND.read(Task("own", KIND.name), {"train": rows_of("article", column, ("Long", "Short"))})
        assert task.metrics == ("rougeL", "rouge1", "rouge2")

    def test_what_is_not_text_is_refused_with_its_column(self) -> None:
        with pytest.raises(DataError, match=r"row 2.*fr.*17"):
            KIND.read(Task("own", KIND.name), {"train": rows_of("en", "fr", ("a", "b"), ("c", 17))})

    def test_targets_that_are_all_empty_are_refused(self) -> None:
        with pytest.raises(DataError, match="targets"):
            KIND.read(Task("own", KIND.name), {"train": rows_of("en", "fr", ("a", ""), ("b", " "))})

    def test_classes_and_numbers_are_not_targets(self) -> None:
        assert KIND.fits(rows_of("document", "target", ("a", "x y"), ("b", "y z"), ("c", "x y")))
        assert not KIND.fits(rows_of("document", "target", *(("a", "spam"), ("b", "ham")) * 3))
        assert not KIND.fits(rows_of("document", "target", ("a", 1), ("b", 2)))

    def test_own_files(self, tmp_path: Path) -> None:
        rows = [{"source": text, "target": target} for text, target in zip(PAIRS.sources, PAIRS.targets, strict=True)]
        lone = load_task(write(tmp_path / "own.jsonl", *rows))
        assert lone.task.kind is KIND
        halves = lone.divided()
        parts = [halves.split(name) for name in ("train", "validation")]
        assert sorted(parts[0].sources + parts[1].sources) == sorted(TEXTS)
        assert 0 < len(parts[1]) < len(parts[0])
        assert lone.divided().splits == halves.splits

    def test_too_few_rows_to_divide(self) -> None:
        with pytest.raises(DataError, match=r"mine\.jsonl.*1 "):
            KIND.divide(TextPairs(["a"], ["b"]), "mine.jsonl")

    def test_multi30k_as_on_the_hub_and_in_own_columns(self, tmp_path: Path) -> None:
        (tmp_path / "multi30k").mkdir()
        for first, second in (("en", "de"), ("source", "target")):
            write(tmp_path / "multi30k" / "train.jsonl", {first: "A man.", second: "Ein Mann."})
            loaded = load_task("multi30k", tmp_path)
            assert loaded.split("train") == TextPairs(["A man."], ["Ein Mann."])
            assert loaded.task.metrics == TASKS["multi30k"].metrics


class TestInputs:
    def test_rows_are_the_tokens_of_both_texts(self) -> None:
        model, tokenizer = load("tiny-bart")
        inputs = KIND.inputs(PAIRS, tokenizer, model.config, SHORT)
        assert len(inputs.rows) == 12
        for row, source, target in zip(inputs.rows, PAIRS.sources, PAIRS.targets, strict=False):
            assert tokenizer.decode(row["input_ids"], skip_special_tokens=True) == source
            assert tokenizer.decode(row["labels"], skip_special_tokens=True) == target
        batch = inputs.collate(inputs.rows[:5])
        for row, labels in zip(inputs.rows, batch["labels"].tolist(), strict=False):
            assert labels == row["labels"] + [IGNORED] * (len(labels) - len(row["labels"]))

    def test_long_texts_are_cut_but_not_the_references(self) -> None:
        model, tokenizer = load("tiny-bart")
        long = TextPairs(["a b", "word " * 300, "word " * 300], ["a", "b", "word " * 300])
        with pytest.warns(AerogelWarning, match=r"2 of 3 .* 1 .* 128 "):
            inputs = KIND.inputs(long, tokenizer, model.config, InputSettings(max_length=512))
        assert [len(row["labels"]) for row in inputs.rows[1:]][-1] == 128
        assert inputs.examples.targets == long.targets

    def test_special_tokens_in_a_text_are_plain(self) -> None:
        model, tokenizer = load("tiny-bart")
        [row] = KIND.inputs(TextPairs(["a</s>b"], ["c</s>d"]), tokenizer, model.config, InputSettings()).rows
        assert row["input_ids"].count(tokenizer.eos_token_id) == row["labels"].count(tokenizer.eos_token_id) == 1

    def test_an_empty_text_is_one(self) -> None:
        model, tokenizer = load("tiny-bart")
        empty = TaskData(data().task, {"validation": TextPairs(["", "a"], ["", "b"])}, "made")
        assert np.isfinite(score(model, tokenizer, empty).metrics["perplexity"])


class TestAnswers:
    def test_one_for_each_token_of_a_target(self, trained: tuple[PreTrainedModel, PreTrainedTokenizerBase]) -> None:
        model, tokenizer = trained
        inputs = KIND.inputs(PAIRS, tokenizer, model.config, SHORT)
        batch = inputs.collate(inputs.rows[:5])
        with torch.no_grad():
            output = model(**batch)
            answers = KIND.answers(output, batch, model)
            assert answers.references.tolist() == [token for row in inputs.rows[:5] for token in row["labels"]]
            assert answers.rows.bincount().tolist() == [len(row["labels"]) for row in inputs.rows[:5]]
            predictions = KIND.predict(model, inputs, batch, answers)
        tokens = len(answers.references)
        assert predictions.losses.sum() / tokens == pytest.approx(float(output.loss), rel=1e-4)
        assert predictions.values.tolist() == PAIRS.targets[:5]  # which it has learned
        assert KIND.distillation_loss(answers, answers, 2.0) == pytest.approx(0.0, abs=1e-6)

    def test_generation_is_that_of_the_model(self, trained: tuple[PreTrainedModel, PreTrainedTokenizerBase]) -> None:
        model, tokenizer = copy.deepcopy(trained[0]), trained[1]

        def texts(**options: object) -> list[str]:
            model.generation_config = copy.deepcopy(trained[0].generation_config)
            model.generation_config.update(**options)
            return predict(model, tokenizer, data(), SHORT).predictions.values.tolist()

        [row] = KIND.inputs(PAIRS.first(1), tokenizer, model.config, SHORT).rows
        beams = model.generate(torch.tensor([row["input_ids"]]), num_beams=4, max_new_tokens=23)
        assert texts()[0] == tokenizer.decode(beams[0], skip_special_tokens=True)
        forced = tokenizer("sea", add_special_tokens=False)["input_ids"][0]
        assert all(text.startswith("s") for text in texts(forced_bos_token_id=forced))
        assert all(len(text.split()) < 3 for text in texts(max_length=3))
        assert texts(do_sample=True, temperature=5.0, num_beams=1) == texts(num_beams=1)


def test_the_score_is_of_texts_and_of_tokens(trained: tuple[PreTrainedModel, PreTrainedTokenizerBase]) -> None:
    result = score(*trained, data(), max_length=24)
    assert list(result.metrics) == ["bleu", "chrf", "perplexity", "loss"]
    assert result.metrics["bleu"] > 90
    assert result.metrics["perplexity"] == pytest.approx(np.exp(result.metrics["loss"]))
    assert result.counts == {"examples": 12}
    assert len(result.predictions) == 12
    assert result.references == ()
    order = score(*trained, data(), max_length=24, batch_size=5)  # of the rows, however they form batches
    assert order.predictions == result.predictions
    assert order.metrics["loss"] == pytest.approx(result.metrics["loss"], rel=1e-4)


@pytest.mark.parametrize("name", ["tiny-bert", "tiny-gpt2"])
def test_other_architectures_are_refused(name: str) -> None:
    model, tokenizer = load(name)
    for run in (score, finetune):
        with pytest.raises(ModelError, match=rf"starts.*encoder-decoder.*{type(model).__name__}"):
            run(model, tokenizer, data())


def test_t5_is_trained_and_scored() -> None:
    model, tokenizer = ARCHITECTURES["t5"].build(), load_tokenizer("tiny-bart")
    before = score(model, tokenizer, data(), max_length=24).metrics["loss"]
    finetune(model, tokenizer, data(), TrainingConfig(epochs=2, batch_size=8, learning_rate=1e-2, max_length=24))
    assert score(model, tokenizer, data(), max_length=24).metrics["loss"] < before


class TestPruned:
    def test_calibration_has_the_targets(self, trained: tuple[PreTrainedModel, PreTrainedTokenizerBase]) -> None:
        model, tokenizer = trained
        text = Calibration(data(), tokenizer, 64, 24, at_most=True)
        [batch] = text.batches(model)
        rows = KIND.calibration_rows(PAIRS, tokenizer, model, InputSettings(64, 24))
        start = model.config.decoder_start_token_id
        for row, decoder, mask in zip(rows, batch["decoder_input_ids"], batch["decoder_attention_mask"], strict=True):
            assert decoder[mask.bool()].tolist() == [start, *row["labels"].tolist()[:-1]]
        assert Reference(model, [batch], 200).kl(model) == pytest.approx(0.0, abs=1e-3)
        assert all("labels" not in row for row in KIND.calibration_rows(PAIRS, tokenizer, load("tiny-bert")[0], SHORT))

    def test_distilled_packed_and_compared(
        self, trained: tuple[PreTrainedModel, PreTrainedTokenizerBase], tmp_path: Path
    ) -> None:
        dense, tokenizer = trained
        sparse = copy.deepcopy(dense)
        prune(sparse, method="wanda", sparsity=0.8, calibration=Calibration(data(), tokenizer, 8, 24, at_most=True))
        before = evaluate(sparse, tokenizer, data(), reference=dense)["starts"]
        assert before["kl"] > 0
        assert before["dense_bleu"] > before["bleu"]
        assert before.comparison is not None
        assert before.comparison.flips is None
        training = TrainingConfig(epochs=4, batch_size=8, learning_rate=1e-3, max_length=24)
        finetune(sparse, tokenizer, data(), training, teacher=dense)
        after = evaluate(sparse, tokenizer, data(), reference=dense)["starts"]
        assert after["kl"] < before["kl"]
        assert after["agreement"] >= before["agreement"]

        run = predict(sparse, tokenizer, data(), SHORT)
        save(compress(sparse), tokenizer, tmp_path / "packed")
        packed = predict(*load(tmp_path / "packed"), data(), SHORT)
        assert packed.predictions.values.tolist() == run.predictions.values.tolist()

    @pytest.mark.parametrize(("by", "values"), [("best", None), ("magnitude", "int8")])
    def test_while_training(
        self, trained: tuple[PreTrainedModel, PreTrainedTokenizerBase], by: str, values: str | None
    ) -> None:
        sparse, tokenizer = copy.deepcopy(trained[0]), trained[1]
        finetune(
            sparse,
            tokenizer,
            data(),
            TrainingConfig(epochs=4, batch_size=8, learning_rate=1e-3, max_length=24),
            sparsity=GradualPruning.of(sparsity=0.5, score=by, schedule="constant"),
            teacher=trained[0],
            values=values,
        )
        assert score(sparse, tokenizer, data(), max_length=24).metrics["chrf"] > 30
