"""Generation with one model, in a process that `decoding.py` starts and measures."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import torch
from inputs import SEED
from paused import Facts, serve
from runtimes import is_packed
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel

import aerogel as ag

PROMPT, TOKENS = 16, 64


def prepare(spec: Facts) -> tuple[Callable[[], Tensor], Callable[[Tensor], Facts]]:
    torch.set_num_threads(spec["threads"])
    folder = Path(spec["folder"])
    compressed = spec["form"] == "compressed"
    packed = compressed and is_packed(folder / "packed")
    model = AutoModelForCausalLM.from_pretrained(folder / ("packed" if packed else "dense"))
    if compressed and not packed:
        ag.compress(model)
    prompt = torch.randint(10, model.config.vocab_size, (1, PROMPT), generator=torch.Generator().manual_seed(SEED))
    # no end of sequence, so that every run generates 64 tokens
    model.generation_config.eos_token_id, model.generation_config.pad_token_id = None, 0

    def run() -> Tensor:
        tokens: Tensor = model.generate(
            prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=TOKENS, do_sample=False, use_cache=True
        )
        return tokens

    return run, lambda tokens: {
        "tokens": tokens[0, PROMPT:].tolist(),
        "shares": _shares(model, run, spec["prunable"]),
    }


def _shares(model: PreTrainedModel, run: Callable[[], Any], linear: Collection[str]) -> dict[str, float]:
    """Shares of the time of the head, the blocks' linear layers, and attention without its linear layers, by hooks.

    They come from the fastest of three runs.
    """
    seconds: defaultdict[str, float] = defaultdict(float)
    running: list[list[float]] = []  # start time, and the seconds spent in measured modules inside

    def begin(*_: Any) -> None:
        running.append([time.perf_counter(), 0.0])

    def end(kind: str) -> None:
        started, inside = running.pop()
        whole = time.perf_counter() - started
        seconds[kind] += whole - inside
        if running:
            running[-1][1] += whole

    hooks = []
    for name, module in model.named_modules():
        kind = "head" if module is model.get_output_embeddings() else "linear" if name in linear else None
        if type(module).__name__.endswith("Attention"):
            kind = "attention"
        if kind:
            hooks.append(module.register_forward_pre_hook(begin))
            hooks.append(module.register_forward_hook(lambda *_, kind=kind: end(kind)))
    passes = []
    for _ in range(3):
        seconds.clear()
        started = time.perf_counter()
        run()
        whole = time.perf_counter() - started
        passes.append((whole, {kind: taken / whole for kind, taken in seconds.items()}))
    for hook in hooks:
        hook.remove()
    return min(passes, key=lambda one: one[0])[1]


if __name__ == "__main__":
    serve(prepare)
