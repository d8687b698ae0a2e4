"""Loading models by zoo name, folder and hub id; refusing broken ones; saving completely or not at all."""

import json
import resource
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from aerogel.errors import AerogelError, ModelError
from aerogel.models import (
    Head,
    architecture,
    has_tokenizer,
    head_kind,
    load,
    load_model,
    load_tokenizer,
    offline_names,
    prepare,
    save,
)
from builders import ARCHITECTURES, BERT_LIKE

MOODS = Head("classification", ("sad", "glad"))
WORDS = Head("language-modelling")
HEADS = [None, MOODS, WORDS]
TINY = ["tiny-bert", "tiny-gpt2", "tiny-bart"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A valid checkpoint with a tokenizer."""
    folder = tmp_path_factory.mktemp("models") / "whole"
    save(ARCHITECTURES["bert"].build(), load_tokenizer("tiny-bart"), folder)
    return folder


@pytest.fixture
def broken(whole: Path, tmp_path: Path) -> Path:
    """A copy, for the test to damage."""
    return Path(shutil.copytree(whole, tmp_path / "broken"))


def configure(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def edit_tensors(folder: Path, edit: Callable[[dict[str, torch.Tensor]], object]) -> None:
    path = folder / "model.safetensors"
    tensors = load_file(path)
    edit(tensors)
    save_file(tensors, path, metadata={"format": "pt"})


# loading


@pytest.mark.parametrize("name", TINY)
def test_zoo_models_load_in_float32_for_evaluation(name: str) -> None:
    model, tokenizer = load(name)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert not model.training
    assert head_kind(model) == "language-modelling"
    assert model.config.pad_token_id == tokenizer.pad_token_id is not None
    assert tokenizer.decode(tokenizer("plain words")["input_ids"], skip_special_tokens=True) == "plain words"


@pytest.mark.parametrize("name", TINY)
def test_a_head_has_the_labels(name: str) -> None:
    model, tokenizer = load(name, Head("classification", ("a", "b", "c")))
    assert head_kind(model) == "classification"
    assert model.config.id2label == {0: "a", 1: "b", 2: "c"}
    assert model.config.label2id == {"a": 0, "b": 1, "c": 2}
    batch = tokenizer(["some words", "and a few words more"], padding=True, return_tensors="pt")
    assert model(**batch).logits.shape == (2, 3)
    body = load_model(name)
    for key, value in body.base_model.state_dict().items():
        assert torch.equal(model.base_model.state_dict()[key], value), key


def test_one_label_is_regression() -> None:
    config = load_model("tiny-bert", Head("classification", ("similarity",))).config
    assert (config.num_labels, config.problem_type) == (1, "regression")


@pytest.mark.parametrize("head", HEADS)
def test_saved_models_load_with_the_same_tensors(tmp_path: Path, head: Head | None) -> None:
    model, tokenizer = load("tiny-gpt2", head)
    save(model, tokenizer, tmp_path / "out")
    again, tokenizer_again = load(str(tmp_path / "out"), head)
    assert again.state_dict().keys() == model.state_dict().keys()
    assert all(torch.equal(value, again.state_dict()[key]) for key, value in model.state_dict().items())
    assert tokenizer_again("so it goes") == tokenizer("so it goes")


def test_without_a_head_a_checkpoint_loads_in_its_own_class(tmp_path: Path) -> None:
    model, tokenizer = load("tiny-bart", MOODS)
    save(model, tokenizer, tmp_path / "out")
    again, _ = load(str(tmp_path / "out"))
    assert type(again) is type(model)
    assert again.config.id2label == {0: "sad", 1: "glad"}
    batch = tokenizer(["some words", "more"], padding=True, return_tensors="pt")
    assert torch.equal(model(**batch).logits, again(**batch).logits)


def test_a_fitting_head_is_kept_and_another_is_replaced(tmp_path: Path) -> None:
    model, tokenizer = load("tiny-bert", MOODS)
    save(model, tokenizer, tmp_path / "out")
    fitting = load_model(str(tmp_path / "out"), Head("classification", ("bad", "good")))
    assert torch.equal(fitting.classifier.weight, model.classifier.weight)
    other = load_model(str(tmp_path / "out"), Head("classification", ("a", "b", "c")))
    assert other.classifier.weight.shape[0] == 3
    assert torch.equal(other.bert.encoder.layer[0].output.dense.weight, model.bert.encoder.layer[0].output.dense.weight)


def test_a_tokenizer_without_padding_token_pads_with_the_end_of_sequence(broken: Path) -> None:
    tokenizer = load_tokenizer(str(broken))
    tokenizer.pad_token = None
    shutil.rmtree(broken)
    save(ARCHITECTURES["gpt2"].build(), tokenizer, broken)
    assert load_tokenizer(str(broken)).pad_token == tokenizer.eos_token
    tokenizer.eos_token = None
    tokenizer.save_pretrained(broken)
    with pytest.raises(ModelError, match=r"broken.*tokenizer"):
        load_tokenizer(str(broken))


@pytest.mark.parametrize("padding", [None, 7])
def test_a_decoder_finds_the_end_of_a_padded_sentence(broken: Path, padding: int | None) -> None:
    shutil.rmtree(broken)
    save(ARCHITECTURES["gpt2"].build(), load_tokenizer("tiny-gpt2"), broken)
    configure(broken, pad_token_id=padding)
    model, tokenizer = load(str(broken), MOODS)
    short, long = "so it goes", "and then it went on for quite a while"
    together = model(**tokenizer([short, long], padding=True, return_tensors="pt")).logits
    for text, logits in zip((short, long), together, strict=True):
        assert torch.allclose(model(**tokenizer(text, return_tensors="pt")).logits[0], logits, atol=1e-5)


def test_head_kinds_follow_from_the_class() -> None:
    config = transformers.BertConfig(**BERT_LIKE)
    assert head_kind(transformers.BertModel(config)) == "embedding"
    assert head_kind(transformers.BertForPreTraining(config)) == "other"
    assert head_kind(transformers.BertForQuestionAnswering(config)) == "question-answering"
    assert head_kind(transformers.BertForTokenClassification(config)) == "token-classification"
    assert head_kind(transformers.BertForMultipleChoice(config)) == "multiple-choice"
    assert head_kind(transformers.BertForMaskedLM(config)) == "language-modelling"
    assert head_kind(transformers.BertForSequenceClassification(config)) == "classification"
    for name, kind in ARCHITECTURES.items():
        assert head_kind(kind.build()) == "language-modelling", name


def test_architectures_are_distinguished() -> None:
    kinds = {name: architecture(kind.config()) for name, kind in ARCHITECTURES.items()}
    assert {name for name, kind in kinds.items() if kind == "encoder-decoder"} == {"bart", "t5"}
    assert {name for name, kind in kinds.items() if kind == "decoder"} == {"gpt2", "opt", "gpt-neox", "llama"}
    for config in (transformers.ViTConfig, transformers.Wav2Vec2Config, transformers.ASTConfig):
        assert architecture(config()) == "encoder"
    assert architecture(transformers.WhisperConfig()) == "encoder-decoder"
    with pytest.raises(ModelError, match="'decision_transformer'"):
        architecture(transformers.DecisionTransformerConfig())


# unknown names

STRANGE = ["", "a b!", "x" * 97, "x" * 300, "-x", "a\0b", "~/x", "some/model"]


@pytest.mark.parametrize("name", STRANGE)
@pytest.mark.parametrize("act", [load_model, load_tokenizer, prepare])
def test_an_unknown_name_lists_the_offline_names(act: Callable[[str], object], name: str) -> None:
    with pytest.raises(ModelError, match="offline") as raised:
        act(name)
    assert all(offline in str(raised.value) for offline in offline_names())


@pytest.mark.parametrize(("name", "near"), [("tiny-brt", "tiny-bert"), ("smolm2", "smollm2"), ("gtp2", "gpt2")])
def test_a_misspelt_name_suggests_the_nearest(name: str, near: str) -> None:
    with pytest.raises(ModelError, match=rf"{name} .*{near}.*: "):
        load(name)


def test_a_zoo_name_on_the_hub_names_its_repository() -> None:
    with pytest.raises(ModelError, match=r"bart .*facebook/bart-base.*offline"):
        load("bart")


@pytest.mark.parametrize("name", ["a/b/c", "./nothing", "/nothing/there", "a//b"])
def test_a_missing_folder_is_named(name: str) -> None:
    with pytest.raises(ModelError, match=f"^{name}: "):
        load(name)


def test_a_file_is_not_a_model(tmp_path: Path) -> None:
    (tmp_path / "model.bin").write_text("")
    with pytest.raises(ModelError, match=r"model.bin"):
        load(str(tmp_path / "model.bin"))


@pytest.mark.parametrize("act", [load_model, prepare])
def test_a_folder_without_a_model_is_refused(tmp_path: Path, act: Callable[[str], object]) -> None:
    with pytest.raises(ModelError, match=r"config.json"):
        act(str(tmp_path))


# broken checkpoints


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("{", "JSON"),
        ("", "JSON"),
        ("{}", "model_type"),
        ("[]", "model_type"),
        ('{"model_type": "nonsense"}', "nonsense"),
        ('{"model_type": "bert", "num_hidden_layers": "four"}', "num_hidden_layers"),
        ('{"model_type": "bert", "num_attention_heads": 7}', "attention heads"),
    ],
)
def test_a_damaged_configuration_is_named(broken: Path, text: str, named: str, head: Head | None) -> None:
    (broken / "config.json").write_text(text)
    with pytest.raises(ModelError, match=f"broken: (?s:.*){named}") as raised:
        load_model(str(broken), head)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("size", [0, 4, 200, 100_000, -1])
def test_a_truncated_weight_file_is_named(broken: Path, size: int, head: Head | None) -> None:
    path = broken / "model.safetensors"
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(ModelError, match=r"broken: .*safetensors"):
        load_model(str(broken), head)


@pytest.mark.parametrize("content", [None, b"", b"hello", b"PK\x03\x04"])
def test_other_weight_files_are_refused_in_one_sentence(broken: Path, content: bytes | None) -> None:
    (broken / "model.safetensors").unlink()
    if content is not None:
        (broken / "pytorch_model.bin").write_bytes(content)
    with pytest.raises(ModelError, match="broken: ") as raised:
        load_model(str(broken))
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("tokenizer.json", "{"),
        ("tokenizer.json", "{}"),
        ("tokenizer.json", "[]"),
        ("tokenizer_config.json", "{"),
        ("tokenizer.json", '{"version": "1.0", "added_tokens": [], "model": {"type": "Nonsense"}}'),
    ],
)
def test_a_damaged_tokenizer_is_named(broken: Path, file: str, text: str) -> None:
    (broken / file).write_text(text)
    with pytest.raises(ModelError, match="broken: ") as raised:
        load_tokenizer(str(broken))
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("name", ["bert", "roberta", "albert", "gpt2", "gpt-neox", "llama", "bart", "t5"])
def test_a_missing_tokenizer_is_refused(tmp_path: Path, name: str) -> None:
    save(ARCHITECTURES[name].build(), None, tmp_path / "out")
    assert not has_tokenizer(str(tmp_path / "out"))
    with pytest.raises(ModelError, match=r"out: "):
        load_tokenizer(str(tmp_path / "out"))
    (tmp_path / "out" / "tokenizer_config.json").write_text("{}")
    with pytest.raises(ModelError, match=r"out: "):
        load_tokenizer(str(tmp_path / "out"))


def test_a_tokenizer_with_only_a_vocabulary_file_is_found(tmp_path: Path) -> None:
    save(ARCHITECTURES["bert"].build(), None, tmp_path / "out")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "old", "##er"]
    (tmp_path / "out" / "vocab.txt").write_text("\n".join(words) + "\n")
    assert has_tokenizer(str(tmp_path / "out"))
    assert load_tokenizer(str(tmp_path / "out"))("older")["input_ids"] == [2, 5, 6, 3]
    assert has_tokenizer("tiny-bert")


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("name", ["bert", "gpt2", "bart", "t5", "llama", "distilbert"])
def test_a_missing_tensor_of_the_body_is_named(tmp_path: Path, name: str, head: Head | None) -> None:
    kind = ARCHITECTURES[name]
    save(kind.build(), None, tmp_path / "out")
    lost = f"{min(kind.weights)}.weight"
    edit_tensors(tmp_path / "out", lambda tensors: tensors.pop(lost))
    with pytest.raises(ModelError, match=f" 1 .*(transformer.)?{lost}"):
        load_model(str(tmp_path / "out"), head)


def test_a_new_head_beside_a_body_that_is_no_module_of_its_own(tmp_path: Path) -> None:
    save(ARCHITECTURES["t5"].build(), None, tmp_path / "out")
    head = Head("question-answering")
    assert head_kind(load_model(tmp_path / "out", head)) == "question-answering"
    edit_tensors(tmp_path / "out", lambda tensors: tensors.pop("shared.weight"))
    with pytest.raises(ModelError, match=r" lacks 3 .*decoder\.embed_tokens\.weight"):
        load_model(tmp_path / "out", head)


@pytest.mark.parametrize(
    ("name", "head"), [("bert", "cls.predictions.transform.dense.weight"), ("distilbert", "vocab_transform.weight")]
)
def test_a_missing_head_is_an_error_only_without_a_requested_head(tmp_path: Path, name: str, head: str) -> None:
    save(ARCHITECTURES[name].build(), None, tmp_path / "out")
    edit_tensors(tmp_path / "out", lambda tensors: tensors.pop(head))
    with pytest.raises(ModelError, match=f" 1 .*{head}"):
        load_model(str(tmp_path / "out"))
    load_model(str(tmp_path / "out"), WORDS)
    load_model(str(tmp_path / "out"), MOODS)


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("change", [{"intermediate_size": 48}, {"vocab_size": 9000}, {"max_position_embeddings": 32}])
def test_a_checkpoint_of_other_shapes_is_refused(broken: Path, change: dict[str, int], head: Head | None) -> None:
    configure(broken, **change)
    ((_, size),) = change.items()
    with pytest.raises(ModelError, match=rf"config.json: bert\.\S+ .*{size}") as raised:
        load_model(str(broken), head)
    assert "report" not in str(raised.value)


@pytest.mark.parametrize("classes", [None, [], ["Trainer"], ["NoSuchModel"], [3]])
def test_an_unknown_class_falls_back_to_the_bare_body(tmp_path: Path, classes: Any) -> None:
    torch.manual_seed(0)
    save(transformers.BertModel(transformers.BertConfig(**BERT_LIKE)), None, tmp_path / "out")
    configure(tmp_path / "out", architectures=classes)
    assert type(load_model(str(tmp_path / "out"))) is transformers.BertModel


def test_remote_code_is_not_run(broken: Path) -> None:
    trap = broken / "trap.py"
    trap.write_text("raise SystemExit('code of a model was run')")
    configure(broken, auto_map={"AutoConfig": "trap.Config", "AutoModel": "trap.Model"}, model_type="trapped")
    with pytest.raises(ModelError, match="broken: "):
        load_model(str(broken))
    configure(broken, model_type="bert")
    load_model(str(broken))


def test_types_without_a_classifier_are_named(tmp_path: Path) -> None:
    config = transformers.MambaConfig(vocab_size=50, hidden_size=16, num_hidden_layers=1, state_size=4)
    save(transformers.MambaForCausalLM(config), None, tmp_path / "out")
    with pytest.raises(ModelError, match="'mamba'"):
        load_model(str(tmp_path / "out"), MOODS)


# saving


def test_saving_does_not_touch_an_existing_folder(tmp_path: Path) -> None:
    model = ARCHITECTURES["bert"].build()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "kept").write_text("kept")
    with pytest.raises(AerogelError, match="out "):
        save(model, None, tmp_path / "out")
    assert [path.name for path in tmp_path.rglob("*")] == ["out", "kept"]


def test_saving_below_a_file_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("a file")
    with pytest.raises(AerogelError, match=r"out: .*(Not a directory|File exists)"):
        save(ARCHITECTURES["bert"].build(), None, tmp_path / "file" / "out")
    assert [path.name for path in tmp_path.rglob("*")] == ["file"]


def test_a_failed_save_leaves_nothing(tmp_path: Path) -> None:
    model, tokenizer = load("tiny-gpt2")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))  # like a disk that becomes full
    try:
        with pytest.raises(AerogelError, match=r"out: .*File too large"):
            save(model, tokenizer, tmp_path / "out")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not list(tmp_path.iterdir())
    save(model, tokenizer, tmp_path / "out")
