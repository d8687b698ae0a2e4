"""aerogel prunes and quantizes transformers, restores their accuracy, and runs them faster on CPUs.

    import aerogel as ag

    model, tokenizer = ag.load("tiny-gpt2")
    text = ag.calibration("python-reference", tokenizer)
    ag.prune(model, method="best", sparsity=0.5, calibration=text)
    ag.compress(model).save_pretrained("sparse")

After `import aerogel`, `from_pretrained("sparse")` of transformers loads the result. The main functions, each with an
example in its help:

    load, load_task            a model with its tokenizer; the data of a task, or your own
    prune, compress            set weights to zero; pack the layers with zeros so that they run faster
    prune_structure            remove attention heads and neurons
    finetune                   train on a task, and prune while training
    evaluate, bench, inspect   measure the quality; the time and memory; the weights
"""

# Names are imported when they are first used, so that `import aerogel` is fast.

from importlib.metadata import version
from typing import Any

import lazy_loader

from aerogel.registration import register

register()
_import_name, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)


def __getattr__(name: str) -> Any:
    return version("aerogel") if name == "__version__" else _import_name(name)
