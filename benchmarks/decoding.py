"""Generation by aerogel, PyTorch and llama.cpp: speed, size, memory and perplexity, of zeros and of fewer bits.

SmolLM2-135M (pretrained) and GPT-2 (random weights) generate 64 tokens after a prompt of 16, greedily, with batch size
1, and the first token after a prompt of 512. PyTorch and aerogel do so by `model.generate`. llama.cpp runs the dense
model in float32 and quantized by its own tool, aerogel the pruned one (`decoders.py`). Nothing was trained to recover
from pruning or quantization. The zoo's SmolLM2 was stored in 4 bits (Q4_1), so other 4-bit formats round it a second
time. Each runs in a fresh process, with interleaved rounds (`paused.py`).

Columns: `tokens/s` at the median time, including the prompt of 16; `/ F32` and `/ Q8_0`, how many times as fast as
llama.cpp with that file, the median of the ratios within a round; the same for the `prompt` of 512; `file`, the size of
the weights' files; `memory`, peak memory until the end of the first generation; `perplexity` on the validation split of
the Python reference; `same`, how many of the 64 tokens equal those of PyTorch in float32 with the same pruned weights,
or the dense ones, before the first that differs; `others`, the share of the machine that other processes used.
"""

from __future__ import annotations

import shutil
import statistics
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import click
import numpy as np
from decoders import DECODERS, FORMS, RANDOM
from harness import HERE, LLAMA_CPP, prepared, print_table, results, say, side_by_side, surroundings, write
from paused import Facts, ProcessError
from subjects import file_bytes

from aerogel.tasks.encode import WINDOW

PROMPT, TOKENS = 16, 64
QUANTIZATIONS = ("Q8_0", "Q4_0", "Q4_K_M")
REFERENCE = "torch float32"
PEERS = {"/ F32": "llama.cpp F32", "/ Q8_0": "llama.cpp Q8_0"}
COLUMNS = ("runtime", "tokens/s", *PEERS, "prompt", *PEERS, "file", "memory", "perplexity", "same", "others")


@dataclass(frozen=True)
class Variant:
    """A file or checkpoint to load, and the checkpoint of the same weights before compression or quantization."""

    path: Path
    original: Path
    sparsity: float = 0.0
    compressed: bool = False

    @property
    def command(self) -> list[str]:
        if self.path.suffix == ".gguf":
            return [str(LLAMA_CPP), str(HERE / "llama.py")]
        return [sys.executable, str(HERE / "generation.py")]


@click.command(help=__doc__.partition("\n")[0])
@click.option("--model", "models", multiple=True, type=click.Choice(list(DECODERS)), default=list(DECODERS))
@click.option("--sparsity", "sparsities", multiple=True, type=click.FloatRange(0, 1, max_open=True),
              default=[0.5, 0.8, 0.9], show_default=True)  # fmt: skip
@click.option("--pattern", "patterns", multiple=True, default=["unstructured"], show_default=True)
@click.option("--rounds", type=click.IntRange(1), default=7, show_default=True)
@click.option("--threads", type=click.IntRange(1), default=2, show_default=True)
@click.option("--written", "folder", type=click.Path(file_okay=False, path_type=Path), default=Path("runs/decoding"),
              help="Folder of the models to measure; those that exist are used as they are.")  # fmt: skip
@click.option("--output", type=click.Path(dir_okay=False, path_type=Path), default=Path("runs/decoding.json"))
def main(
    *,
    models: Sequence[str],
    sparsities: Sequence[float],
    patterns: Sequence[str],
    rounds: int,
    threads: int,
    folder: Path,
    output: Path,
) -> None:
    report: Facts = {"environment": surroundings(threads), "rounds": rounds, "groups": [], "failures": {}}
    for model in models:
        dense = written(folder / model / "dense", {"model": model, "threads": threads})
        variants = dense_variants(dense, threads)
        for sparsity in sorted(sparsities):
            for pattern in patterns:
                spec = {"model": model, "threads": threads, "dense": str(dense / "float32")}
                spec |= {"sparsity": sparsity, "pattern": pattern}
                try:
                    pruned = written(folder / model / f"{sparsity:g}-{pattern.replace(':', '-')}", spec)
                except ProcessError as error:
                    report["failures"][f"{model}, {sparsity:.0%} {pattern}"] = str(error)
                    say(f"{model} at {sparsity:.0%} {pattern} failed: {error}")
                    continue
                for form in FORMS:
                    name = f"aerogel {form}, " if pattern == "unstructured" else f"aerogel {form} {pattern}, "
                    variants[f"{name}{sparsity:.0%}"] = Variant(pruned / form, pruned / "dense", sparsity, True)
        facts = measured(model, variants, dense / "windows.npy", rounds, threads)
        report["groups"].append({"model": model, "runtimes": facts})
        write(report, output)
        title = f"{model}, pruned or quantized without recovery, {threads} threads"
        print_table(title, COLUMNS, rows(facts), facts)
        for sentence in equal_perplexities(facts):
            results.print(sentence, highlight=False)


def written(folder: Path, spec: Facts) -> Path:
    """The folder, written by `decoders.py` if it does not exist."""
    if not folder.exists():
        say(f"writing {folder}")
        partial = folder.with_name(f"{folder.name}.partial")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        prepared(spec | {"folder": str(partial)}, "decoders.py")
        partial.rename(folder)
    return folder


def dense_variants(dense: Path, threads: int) -> dict[str, Variant]:
    original = dense / "float32"
    variants = {REFERENCE: Variant(original, original), "torch bfloat16": Variant(dense / "bfloat16", original)}
    variants["llama.cpp F32"] = Variant(dense / "F32.gguf", original)
    for quantization in QUANTIZATIONS:
        path = dense / f"{quantization}.gguf"
        if LLAMA_CPP.exists() and not path.exists():
            spec = {"quantization": quantization, "source": str(dense / "F32.gguf"), "path": str(path)}
            prepared(spec | {"threads": threads}, "llama.py", LLAMA_CPP)
        variants[f"llama.cpp {quantization}"] = Variant(path, original)
    return variants


def measured(title: str, variants: dict[str, Variant], windows: Path, rounds: int, threads: int) -> dict[str, Facts]:
    """The facts of each variant: those of its generation and, as "prompt", of its long prompt; or why it failed."""
    window = np.load(windows)[0].tolist()
    short = {"prompt": window[:PROMPT], "tokens": TOKENS, "threads": threads}
    long = {"prompt": window, "tokens": 1, "threads": threads}
    scored = short if title in RANDOM else short | {"windows": str(windows)}

    def jobs(spec: Facts) -> dict[str, tuple[list[str], Facts]]:
        return {
            name: (variant.command, spec | {"path": str(variant.path), "compressed": variant.compressed})
            for name, variant in variants.items()
            if Path(variant.command[0]).exists()
        }

    expected = {
        original: prepared(short | {"path": str(original), "compressed": False}, "generation.py")["tokens"]
        for original in {variant.original: None for variant in variants.values()}
    }
    facts: dict[str, Facts] = {name: {"failed": "no environment: `make bench` creates it"} for name in variants}
    facts |= side_by_side(f"{title}, generation", jobs(scored), rounds, threads)
    for name, prompt in side_by_side(f"{title}, prompt", jobs(long), rounds, threads).items():
        if "failed" in prompt:
            facts[name] = prompt
        elif "failed" not in facts[name]:
            variant = variants[name]
            facts[name] |= {"prompt": prompt, "sparsity": variant.sparsity, "file_bytes": file_bytes(variant.path)}
            pairs = zip(facts[name]["tokens"], expected[variant.original], strict=True)
            facts[name]["same"] = next((index for index, (one, other) in enumerate(pairs) if one != other), TOKENS)
    return facts


def rows(facts: dict[str, Facts]) -> Iterator[tuple[str, ...]]:
    for name, row in facts.items():
        if "failed" not in row:
            generated, prompt = statistics.median(row["seconds"]), statistics.median(row["prompt"]["seconds"])
            yield (
                name,
                f"{TOKENS / generated:.1f}",
                *(ratio(facts.get(peer, {}), row) for peer in PEERS.values()),
                f"{WINDOW / prompt:.0f}",
                *(ratio(facts.get(peer, {}).get("prompt", {}), row["prompt"]) for peer in PEERS.values()),
                f"{row['file_bytes'] / 1e6:,.0f} MB",
                f"{row['peak_memory'] / 1e6:,.0f} MB",
                f"{row['perplexity']:.2f}" if "perplexity" in row else "",
                str(row["same"]),
                f"{max(row['others'], row['prompt']['others']):.0%}",
            )


def ratio(peer: Facts, row: Facts) -> str:
    if "seconds" not in peer:
        return ""
    return f"{statistics.median(a / b for a, b in zip(peer['seconds'], row['seconds'], strict=True)):.2f}"


def equal_perplexities(facts: dict[str, Facts]) -> Iterator[str]:
    """The measured sparsities between which a pruned model has the perplexity of a quantized one."""
    scored = {name: row for name, row in facts.items() if "perplexity" in row and "sparsity" in row}
    curves: dict[str, list[tuple[float, float]]] = {}
    for name, row in scored.items():
        if name.startswith("aerogel"):
            curves.setdefault(name.partition(",")[0], []).append((row["sparsity"], row["perplexity"]))
    for quantization in QUANTIZATIONS:
        peer = scored.get(f"llama.cpp {quantization}")
        if peer is None or REFERENCE not in scored:
            continue
        for name, curve in curves.items():
            for (fewer, below), (more, above) in pairwise([(0.0, scored[REFERENCE]["perplexity"]), *curve]):
                if below <= peer["perplexity"] < above:
                    zeros = f"between {fewer:.0%} and {more:.0%} zeros"
                    yield f"{name} has the perplexity of llama.cpp {quantization}, {peer['perplexity']:.2f}, {zeros}"


if __name__ == "__main__":
    main()
