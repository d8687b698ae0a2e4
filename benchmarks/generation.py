"""Generation by PyTorch or aerogel with one checkpoint, in a process that `decoding.py` starts and measures."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from paused import Facts, serve
from runtimes import is_packed
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM

import aerogel as ag


def prepare(spec: Facts) -> tuple[Callable[[], Tensor], Callable[[Tensor], Facts]]:
    torch.set_num_threads(spec["threads"])
    model = AutoModelForCausalLM.from_pretrained(spec["path"])
    if spec["compressed"] and not is_packed(Path(spec["path"])):  # no layer has enough zeros, but blocks are fused
        ag.compress(model)
    prompt = torch.tensor([spec["prompt"]])
    # no end of sequence, so that every run generates as many tokens
    model.generation_config.eos_token_id, model.generation_config.pad_token_id = None, 0

    def run() -> Tensor:
        tokens: Tensor = model.generate(
            prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=spec["tokens"], do_sample=False
        )
        return tokens

    def examine(tokens: Tensor) -> Facts:
        perplexity = {"perplexity": _perplexity(model, spec["windows"])} if "windows" in spec else {}
        return {"tokens": tokens[0, prompt.shape[1] :].tolist(), **perplexity}

    return run, examine


@torch.inference_mode()
def _perplexity(model: Any, path: str) -> float:
    losses = []
    for window in torch.from_numpy(np.load(path)):
        logits = model(window[None], use_cache=False).logits[0, :-1]
        losses.append(cross_entropy(logits.double(), window[1:]).item())
    return math.exp(np.mean(losses))


if __name__ == "__main__":
    serve(prepare)
