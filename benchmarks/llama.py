"""Generation by llama.cpp with one GGUF file, in a process that `decoding.py` starts and measures.

Runs in the environment of llama-cpp-python. All settings but the number of threads are its defaults.
"""

# mypy: disable-error-code="import-untyped,import-not-found"

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import llama_cpp
import numpy as np
from paused import Facts, serve


def prepare(spec: Facts) -> tuple[Callable[[], Any], Callable[[Any], Facts]]:
    if "quantization" in spec:
        return lambda: _quantize(spec), lambda _: {}
    prompt, tokens = spec["prompt"], spec["tokens"]
    llama = _load(spec, len(prompt) + tokens)

    def run() -> list[int]:
        llama.reset()  # otherwise it would reuse the keys and values of the same prompt
        return list(islice(llama.generate(prompt, temp=0.0), tokens))

    def examine(generated: list[int]) -> Facts:
        perplexity = {"perplexity": _perplexity(spec)} if "windows" in spec else {}
        return {"tokens": generated, **perplexity}

    return run, examine


def _quantize(spec: Facts) -> None:
    """Write a file as llama.cpp's own tool does, from one in float32."""
    parameters = llama_cpp.llama_model_quantize_default_params()
    parameters.ftype = getattr(llama_cpp, f"LLAMA_FTYPE_MOSTLY_{spec['quantization']}")
    partial = f"{spec['path']}.partial"
    error = llama_cpp.llama_model_quantize(spec["source"].encode(), partial.encode(), parameters)
    if error:
        raise RuntimeError(f"llama.cpp could not quantize {spec['source']} to {spec['quantization']}: error {error}")
    Path(partial).rename(spec["path"])


def _load(spec: Facts, context: int, **options: Any) -> Any:
    threads = spec["threads"]
    return llama_cpp.Llama(
        spec["path"], n_ctx=context, n_threads=threads, n_threads_batch=threads, verbose=False, **options
    )


def _perplexity(spec: Facts) -> float:
    windows = np.load(spec["windows"])
    llama = _load(spec, windows.shape[1], logits_all=True)
    losses = []
    for window in windows:
        llama.reset()
        llama.eval(window.tolist())
        logits = llama.scores[: len(window) - 1].astype(np.float64)
        highest = logits.max(-1)
        normalizer = highest + np.log(np.exp(logits - highest[:, None]).sum(-1))
        losses.append(normalizer - logits[np.arange(len(logits)), window[1:]])
    return math.exp(np.concatenate(losses).mean())


if __name__ == "__main__":
    serve(prepare)
