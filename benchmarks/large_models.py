"""Prune a model of three billion parameters in a process that may use 3 GB, and compare smaller ones to the bit.

The models have the Llama architecture and random weights in bfloat16, written one shard after the other. The limit is
that of `ulimit -d`. Peak memory is the resident set of the process, disk what it adds at most: the output, and the
inputs of the blocks on the calibration text. `--same` also prunes the model without a limit and compares all tensors.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path
from threading import Event, Thread

import click
import torch
from harness import say, surroundings, write
from paused import Facts
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from aerogel.models.location import local_folder

SHARED = {"max_position_embeddings": 512, "vocab_size": 128_256, "dtype": "bfloat16"}
SHAPES = {
    # as wide as Llama 3.2 3B
    "wide": LlamaConfig(
        hidden_size=3072,
        intermediate_size=8192,
        num_hidden_layers=28,
        num_attention_heads=24,
        num_key_value_heads=8,
        tie_word_embeddings=True,
        **SHARED,
    ),
    # narrow, since the time of admm grows with the width
    "deep": LlamaConfig(
        hidden_size=1024,
        intermediate_size=2816,
        num_hidden_layers=243,
        num_attention_heads=16,
        num_key_value_heads=4,
        **SHARED,
    ),
}


@click.command(help=__doc__.partition("\n")[0])
@click.argument("model")
@click.option("--method", "methods", multiple=True, default=["sparsegpt", "admm"], show_default=True)
@click.option("--blocks", type=click.IntRange(1), help="Blocks of a random model, instead of all.")
@click.option("--limit", default=3.0, show_default=True, help="GB of memory that the process may use.")
@click.option("--same", is_flag=True, help="Compare with an unlimited run.")
@click.option("--calibration", default="python-reference", show_default=True)
@click.option("--threads", default=2, show_default=True)
@click.option("--folder", type=click.Path(path_type=Path), default=Path("runs/large"), show_default=True)
def main(
    model: str,
    methods: tuple[str, ...],
    blocks: int | None,
    limit: float,
    same: bool,
    calibration: str,
    threads: int,
    folder: Path,
) -> None:
    name = f"{model}-{blocks}" if blocks else model
    source = str(random_model(folder / name, SHAPES[model], blocks)) if model in SHAPES else model
    runs = {}
    for method in methods:
        output = folder / f"{name}-{method}"
        runs[method] = pruned(source, output, method, calibration, threads, int(limit * 1e9))
        say(f"{name}, {method}: {json.dumps(runs[method])}")
        if same:
            unlimited = output.with_name(f"{output.name}-unlimited")
            runs[method]["unlimited"] = pruned(source, unlimited, method, calibration, threads, None)
            runs[method]["same bits"] = same_bits(output, unlimited)
            say(f"the same bits as without a limit: {runs[method]['same bits']}")
    write(surroundings(threads) | {"model": name, "limit": limit, "runs": runs}, folder / f"{name}.json")


def random_model(folder: Path, config: LlamaConfig, blocks: int | None) -> Path:
    """Write the model, a shard for each block, unless it exists."""
    if folder.exists():
        return folder
    config.num_hidden_layers = blocks or config.num_hidden_layers
    with torch.device("meta"):
        shapes = {key: tensor.shape for key, tensor in LlamaForCausalLM(config).state_dict().items()}
    if config.tie_word_embeddings:
        del shapes["lm_head.weight"]
    shards: dict[str, list[str]] = {}
    for key in shapes:
        parts = key.split(".")
        shards.setdefault(f"layer-{parts[2]}" if parts[1] == "layers" else "others", []).append(key)
    new = folder.with_name(f"{folder.name}.new")
    shutil.rmtree(new, ignore_errors=True)
    AutoTokenizer.from_pretrained(local_folder("smollm2")).save_pretrained(new)
    config.architectures = ["LlamaForCausalLM"]
    config.save_pretrained(new)
    generator = torch.Generator().manual_seed(0)
    for shard, keys in shards.items():
        tensors = {key: random_tensor(key, shapes[key], generator) for key in keys}
        save_file(tensors, new / f"{shard}.safetensors", metadata={"format": "pt"})
    files = {key: f"{shard}.safetensors" for shard, keys in shards.items() for key in keys}
    size = 2 * sum(shape.numel() for shape in shapes.values())
    index = {"metadata": {"total_size": size}, "weight_map": files}
    (new / "model.safetensors.index.json").write_text(json.dumps(index))
    new.rename(folder)
    say(f"wrote {folder}, {size / 2e9:.2f} billion parameters")
    return folder


def random_tensor(key: str, shape: torch.Size, generator: torch.Generator) -> torch.Tensor:
    if len(shape) == 1:  # of a norm
        return torch.ones(shape, dtype=torch.bfloat16)
    return (0.02 * torch.randn(shape, generator=generator)).bfloat16()


def pruned(source: str, output: Path, method: str, calibration: str, threads: int, limit: int | None) -> Facts:
    """Run `aerogel prune` and watch it: seconds, peak memory and peak disk."""
    shutil.rmtree(output, ignore_errors=True)
    options = ["--sparsity", "0.5", "--method", method, "--samples", "16", "--calibration", calibration]
    command = [str(Path(sys.prefix, "bin", "aerogel")), "prune", source, "--output", str(output), *options]
    before, most, ended = used(output.parent), 0, Event()

    def watch() -> None:
        nonlocal most
        running = True
        while running:
            running = not ended.wait(2)
            most = max(most, used(output.parent) - before)

    watching = Thread(target=watch)
    watching.start()
    start = time.perf_counter()
    process = subprocess.Popen(
        command,
        env=os.environ | {"OMP_NUM_THREADS": str(threads)},
        preexec_fn=None if limit is None else lambda: resource.setrlimit(resource.RLIMIT_DATA, (limit, limit)),
    )
    _, status, usage = os.wait4(process.pid, 0)
    ended.set()
    watching.join()
    if status:
        raise SystemExit(f"aerogel prune failed: {status}")
    return {
        "seconds": time.perf_counter() - start,
        "cpu_seconds": usage.ru_utime + usage.ru_stime,
        "peak_bytes": 1024 * usage.ru_maxrss,
        "disk_bytes": most,
        "output_bytes": used(output),
    }


def used(folder: Path) -> int:
    """The bytes of the files in a folder."""
    total = 0
    for file in folder.rglob("*"):
        try:
            total += file.stat().st_size * file.is_file()
        except FileNotFoundError:  # renamed or removed meanwhile
            continue
    return total


def same_bits(*folders: Path) -> bool:
    """Whether two folders have the same tensors, in whatever files."""
    first, second = (tensors_of(folder) for folder in folders)
    return first.keys() == second.keys() and all(
        first[key].dtype == second[key].dtype and torch.equal(first[key], second[key]) for key in first
    )


def tensors_of(folder: Path) -> dict[str, torch.Tensor]:
    return {key: tensor for file in folder.glob("*.safetensors") for key, tensor in load_file(file).items()}


if __name__ == "__main__":
    main()
