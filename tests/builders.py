"""Small models, texts and files for several tests."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import torch
import transformers
from torch import Tensor
from transformers import (
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

import aerogel as ag
from aerogel.models import Head, load
from aerogel.runtime.kernel import native
from aerogel.tasks import Examples, Task, TaskData

if TYPE_CHECKING:  # drawing is slow to import
    from aerogel.report.findings import Cost

TOKENS: dict[str, Any] = dict(vocab_size=8000, bos_token_id=0, eos_token_id=2, pad_token_id=1)
BERT_LIKE: dict[str, Any] = dict(
    **TOKENS,
    hidden_size=32,
    num_hidden_layers=2,
    num_attention_heads=2,
    intermediate_size=64,
    max_position_embeddings=64,
)
BERT_KINDS = [
    "attention.self.query",
    "attention.self.key",
    "attention.self.value",
    "attention.output.dense",
    "intermediate.dense",
    "output.dense",
]
BART_KINDS = ["self_attn.k_proj", "self_attn.v_proj", "self_attn.q_proj", "self_attn.out_proj", "fc1", "fc2"]
BART_CROSS = [f"encoder_attn.{name}_proj" for name in ("k", "v", "q", "out")]
LLAMA_KINDS = [f"self_attn.{name}_proj" for name in "qkvo"] + [f"mlp.{name}_proj" for name in ("gate", "up", "down")]
T5_SELF = [f"layer.0.SelfAttention.{name}" for name in "qkvo"]


def _in_layers(kinds: list[str], *layers: str) -> set[str]:
    return {f"{layer}.{kind}" for layer in layers for kind in kinds}


@dataclass(frozen=True)
class Architecture:
    """A tiny random model of an architecture, and the names of the linear weights in its blocks."""

    language_class: type[PreTrainedModel]
    config: Callable[[], PretrainedConfig]
    weights: set[str]

    def build(self, seed: int = 0) -> PreTrainedModel:
        torch.manual_seed(seed)
        return self.language_class(self.config()).eval()


ARCHITECTURES = {
    "bert": Architecture(
        transformers.BertForMaskedLM,
        lambda: transformers.BertConfig(**BERT_LIKE),
        _in_layers(BERT_KINDS, "bert.encoder.layer.0", "bert.encoder.layer.1"),
    ),
    "roberta": Architecture(
        transformers.RobertaForMaskedLM,
        lambda: transformers.RobertaConfig(**BERT_LIKE | {"max_position_embeddings": 66}),
        _in_layers(BERT_KINDS, "roberta.encoder.layer.0", "roberta.encoder.layer.1"),
    ),
    "distilbert": Architecture(
        transformers.DistilBertForMaskedLM,
        lambda: transformers.DistilBertConfig(
            **TOKENS, dim=32, n_layers=2, n_heads=2, hidden_dim=64, max_position_embeddings=64
        ),
        _in_layers(
            [f"attention.{name}_lin" for name in ("q", "k", "v", "out")] + ["ffn.lin1", "ffn.lin2"],
            "distilbert.transformer.layer.0",
            "distilbert.transformer.layer.1",
        ),
    ),
    "electra": Architecture(
        transformers.ElectraForMaskedLM,
        lambda: transformers.ElectraConfig(**BERT_LIKE, embedding_size=16),
        _in_layers(BERT_KINDS, "electra.encoder.layer.0", "electra.encoder.layer.1"),
    ),
    "albert": Architecture(
        transformers.AlbertForMaskedLM,
        lambda: transformers.AlbertConfig(**BERT_LIKE | {"num_hidden_layers": 3}, embedding_size=16),
        _in_layers(
            [f"attention.{name}" for name in ("query", "key", "value", "dense")] + ["ffn", "ffn_output"],
            "albert.encoder.albert_layer_groups.0.albert_layers.0",
        ),
    ),
    "gpt2": Architecture(
        transformers.GPT2LMHeadModel,
        lambda: transformers.GPT2Config(**TOKENS, n_embd=32, n_layer=2, n_head=2, n_positions=64),
        _in_layers(["attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj"], "transformer.h.0", "transformer.h.1"),
    ),
    "opt": Architecture(
        transformers.OPTForCausalLM,
        lambda: transformers.OPTConfig(
            **TOKENS,
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            ffn_dim=64,
            max_position_embeddings=64,
            word_embed_proj_dim=16,
        ),
        _in_layers(BART_KINDS, "model.decoder.layers.0", "model.decoder.layers.1"),
    ),
    "gpt-neox": Architecture(
        transformers.GPTNeoXForCausalLM,
        lambda: transformers.GPTNeoXConfig(**BERT_LIKE),
        _in_layers(
            ["attention.query_key_value", "attention.dense", "mlp.dense_h_to_4h", "mlp.dense_4h_to_h"],
            "gpt_neox.layers.0",
            "gpt_neox.layers.1",
        ),
    ),
    "llama": Architecture(
        transformers.LlamaForCausalLM,
        lambda: transformers.LlamaConfig(**BERT_LIKE, num_key_value_heads=1),
        _in_layers(LLAMA_KINDS, "model.layers.0", "model.layers.1"),
    ),
    "bart": Architecture(
        transformers.BartForConditionalGeneration,
        lambda: transformers.BartConfig(
            **TOKENS,
            d_model=32,
            encoder_layers=2,
            decoder_layers=2,
            encoder_attention_heads=2,
            decoder_attention_heads=2,
            encoder_ffn_dim=64,
            decoder_ffn_dim=64,
            max_position_embeddings=64,
        ),
        _in_layers(BART_KINDS, "model.encoder.layers.0", "model.encoder.layers.1")
        | _in_layers(BART_KINDS + BART_CROSS, "model.decoder.layers.0", "model.decoder.layers.1"),
    ),
    "t5": Architecture(
        transformers.T5ForConditionalGeneration,
        lambda: transformers.T5Config(
            vocab_size=8000,
            pad_token_id=1,
            eos_token_id=2,
            decoder_start_token_id=1,
            d_model=32,
            d_kv=16,
            d_ff=64,
            num_layers=2,
            num_heads=2,
        ),
        _in_layers(
            [*T5_SELF, "layer.1.DenseReluDense.wi", "layer.1.DenseReluDense.wo"], "encoder.block.0", "encoder.block.1"
        )
        | _in_layers(
            [
                *T5_SELF,
                *(f"layer.1.EncDecAttention.{name}" for name in "qkvo"),
                "layer.2.DenseReluDense.wi",
                "layer.2.DenseReluDense.wo",
            ],
            "decoder.block.0",
            "decoder.block.1",
        ),
    ),
}

SMALL: dict[str, Any] = dict(
    hidden_size=96, num_hidden_layers=2, num_attention_heads=4, intermediate_size=200, vocab_size=100
)
WIDE: dict[str, Any] = dict(initializer_range=0.3)  # wide, so that rounding errors are small in comparison
SPECIAL: dict[str, Any] = dict(bos_token_id=1, eos_token_id=2, pad_token_id=0)
BART: dict[str, Any] = dict(
    d_model=96,
    encoder_layers=2,
    decoder_layers=2,
    encoder_attention_heads=4,
    decoder_attention_heads=4,
    encoder_ffn_dim=200,
    vocab_size=100,
    init_std=0.3,
)

WIDE_FAMILIES: dict[str, Callable[[], PreTrainedModel]] = {
    "bert": lambda: transformers.BertModel(transformers.BertConfig(**SMALL, **WIDE)),
    "roberta": lambda: transformers.RobertaModel(transformers.RobertaConfig(**SMALL, **WIDE)),
    "gpt2": lambda: transformers.GPT2LMHeadModel(
        transformers.GPT2Config(
            n_embd=96, n_layer=2, n_head=4, vocab_size=100, initializer_range=0.2, bos_token_id=1, eos_token_id=2
        )
    ),
    # more rows than a panel holds
    "bart": lambda: transformers.BartModel(transformers.BartConfig(**BART, decoder_ffn_dim=1700)),
    "llama": lambda: transformers.LlamaForCausalLM(
        transformers.LlamaConfig(num_key_value_heads=2, **SMALL, **WIDE, **SPECIAL)
    ),
    "opt": lambda: transformers.OPTForCausalLM(
        transformers.OPTConfig(
            hidden_size=96,
            num_hidden_layers=2,
            num_attention_heads=4,
            ffn_dim=200,
            vocab_size=100,
            word_embed_proj_dim=96,
        )
    ),
}


def pruned(family: str, sparsity: float = 0.7) -> PreTrainedModel:
    """A pruned random model of a family, with weights so wide that rounding errors are small in comparison."""
    torch.manual_seed(0)
    model: PreTrainedModel = WIDE_FAMILIES[family]().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:  # biases and norms that are not constant
                parameter += 0.1 * torch.randn_like(parameter)
    ag.prune(model, method="magnitude", sparsity=sparsity, scope="layer")
    return model


@contextmanager
def instruction_set(name: str) -> Iterator[None]:
    """Run the kernels of one instruction set inside the block."""
    module = native()
    assert module is not None
    before = module.instruction_set()
    assert module.use_instruction_set(name)
    try:
        yield
    finally:
        module.use_instruction_set(before)


NOUNS = ("boat", "garden", "kettle", "window", "letter", "horse", "lamp", "bridge")
GOOD, BAD = ("splendid", "cheerful", "lovely"), ("dreadful", "gloomy", "rotten")


def sentences(count: int, seed: int = 0) -> list[tuple[str, int]]:
    """Sentences of different lengths that are easy to classify: label 1 for positive ones, 0 for negative ones."""
    draw = random.Random(seed)
    rows = []
    for index in range(count):
        label = index % 2
        word = draw.choice(GOOD if label else BAD)
        opening = " ".join(draw.choice(("well", "so", "then", "indeed")) for _ in range(draw.randrange(4)))
        rows.append((f"{opening} the {draw.choice(NOUNS)} was {word}".strip(), label))
    return rows


def write_tsv(path: Path, rows: list[tuple[Any, ...]], header: tuple[str, ...] = ("sentence", "label")) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join("\t".join(map(str, row)) + "\n" for row in [header, *rows]), encoding="utf-8")
    return path


def one_block_bert(head: Head) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """tiny-bert with the first of its blocks alone, which calibrated methods prune in a second."""
    model, tokenizer = load("tiny-bert", head)
    del model.base_model.encoder.layer[1:]
    model.config.num_hidden_layers = 1
    return model, tokenizer


def prose(lines: int, seed: int = 0) -> str:
    """Text with one sentence per line."""
    draw = random.Random(seed)
    return "".join(
        f"The {draw.choice(NOUNS)} stood by the {draw.choice(NOUNS)}, {draw.choice(GOOD + BAD)} as ever "
        f"on day {draw.randrange(100)}.\n"
        for _ in range(lines)
    )


def text_data(text: str, name: str = "story") -> TaskData:
    """A task of language modelling, both splits the same."""
    return TaskData(Task(name, "language_modelling"), {"train": text, "validation": text}, "made")


def sentence_data(
    rows: list[tuple[str, int]], name: str = "moods", metrics: tuple[str, ...] = ("accuracy",)
) -> TaskData:
    """A task of two classes, both splits the same."""
    task = Task(name, "sentence_classification", ("sentence",), ("sad", "glad"), metrics)
    examples = Examples([(text,) for text, _ in rows], [label for _, label in rows])
    return TaskData(task, {"train": examples, "validation": examples}, "made")


def alive_in_session(session: int) -> list[int]:
    """Processes of a session that are still alive ten seconds after its leader ended."""
    deadline = time.monotonic() + 10
    while True:
        alive = [process.pid for process in psutil.process_iter(["status"]) if _is_alive(process, session)]
        if not alive or time.monotonic() > deadline:
            return alive
        time.sleep(0.2)


def _is_alive(process: psutil.Process, session: int) -> bool:
    with suppress(OSError):  # ended meanwhile
        return os.getsid(process.pid) == session and process.info["status"] != psutil.STATUS_ZOMBIE
    return False


def batches(count: int = 12) -> list[dict[str, Tensor]]:
    """Rows of random tokens, to overfit on."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(5, 8000, (count, 16), generator=generator)
    return [{"input_ids": row, "labels": row} for row in ids]


def train(
    model: PreTrainedModel, folder: Path, *callbacks: TrainerCallback, resume: bool | str = False, **settings: Any
) -> Trainer:
    """Train with transformers' Trainer, by default for four steps."""
    arguments = TrainingArguments(
        output_dir=str(folder),
        weight_decay=0.1,
        report_to="none",
        disable_tqdm=True,
        dataloader_pin_memory=False,
        per_device_train_batch_size=4,
        **{"max_steps": 4, "save_strategy": "no", "learning_rate": 1e-2, **settings},
    )
    trainer = Trainer(model, arguments, train_dataset=batches(), callbacks=list(callbacks))
    trainer.train(resume_from_checkpoint=resume)
    return trainer


def times_as_fast(cost: Cost, speed: float) -> Cost:
    """The same measurement, `speed` times as fast as the dense model of its rounds, if there is one."""
    if cost.dense is None:
        return cost
    latencies = tuple(seconds / speed for seconds in cost.dense.latencies)
    return replace(cost, own=replace(cost.own, latencies=latencies))
