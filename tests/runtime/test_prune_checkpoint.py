"""Pruning from files gives the bits of pruning in memory, resumes, and refuses what it can't do."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import Tensor

from aerogel import progress
from aerogel.errors import AerogelError, ModelError, PruningError
from aerogel.files import unfinished_folder
from aerogel.models import Provenance, load_model
from aerogel.pruning import PruneConfig, prune
from aerogel.runtime.prune_checkpoint import SWAP_MATRICES, WORK_HESSIANS, WORK_MATRICES, prune_checkpoint
from aerogel.runtime.writing import pack, save_pruned
from tiny import tiny_config, tiny_model

LAYERS = 3


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_model(tmp_path / "source", transformers.LlamaForCausalLM)


def write_model(folder: Path, kind: Any, dtype: torch.dtype = torch.bfloat16, **changes: Any) -> Path:
    """A tiny random model in several shards."""
    model = tiny_model(kind, tiny_config(kind.config_class, **changes))
    model.to(dtype).save_pretrained(folder, max_shard_size="30KB")
    return folder


def text() -> list[dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(0)
    rows = [torch.randint(3, 200, (2, 24), generator=generator) for _ in range(3)]
    return [{"input_ids": ids, "attention_mask": torch.ones_like(ids)} for ids in rows]


def tensors(folder: Path) -> dict[str, Tensor]:
    return {name: tensor for file in folder.glob("*.safetensors") for name, tensor in load_file(file).items()}


def in_memory(source: Path, output: Path, config: PruneConfig, **options: Any) -> dict[str, Tensor]:
    model = load_model(source)
    prune(model, config, text() if config.needs_calibration or config.values else None)
    options = {"pack": True} | options
    choice = {"targets": config.targets, "exclude": config.exclude}
    save_pruned(model, None, output, str(source), Provenance(method=config.method), **options, **choice)
    return tensors(output)


def check_equal(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    different = [name for name in found if not torch.equal(found[name], expected[name])]
    types = [name for name in found if found[name].dtype != expected[name].dtype]
    assert not different + types


@pytest.mark.parametrize(
    ("settings", "options"),
    [
        ({"method": "magnitude"}, {}),
        ({"method": "magnitude", "targets": ("blocks", "embeddings", "heads"), "exclude": ("*.0.*",)}, {"pack": False}),
        ({"method": "random", "pattern": "2:4", "sparsity": None}, {"values": "bfloat16"}),
        ({"method": "wanda"}, {"pack": False}),
        ({"method": "sparsegpt"}, {}),
        ({"method": "admm"}, {}),
        ({"method": "wanda", "swap": True, "reconstruct": 1}, {}),
        ({"method": "sparsegpt", "values": "int8"}, {"values": "int8", "head_values": "int8"}),
        ({"method": "magnitude", "values": "int8", "pattern": "block:1x4"}, {"values": "int8"}),
    ],
    ids=lambda value: " ".join(map(str, value.values())),
)
def test_the_bits_are_those_of_pruning_in_memory(
    source: Path, tmp_path: Path, settings: dict[str, Any], options: dict[str, Any]
) -> None:
    config = PruneConfig(**{"sparsity": 0.5} | settings)
    expected = in_memory(source, tmp_path / "memory", config, **options)
    saved = prune_checkpoint(source, tmp_path / "files", config, text(), **options)
    check_equal(tensors(tmp_path / "files"), expected)
    configurations = [json.loads((tmp_path / name / "config.json").read_text()) for name in ("memory", "files")]
    assert configurations[0] == configurations[1]
    models = [load_model(tmp_path / name) for name in ("memory", "files")]
    logits = [model(text()[0]["input_ids"]).logits for model in models]
    assert torch.equal(*logits)
    assert saved.zeros.prunable == sum(mask.numel() for mask in _zeros(models[0], config))
    assert saved.is_packed == (options.get("pack", True))
    assert not unfinished_folder(tmp_path / "files").exists()


@pytest.mark.parametrize("values", [None, "int8"])
def test_without_pruning_the_zeros_are_packed_that_there_are(source: Path, tmp_path: Path, values: Any) -> None:
    in_memory(source, tmp_path / "zeros", PruneConfig("magnitude", sparsity=0.8), pack=False)
    pack(str(tmp_path / "zeros"), tmp_path / "memory", values)
    saved = prune_checkpoint(
        tmp_path / "zeros", tmp_path / "files", PruneConfig("magnitude", sparsity=0.0), values=values
    )
    assert saved.is_packed
    check_equal(tensors(tmp_path / "files"), tensors(tmp_path / "memory"))


def _zeros(model: Any, config: PruneConfig) -> list[Tensor]:
    from aerogel.models import prunable_weights

    return [weight.zeros for weight in prunable_weights(model, config.targets, config.exclude, to_read=True)]


@pytest.mark.parametrize(
    ("kind", "method"),
    [
        (transformers.BertForMaskedLM, "sparsegpt"),
        (transformers.GPT2LMHeadModel, "wanda"),
        (transformers.LlamaForSequenceClassification, "wanda"),
        (transformers.T5ForConditionalGeneration, "magnitude"),
    ],
)
def test_other_families(tmp_path: Path, kind: Any, method: str) -> None:
    source = write_model(tmp_path / "source", kind, torch.float32, pad_token_id=0)
    config = PruneConfig(method, sparsity=0.5)
    expected = in_memory(source, tmp_path / "memory", config)
    prune_checkpoint(source, tmp_path / "files", config, text())
    check_equal(tensors(tmp_path / "files"), expected)


class Stop(BaseException):
    pass


def interrupt(block: int, visited: list[str]) -> progress.Listener:
    def listen(doing: str, done: int, total: int) -> None:
        visited.append(doing)
        if doing.endswith(f"layers.{block}") and done == block:
            raise Stop

    return listen


@pytest.mark.parametrize("values", [None, "int8"])
@pytest.mark.parametrize("block", [0, 1, 2])
def test_it_resumes_at_the_block_it_was_in(tmp_path: Path, block: int, values: Any) -> None:
    source = write_model(tmp_path / "deep", transformers.LlamaForCausalLM, num_hidden_layers=LAYERS)
    config = PruneConfig("sparsegpt", sparsity=0.5, values=values)
    prune_checkpoint(source, tmp_path / "whole", config, text(), values=values)
    visited: list[str] = []
    with pytest.raises(Stop), progress.listening(interrupt(block, visited)):
        prune_checkpoint(source, tmp_path / "output", config, text(), values=values)
    assert not (tmp_path / "output").exists()
    with progress.listening(lambda doing, done, total: visited.append(doing)):
        visited.clear()
        prune_checkpoint(source, tmp_path / "output", config, text(), values=values)
    blocks = [doing for doing in visited if "layers." in doing]
    assert blocks[0].endswith(f"layers.{block}")
    check_equal(tensors(tmp_path / "output"), tensors(tmp_path / "whole"))


def test_it_resumes_after_it_was_killed(source: Path, tmp_path: Path) -> None:
    config = PruneConfig("admm", sparsity=0.5)
    prune_checkpoint(source, tmp_path / "whole", config, text())
    process = os.fork()
    if process == 0:  # pragma: no cover

        def listen(doing: str, done: int, total: int) -> None:
            if done == 1 and doing.endswith("layers.1"):
                os.kill(os.getpid(), signal.SIGKILL)

        with progress.listening(listen):
            prune_checkpoint(source, tmp_path / "output", config, text())
        os._exit(0)
    _, status = os.waitpid(process, 0)
    assert os.WTERMSIG(status) == signal.SIGKILL
    assert list(unfinished_folder(tmp_path / "output").rglob("model-00001-*.safetensors"))
    prune_checkpoint(source, tmp_path / "output", config, text())
    check_equal(tensors(tmp_path / "output"), tensors(tmp_path / "whole"))


def test_a_full_disk_is_an_error_and_it_resumes(source: Path, tmp_path: Path) -> None:
    config = PruneConfig("wanda", sparsity=0.5)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))  # like a disk that becomes full
    try:
        with pytest.raises(AerogelError, match="output"):
            prune_checkpoint(source, tmp_path / "output", config, text())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not (tmp_path / "output").exists()
    prune_checkpoint(source, tmp_path / "output", config, text())
    prune_checkpoint(source, tmp_path / "whole", config, text())
    check_equal(tensors(tmp_path / "output"), tensors(tmp_path / "whole"))


@pytest.mark.parametrize("damage", ["missing", "truncated"])
def test_a_shard_that_is_not_whole_is_named(source: Path, tmp_path: Path, damage: str) -> None:
    shard = sorted(source.glob("*.safetensors"))[1]
    if damage == "missing":
        shard.unlink()
    else:
        os.truncate(shard, shard.stat().st_size - 100)
    with pytest.raises(ModelError, match=shard.name):
        prune_checkpoint(source, tmp_path / "output", PruneConfig(sparsity=0.5))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["source"]


@pytest.mark.parametrize("damage", ["lacks", "shape"])
def test_tensors_that_are_not_those_of_the_model_are_named(source: Path, tmp_path: Path, damage: str) -> None:
    name, all_tensors = "model.layers.1.mlp.up_proj.weight", tensors(source)
    for file in source.glob("*.safetensors*"):
        file.unlink()
    if damage == "lacks":
        del all_tensors[name]
    else:
        all_tensors[name] = all_tensors[name][:, 1:].contiguous()
    save_file(all_tensors, source / "model.safetensors", {"format": "pt"})
    with pytest.raises(ModelError, match=name):
        prune_checkpoint(source, tmp_path / "output", PruneConfig(sparsity=0.5))


def test_infinite_weights_are_named(source: Path, tmp_path: Path) -> None:
    all_tensors = tensors(source)
    for file in source.glob("*.safetensors*"):
        file.unlink()
    all_tensors["model.layers.1.mlp.up_proj.weight"][0, 0] = torch.inf
    save_file(all_tensors, source / "model.safetensors", {"format": "pt"})
    with pytest.raises(PruningError, match=r"layers\.1\.mlp\.up_proj"):
        prune_checkpoint(source, tmp_path / "output", PruneConfig(sparsity=0.5))


def test_unfinished_work_with_other_settings_is_kept(source: Path, tmp_path: Path) -> None:
    config = PruneConfig("wanda", sparsity=0.5)
    with pytest.raises(Stop), progress.listening(interrupt(1, [])):
        prune_checkpoint(source, tmp_path / "output", config, text())
    with pytest.raises(AerogelError, match=str(unfinished_folder(tmp_path / "output"))):
        prune_checkpoint(source, tmp_path / "output", PruneConfig("wanda", sparsity=0.6), text())
    prune_checkpoint(source, tmp_path / "output", config, text())


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"allocation": "owl"}, "owl"),
        ({"scope": "global"}, "global"),
        ({"method": "best"}, "best"),
        ({"values": "int8", "targets": ("blocks", "embeddings")}, "int8"),
    ],
)
def test_what_needs_the_whole_model_is_refused(tmp_path: Path, settings: dict[str, Any], named: str) -> None:
    with pytest.raises(PruningError, match=named):
        prune_checkpoint("tiny-gpt2", tmp_path / "output", PruneConfig(**{"sparsity": 0.5} | settings), text())


def test_models_that_cannot_be_read_by_blocks_are_refused(tmp_path: Path) -> None:
    write_model(tmp_path / "t5", transformers.T5ForConditionalGeneration)
    with pytest.raises(ModelError, match="T5"):
        prune_checkpoint(tmp_path / "t5", tmp_path / "output", PruneConfig("wanda", sparsity=0.5), text())
    prune_checkpoint("tiny-gpt2", tmp_path / "packed", PruneConfig(sparsity=0.9))
    with pytest.raises(ModelError, match="packed"):
        prune_checkpoint(tmp_path / "packed", tmp_path / "output", PruneConfig(sparsity=0.95))


def large_model(folder: Path) -> Path:
    """270 MB in float32, written quickly: its blocks have the same weights."""
    config = tiny_config(
        transformers.LlamaConfig,
        hidden_size=512,
        intermediate_size=2048,
        num_hidden_layers=16,
        head_dim=128,
    )
    config.architectures = ["LlamaForCausalLM"]
    config.save_pretrained(folder)
    with torch.device("meta"):
        shapes = {name: tensor.shape for name, tensor in transformers.LlamaForCausalLM(config).state_dict().items()}
    generator = torch.Generator().manual_seed(0)
    values: dict[torch.Size, Tensor] = {}
    for shape in shapes.values():
        values[shape] = torch.empty(shape, dtype=torch.bfloat16).uniform_(-0.05, 0.05, generator=generator)
    save_file({name: values[shape].clone() for name, shape in shapes.items()}, folder / "model.safetensors")
    return folder


LIMITED = """
import resource, sys
from pathlib import Path
import torch
from aerogel.memory import free_memory
from aerogel.pruning import PruneConfig
from aerogel.runtime.prune_checkpoint import SWAP_MATRICES, WORK_HESSIANS, WORK_MATRICES, prune_checkpoint
from aerogel.cli.prune import prune
import psutil

free = int(sys.argv[3])
used = psutil.Process().memory_info().data
resource.setrlimit(resource.RLIMIT_DATA, (used + free, used + free))
assert 0.9 * free < free_memory() <= free, free_memory()
prune.main([sys.argv[1], "--output", sys.argv[2], "--sparsity", "0.5", *sys.argv[4:]], standalone_mode=False)
"""


def test_a_model_larger_than_memory(tmp_path: Path) -> None:
    source = large_model(tmp_path / "source")

    def command(output: str, free: float, *options: str) -> subprocess.CompletedProcess[str]:
        arguments = [str(source), str(tmp_path / output), str(int(free)), *options]
        return subprocess.run([sys.executable, "-c", LIMITED, *arguments], capture_output=True, text=True)

    done = command("output", 2e8)
    assert done.returncode == 0, done.stderr
    assert "MB" in done.stderr
    assert len(list((tmp_path / "output").glob("*.safetensors"))) == 17
    refused = command("refused", 2e8, "--allocation", "owl")
    assert "owl" in refused.stderr
    assert "PruningError" in refused.stderr
    small = command("small", 2e7)
    assert "GB" in small.stderr
    assert "PruningError" in small.stderr
    assert not (tmp_path / "small").exists()


MEASURED = """
import sys
import psutil, torch
from aerogel.memory import return_freed_tensors
from aerogel.pruning.methods import admm, sparsegpt
from aerogel.pruning.pattern import Pattern
from aerogel.pruning.pruning_method import Statistics
from aerogel.pruning.swap import swap

def highest():
    return next(int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith("VmHWM"))

return_freed_tensors()
generator = torch.Generator().manual_seed(0)

def used(rows, columns):
    inputs, weight = (torch.randn(size, columns, generator=generator) for size in (512, rows))
    statistics = Statistics(generator, hessian=inputs.T @ inputs)
    before = psutil.Process().memory_info().rss - 4 * columns * (columns + rows)  # without the Hessian and the weights
    open("/proc/self/clear_refs", "w").write("5")  # highest() starts anew
    method = admm if sys.argv[1] == "admm" else sparsegpt
    mask, values = method.prune(weight, statistics, Pattern(), 0.5)
    if sys.argv[1] == "swap":
        swap(weight, values, mask, statistics.hessian, Pattern())
    return highest() - before

used(256, 256)  # loads libraries
print(used(int(sys.argv[2]), int(sys.argv[3])))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="measures memory as Linux reports it")
@pytest.mark.parametrize(("rows", "columns"), [(2048, 1024), (512, 2048)])
@pytest.mark.parametrize("method", ["admm", "sparsegpt", "swap"])
def test_methods_stay_within_the_estimate(method: str, rows: int, columns: int) -> None:
    command = [sys.executable, "-c", MEASURED, method, str(rows), str(columns)]
    used = int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    weights = 1 + (SWAP_MATRICES if method == "swap" else WORK_MATRICES)  # the block holds the first
    assert used < 4 * columns * (weights * rows + WORK_HESSIANS * columns) + 4e6
