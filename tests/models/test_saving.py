"""Saving keeps dtypes, the tokenizer, other files, settings and the model card."""

import json
import os
import shutil
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from huggingface_hub import metadata_load
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

import aerogel as ag
from aerogel.cli.main import run
from aerogel.models import Provenance, load, load_model, load_tokenizer, save, stored_dtypes
from aerogel.models.card import BEGIN
from aerogel.models.companions import LARGEST_FILE, companions
from builders import ARCHITECTURES, prose

TINY = "tiny-gpt2"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A small GPT-2 whose tokenizer pads on the left, without a padding token."""
    save(ARCHITECTURES["gpt2"].build(), load_tokenizer(TINY), tmp_path / "source")
    change(tmp_path / "source" / "tokenizer_config.json", lambda settings: settings.pop("pad_token"))
    change(tmp_path / "source" / "tokenizer_config.json", lambda settings: settings.update(padding_side="left"))
    return tmp_path / "source"


def change(path: Path, edit: Callable[[dict[str, Any]], object]) -> None:
    content = json.loads(path.read_text())
    edit(content)
    path.write_text(json.dumps(content))


def write(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(f"content of {name}")


def prune(source: Path, output: Path, *options: str) -> Path:
    assert run(["prune", str(source), "--sparsity", "0.8", "--output", str(output), *options]) == 0
    return output


def unpack(source: Path, output: Path) -> Path:
    assert run(["unpack", str(source), "--output", str(output)]) == 0
    return output


def contents(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def dtypes(folder: Path) -> set[torch.dtype]:
    return {tensor.dtype for tensor in load_file(folder / "model.safetensors").values()}


# dtypes


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_a_checkpoint_keeps_its_dtype(dtype: torch.dtype, tmp_path: Path) -> None:
    ARCHITECTURES["gpt2"].build().to(dtype).save_pretrained(tmp_path / "source")
    dense = prune(tmp_path / "source", tmp_path / "dense", "--no-pack")
    packed = prune(tmp_path / "source", tmp_path / "packed")
    unpacked = unpack(packed, tmp_path / "unpacked")
    name = str(dtype).removeprefix("torch.")
    assert dtypes(dense) == dtypes(unpacked) == {dtype}
    assert dtypes(packed) == {dtype, torch.uint8}
    assert {json.loads((at / "config.json").read_text())["dtype"] for at in (dense, packed, unpacked)} == {name}
    first, second = (load_file(at / "model.safetensors") for at in (dense, unpacked))
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert {tensor.dtype for tensor in load_model(str(packed)).parameters()} == {torch.float32}  # to compute


@pytest.mark.parametrize("named", [torch.float32, torch.bfloat16, None])
def test_the_dtype_is_that_of_the_tensors_not_of_the_configuration(named: torch.dtype | None, tmp_path: Path) -> None:
    """Norms in float32 stay in float32."""
    model = ARCHITECTURES["gpt2"].build()
    model.save_pretrained(tmp_path / "source")
    path = tmp_path / "source" / "model.safetensors"
    mixed = {key: value if "ln" in key else value.bfloat16() for key, value in load_file(path).items()}
    save_file(mixed, path, metadata={"format": "pt"})
    name = None if named is None else str(named).removeprefix("torch.")
    change(tmp_path / "source" / "config.json", lambda config: config.update(dtype=name))
    dense = prune(tmp_path / "source", tmp_path / "dense", "--no-pack")
    unpacked = unpack(prune(tmp_path / "source", tmp_path / "packed"), tmp_path / "unpacked")
    for folder in (dense, unpacked):
        tensors = load_file(folder / "model.safetensors")
        assert {key: value.dtype for key, value in tensors.items()} == {key: mixed[key].dtype for key in tensors}
        assert torch.equal(tensors["transformer.ln_f.weight"], mixed["transformer.ln_f.weight"])
    assert stored_dtypes(str(dense)).main == torch.bfloat16


def test_fine_tuning_keeps_the_dtype_and_the_tokenizer(source: Path, tmp_path: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(source).to(torch.bfloat16)
    model.save_pretrained(source)
    (tmp_path / "text.txt").write_text(prose(40))
    options = ["--task", str(tmp_path / "text.txt"), "--epochs", "1", "--max-length", "16", "--limit", "4"]
    assert run(["finetune", str(source), *options, "--output", str(tmp_path / "tuned")]) == 0
    assert dtypes(tmp_path / "tuned") == {torch.bfloat16}
    before, after = contents(source), contents(tmp_path / "tuned")
    assert {name for name in before if name.startswith("tokenizer")} <= after.keys()
    assert all(after[name] == before[name] for name in before if name.startswith("tokenizer"))
    header = metadata_load(tmp_path / "tuned" / "README.md")
    assert "perplexity" in header["aerogel"]["metrics"]


def test_a_model_with_sub_configurations_keeps_its_dtype(tmp_path: Path) -> None:
    text = dict(hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2)
    config = transformers.CLIPConfig(
        text_config=dict(text, vocab_size=100), vision_config=dict(text, image_size=32, patch_size=8), projection_dim=16
    )
    transformers.CLIPModel(config).to(torch.bfloat16).save_pretrained(tmp_path / "source")
    prune(tmp_path / "source", tmp_path / "out")
    saved = json.loads((tmp_path / "out" / "config.json").read_text())
    assert {saved["dtype"], saved["text_config"]["dtype"], saved["vision_config"]["dtype"]} == {"bfloat16"}


# tokenizers and settings


def test_the_tokenizer_is_copied_byte_for_byte(source: Path, tmp_path: Path) -> None:
    packed = prune(source, tmp_path / "packed")
    calibrated = prune(source, tmp_path / "wanda", "--method", "wanda", "--calibration", "python-reference")
    before = contents(source)
    for folder in (packed, unpack(packed, tmp_path / "unpacked"), calibrated):
        after = contents(folder)
        names = [name for name in before if name not in ("config.json", "model.safetensors", "README.md")]
        assert {"tokenizer.json", "tokenizer_config.json"} <= set(names)
        assert {name: after[name] for name in names} == {name: before[name] for name in names}


def test_without_a_source_the_tokenizer_keeps_its_original_padding(source: Path, tmp_path: Path) -> None:
    AutoTokenizer.from_pretrained(source).save_pretrained(tmp_path / "plain")
    model, tokenizer = load(str(source))
    tokenizer(["a", "b c d"], padding=True, truncation=True, max_length=2)
    assert (tokenizer.padding_side, tokenizer.pad_token) == ("right", tokenizer.eos_token)
    save(model, tokenizer, tmp_path / "out")
    for name, content in contents(tmp_path / "plain").items():
        assert (tmp_path / "out" / name).read_bytes() == content
    assert (tokenizer.padding_side, tokenizer.pad_token) == ("right", tokenizer.eos_token)


def test_changes_to_a_tokenizer_are_saved(source: Path, tmp_path: Path) -> None:
    model, tokenizer = load(str(source))
    tokenizer.add_tokens(["<new>"])
    tokenizer.pad_token = "<new>"
    save(model, tokenizer, tmp_path / "out")
    again = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert again.pad_token == "<new>"
    assert "<new>" in again.get_vocab()


def test_generation_settings_are_kept(source: Path, tmp_path: Path) -> None:
    settings = {"do_sample": True, "temperature": 0.7, "max_new_tokens": 5, "eos_token_id": [2, 5]}
    change(source / "generation_config.json", lambda content: content.update(settings))
    change(source / "config.json", lambda content: content.update(my_field={"a": [1]}, pad_token_id=None))
    before = contents(source)
    calibrated = prune(source, tmp_path / "a", "--method", "wanda", "--calibration", "python-reference")
    for folder in (calibrated, unpack(calibrated, tmp_path / "b")):
        assert (folder / "generation_config.json").read_bytes() == before["generation_config.json"]
        first, second = json.loads(before["config.json"]), json.loads((folder / "config.json").read_text())
        for name in ("quantization_config", "transformers_weights"):
            second.pop(name, None)
        assert second == first


# other files


def test_other_files_of_the_folder_are_copied(source: Path, tmp_path: Path) -> None:
    kept = [
        *("modules.json", "1_Pooling/config.json", "preprocessor_config.json", "chat_template.jinja", "LICENSE"),
        *("spiece.model", "merges.txt", "additional_chat_templates/tool.jinja", "modeling_own.py"),
    ]
    left = [
        *("pytorch_model.bin", "tf_model.h5", "onnx/model.onnx", "model.safetensors.index.json", "flax_model.msgpack"),
        *("optimizer.pt", "checkpoint-10/config.json", "checkpoint-10/x.txt", "trainer_state.json", "rng_state.pth"),
        *(".git/config", ".cache/x", "runs/events", "training_args.bin"),
    ]
    write(source, *kept, *left)
    copied = contents(prune(source, tmp_path / "out"))
    assert {name: copied.get(name, b"").decode() for name in kept} == {name: f"content of {name}" for name in kept}
    assert not set(left) & copied.keys()
    again = contents(unpack(tmp_path / "out", tmp_path / "unpacked"))
    assert set(kept) <= again.keys()


def test_modules_that_follow_the_model_keep_their_weights(source: Path, tmp_path: Path) -> None:
    write(source, "2_Dense/model.safetensors", "2_Dense/config.json", "other/model.safetensors")
    modules = [{"idx": 0, "path": ""}, {"idx": 1, "path": "2_Dense"}, {"path": 3}, "odd", {"path": "../elsewhere"}]
    (source / "modules.json").write_text(json.dumps(modules))
    assert {str(file) for file in companions(source).files} >= {"2_Dense/config.json", "2_Dense/model.safetensors"}
    assert not any("other" in str(file) or "elsewhere" in str(file) for file in companions(source).files)


def test_models_inside_the_folder_are_not_part_of_it(source: Path, tmp_path: Path) -> None:
    write(source, "notes/one.txt")
    prune(source, source / "pruned")
    assert (source / "pruned" / "notes" / "one.txt").exists()
    prune(source, source / "again")
    assert not (source / "again" / "pruned").exists()


def test_links_are_followed_only_within_the_folder(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path, "secret", "secrets/key")
    write(source, "inside.txt")
    (source / "linked.txt").symlink_to("inside.txt")
    (source / "out.txt").symlink_to(tmp_path / "secret")
    (source / "outside").symlink_to(tmp_path / "secrets")
    (source / "loop").symlink_to("loop")
    (source / "README.md").unlink(missing_ok=True)
    (source / "README.md").symlink_to(tmp_path / "secret")
    write(source, "odd/config.json")
    (source / "odd" / "config.json").write_text("[" * 100_000)
    os.mkfifo(source / "pipe")
    others = companions(source)
    assert {str(file) for file in others.left_out} == {"out.txt", "outside", "loop"}
    output = prune(source, tmp_path / "out")
    assert (output / "linked.txt").read_text() == "content of inside.txt"
    assert not (output / "linked.txt").is_symlink()
    assert not any((output / name).exists() for name in ("out.txt", "outside", "loop", "pipe"))
    assert "secret" not in (output / "README.md").read_text()
    assert "README.md" in capsys.readouterr().err


def test_links_into_the_hub_cache_are_followed(source: Path, tmp_path: Path) -> None:
    snapshot, blobs = tmp_path / "models--a--b" / "snapshots" / "1", tmp_path / "models--a--b" / "blobs"
    shutil.copytree(source, blobs)
    snapshot.mkdir(parents=True)
    for file in blobs.iterdir():
        (snapshot / file.name).symlink_to(f"../../blobs/{file.name}")
    assert {"tokenizer.json", "tokenizer_config.json"} <= {str(file) for file in companions(snapshot).files}
    assert not companions(snapshot).left_out


def test_files_that_are_too_large_are_left_out_and_returned(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with open(source / "dump.dat", "wb") as file:
        file.truncate(LARGEST_FILE + 1)
    prune(source, tmp_path / "out")
    assert not (tmp_path / "out" / "dump.dat").exists()
    assert "dump.dat" in capsys.readouterr().err


# the model card

README = """---
license: mit
model-index:
- name: x
  results: []
tags:
- mine
---

# My model

It was trained with care.
"""


def test_a_card_describes_the_changes(source: Path, tmp_path: Path) -> None:
    (source / "README.md").write_text(README)
    packed = prune(source, tmp_path / "packed", "--pattern", "2:4", "--method", "random", "--sparsity", "0.5")
    card, header = (packed / "README.md").read_text(), metadata_load(packed / "README.md")
    assert "# My model\n\nIt was trained with care.\n" in card
    assert header["license"] == "mit"
    assert header["model-index"] == [{"name": "x", "results": []}]
    assert header["tags"] == ["mine", "aerogel", "sparse"]
    assert header["aerogel"] == {"base": "source", "method": "random", "pattern": "2:4", "sparsity": 0.5}
    for fact in ("source", "random", "2:4", "50.00%", version("transformers"), version("torch"), "import aerogel"):
        assert fact in card.partition(BEGIN)[2]
    unpacked = unpack(packed, tmp_path / "unpacked")
    card = (unpacked / "README.md").read_text()
    assert card.count(BEGIN) == 1
    assert "import aerogel" not in card
    assert metadata_load(unpacked / "README.md") == header
    again = prune(unpacked, tmp_path / "again", "--sparsity", "0.9")
    card = (again / "README.md").read_text()
    assert card.count(BEGIN) == 1
    assert "It was trained with care." in card
    assert metadata_load(again / "README.md")["aerogel"]["method"] == "magnitude"
    assert metadata_load(again / "README.md")["aerogel"]["base"] == "source"


@pytest.mark.parametrize(
    "text",
    [
        "---\nlicense: [\n---\n# Broken header\n",
        "---\n- a list\n---\nText\n",
        "",
        "no header",
        "---\naerogel: {base: 3, metrics: [], sparsity: x}\ntags: one\n---\n",
        "\ufeff---\nlicense: mit\n---\r\nText\r\n",
    ],
)
def test_any_readme_is_kept(text: str, source: Path, tmp_path: Path) -> None:
    (source / "README.md").write_text(text, encoding="utf-8", newline="")
    card = (prune(source, tmp_path / "out") / "README.md").read_text(encoding="utf-8")
    assert card.count(BEGIN) == 1
    assert text.rpartition("---")[2].strip() in card


def test_a_readme_that_is_not_text_is_kept(source: Path, tmp_path: Path) -> None:
    (source / "README.md").write_bytes(b"caf\xe9\n")
    assert b"caf\xe9\n" in (prune(source, tmp_path / "out") / "README.md").read_bytes()


def test_the_base_of_a_card_is_the_hub_id(tmp_path: Path) -> None:
    model: PreTrainedModel = ARCHITECTURES["bert"].build()
    ag.prune(model, sparsity=0.5)
    provenance = Provenance(method="magnitude", sparsity=0.5, metrics={"accuracy": 0.75})
    save(model, None, tmp_path / "out", "someone/model", provenance)
    header = metadata_load(tmp_path / "out" / "README.md")
    assert (header["base_model"], header["library_name"]) == ("someone/model", "transformers")
    assert header["aerogel"]["metrics"] == {"accuracy": 0.75}
    assert "0.7500" in (tmp_path / "out" / "README.md").read_text()
