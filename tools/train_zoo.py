"""Train the three tiny models of the zoo, and their tokenizer, on a folder of public-domain books.

    python tools/train_zoo.py --books BOOKS --output src/aerogel/models/tiny

Every sixteenth book is held out for the losses in the model cards. One model takes about 45 minutes on one core.
`--tokens` sets the length of training; the same tokens and seed give the same model.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from torch import Tensor, nn
from torch.nn import functional
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    BertConfig,
    BertForMaskedLM,
    GPT2Config,
    GPT2LMHeadModel,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from aerogel.models.zoo import POST_PROCESSOR, SHARED
from aerogel.tasks.noise import IGNORED, MASK_RATE, infill, mask_tokens

SPECIAL = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
BOS, PAD, EOS, UNK, MASK = range(5)
VOCABULARY = 8000
LENGTH = 128  # tokens per window, and positions of the models
WIDTH = 128
BATCH = 32
HELD_OUT_EVERY = 16
TRAINING_MASK_RATE = 0.3  # more targets per window than the usual 15%, at which the losses in the cards are computed


@dataclass(frozen=True)
class Recipe:
    """The architecture, objective and length of training of one tiny model."""

    network: type[PreTrainedModel]
    config: type
    settings: dict
    objective: str
    tokens: int
    peak_rate: float


TOKENS = {"bos_token_id": BOS, "pad_token_id": PAD, "eos_token_id": EOS, "vocab_size": VOCABULARY}
RECIPES = {
    "tiny-gpt2": Recipe(
        GPT2LMHeadModel,
        GPT2Config,
        dict(n_positions=LENGTH, n_embd=WIDTH, n_layer=4, n_head=4, **TOKENS),
        "causal",
        22_000_000,
        3e-3,
    ),
    "tiny-bert": Recipe(
        BertForMaskedLM,
        BertConfig,
        dict(
            max_position_embeddings=LENGTH,
            hidden_size=WIDTH,
            num_hidden_layers=4,
            num_attention_heads=4,
            intermediate_size=4 * WIDTH,
            initializer_range=0.08,
            **TOKENS,
        ),
        "masked",
        28_000_000,
        2e-3,
    ),
    "tiny-bart": Recipe(
        BartForConditionalGeneration,
        BartConfig,
        dict(
            max_position_embeddings=LENGTH,
            d_model=WIDTH,
            init_std=0.08,
            encoder_layers=2,
            decoder_layers=2,
            encoder_attention_heads=4,
            decoder_attention_heads=4,
            encoder_ffn_dim=4 * WIDTH,
            decoder_ffn_dim=4 * WIDTH,
            decoder_start_token_id=EOS,
            forced_eos_token_id=EOS,
            **TOKENS,
        ),
        "denoising",
        8_000_000,
        2e-3,
    ),
}
DROPOUT = ("resid_pdrop", "embd_pdrop", "attn_pdrop", "hidden_dropout_prob", "attention_probs_dropout_prob",
           "dropout", "attention_dropout", "activation_dropout")  # fmt: skip


def read_books(folder: Path) -> tuple[list[str], list[str]]:
    """The training and the held-out books, without their title lines."""
    paths = sorted(folder.glob("*.txt"))
    texts = [path.read_text(encoding="utf-8").split("-------\n", 1)[-1].strip() for path in paths]
    held_out = [text for place, text in enumerate(texts) if place % HELD_OUT_EVERY == 0]
    return [text for place, text in enumerate(texts) if place % HELD_OUT_EVERY], held_out


def train_tokenizer(texts: list[str]) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def save_tokenizer(tokenizer: Tokenizer, objective: str, folder: Path) -> None:
    """Save the shared vocabulary with the special tokens in the places of the architecture."""
    names = [("<s>", BOS), ("</s>", EOS)]
    pair = {"masked": "<s> $A </s> $B:1 </s>:1", "denoising": "<s> $A </s> </s> $B </s>"}
    if objective in pair:
        tokenizer.post_processor = processors.TemplateProcessing(
            single="<s> $A </s>", pair=pair[objective], special_tokens=names
        )
    else:
        tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    roles = dict(bos_token="<s>", eos_token="</s>", pad_token="<pad>", unk_token="<unk>")
    if objective != "causal":
        roles |= dict(mask_token="<mask>", cls_token="<s>", sep_token="</s>")
    inputs = ["input_ids", "attention_mask"]
    if objective == "masked":
        inputs.insert(1, "token_type_ids")
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, model_max_length=LENGTH, model_input_names=inputs, **roles
    ).save_pretrained(folder)
    content = json.loads((folder / SHARED.name).read_text(encoding="utf-8"))
    (folder / SHARED.name).unlink()
    places = json.dumps(content.pop("post_processor"), indent=2)
    (folder / POST_PROCESSOR).write_text(places + "\n", encoding="utf-8")
    shared = json.dumps(content, ensure_ascii=False, indent=0)
    (folder.parent / SHARED.name).write_text(shared + "\n", encoding="utf-8")


def batch_of(
    windows: Tensor, objective: str, generator: torch.Generator, mask_rate: float = MASK_RATE
) -> dict[str, Tensor]:
    """Inputs and labels of the objective, from token windows (batch, length)."""
    if objective == "causal":
        return {"input_ids": windows, "labels": windows}
    ends = torch.full((len(windows), 1), BOS), torch.full((len(windows), 1), EOS)
    body = windows[:, : LENGTH - 2]
    if objective == "masked":
        damaged, labels = mask_tokens(body, MASK, generator, mask_rate)
        unscored = torch.full_like(ends[0], IGNORED)
        return {
            "input_ids": torch.cat([ends[0], damaged, ends[1]], 1),
            "labels": torch.cat([unscored, labels, unscored], 1),
        }
    inputs = torch.full((len(windows), LENGTH), PAD)
    for row, window in zip(inputs, body, strict=True):
        damaged = infill(window, MASK, generator)[: LENGTH - 2]
        row[: len(damaged) + 2] = torch.cat([ends[0][0], damaged, ends[1][0]])
    labels = torch.cat([ends[0], body, ends[1]], 1)
    return {
        "input_ids": inputs,
        "attention_mask": (inputs != PAD).long(),
        "decoder_input_ids": torch.cat([ends[1], labels[:, :-1]], 1),
        "labels": labels,
    }


def loss_of(model: nn.Module, batch: dict[str, Tensor], objective: str) -> Tensor:
    """Mean cross-entropy in nats per scored token; the output layer runs on scored tokens only."""
    inputs = {name: value for name, value in batch.items() if name != "labels"}
    hidden = model.base_model(**inputs)[0]
    labels = batch["labels"]
    if objective == "causal":
        hidden, labels = hidden[:, :-1], labels[:, 1:]
        logits = model.lm_head(hidden.flatten(0, 1))
    elif objective == "masked":
        scored = labels != IGNORED
        logits, labels = model.cls(hidden[scored]), labels[scored]
    else:
        logits = model.lm_head(hidden.flatten(0, 1)) + model.final_logits_bias
    return functional.cross_entropy(logits.float(), labels.flatten())


@torch.no_grad()
def start_with_sinusoids(model: nn.Module, scale: float) -> None:
    """Initialise learned position embeddings as sinusoids (Vaswani et al. 2017, section 3.5).

    Otherwise a masked model of this size spends most of its training on learning relative positions.
    """
    position = torch.arange(LENGTH).unsqueeze(1)
    angle = position / 10_000 ** (torch.arange(0, WIDTH, 2) / WIDTH)
    for name, weight in model.named_parameters():
        if "position" in name or ".wpe." in name:
            weight[-LENGTH:] = scale * torch.stack([angle.sin(), angle.cos()], 2).flatten(1)


@torch.no_grad()
def held_out_loss(model: nn.Module, stream: Tensor, objective: str, limit: int = 400) -> float:
    """Mean loss over `limit` evenly spaced windows of the held-out books; masks and noise are drawn with seed 0."""
    generator = torch.Generator().manual_seed(0)
    windows = stream[: len(stream) // LENGTH * LENGTH].view(-1, LENGTH)
    windows = windows[:: max(1, len(windows) // limit)][:limit].long()
    model.eval()
    losses = [float(loss_of(model, batch_of(part, objective, generator), objective)) for part in windows.split(BATCH)]
    model.train()
    return sum(losses) / len(losses)


def unigram_loss(training: Tensor, held_out: Tensor) -> float:
    """Cross-entropy in nats per token of add-one token frequencies."""
    counts = torch.bincount(training.long(), minlength=VOCABULARY).double() + 1
    return float(-(counts / counts.sum()).log()[held_out.long()].mean())


def train(recipe: Recipe, training: Tensor, held_out: Tensor, tokens: int, seed: int) -> tuple[nn.Module, dict]:
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    known = recipe.config()
    model = recipe.network(recipe.config(**recipe.settings, **{name: 0.0 for name in DROPOUT if hasattr(known, name)}))
    if recipe.objective != "causal":
        start_with_sinusoids(
            model, model.config.initializer_range if recipe.objective == "masked" else model.config.init_std
        )
    start_loss = held_out_loss(model, held_out, recipe.objective)
    decayed = [weight for weight in model.parameters() if weight.dim() > 1]
    plain = [weight for weight in model.parameters() if weight.dim() <= 1]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": 0.05}, {"params": plain, "weight_decay": 0.0}],
        lr=recipe.peak_rate,
        betas=(0.9, 0.98),
    )
    steps = tokens // (BATCH * LENGTH)
    warm = min(500, steps // 10 + 1)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda step: min(1.0, (step + 1) / warm) * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * step / steps))),
    )
    run = torch.compile(loss_of) if recipe.objective != "masked" else loss_of
    started, running = time.time(), 0.0
    model.train()
    for step in range(1, steps + 1):
        begins = torch.randint(0, len(training) - LENGTH, (BATCH,), generator=generator)
        windows = torch.stack([training[begin : begin + LENGTH] for begin in begins.tolist()]).long()
        with torch.autocast("cpu", torch.bfloat16):
            loss = run(model, batch_of(windows, recipe.objective, generator, TRAINING_MASK_RATE), recipe.objective)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        running += (float(loss.detach()) - running) / min(step, 100)
        if step % 100 == 0:
            rate = step * BATCH * LENGTH / (time.time() - started)
            print(f"step {step}/{steps} loss {running:.3f} {rate:.0f} tokens/s", flush=True)
        if step % 1000 == 0:
            print(f"held out {held_out_loss(model, held_out, recipe.objective):.4f}", flush=True)
    return model, {"initial": start_loss, "steps": steps}


CARD = """---
license: apache-2.0
language: en
library_name: transformers
---

# {name}

{kind} with {parameters:,} parameters, trained from scratch by `tools/train_zoo.py`
on {books} public-domain English books ({megabytes:.0f} MB), for {tokens:,} tokens in windows of {length}.
It is part of the package, for tests and demonstrations.

Losses on {held} held-out books, windows of {length} tokens, in nats per scored token:

| model | {objective} loss |
| --- | --- |
| {name} | {final:.3f} |
| unigram frequencies, same vocabulary | {unigram:.3f} |
| the same network before training | {initial:.3f} |
{bits}
The vocabulary is a byte-level BPE of {vocabulary:,} tokens, shared by the three tiny models
({ratio:.2f} bytes per token on the held-out books).
"""
KINDS = {
    "causal": "A decoder (GPT-2 architecture)",
    "masked": "An encoder (BERT architecture)",
    "denoising": "An encoder-decoder (BART architecture)",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--books", type=Path, required=True, help="folder of .txt books")
    parser.add_argument("--output", type=Path, required=True, help="folder that gets one folder a model")
    parser.add_argument("--only", choices=list(RECIPES), help="train this one")
    parser.add_argument("--tokens", type=int, help="train on this many tokens instead of the recipe's")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    texts, held_texts = read_books(arguments.books)
    tokenizer = train_tokenizer(texts)
    training, held_out = (
        torch.cat([torch.tensor(e.ids, dtype=torch.int16) for e in tokenizer.encode_batch(part)])
        for part in (texts, held_texts)
    )
    held_bytes = sum(len(text.encode()) for text in held_texts)
    print(f"{len(training):,} training tokens, {len(held_out):,} held out", flush=True)
    for name, recipe in RECIPES.items():
        if arguments.only not in (None, name):
            continue
        tokens = arguments.tokens or recipe.tokens
        model, facts = train(recipe, training, held_out, tokens, arguments.seed)
        model.half().float()  # the losses in the card are those of the saved float16 weights
        final = held_out_loss(model, held_out, recipe.objective)
        folder = arguments.output / name
        model.half().save_pretrained(folder)
        save_tokenizer(tokenizer, recipe.objective, folder)
        bits = final / math.log(2) * len(held_out) / held_bytes
        card = CARD.format(
            name=name,
            kind=KINDS[recipe.objective],
            parameters=model.num_parameters(),
            books=len(texts),
            megabytes=sum(len(text.encode()) for text in texts) / 1e6,
            tokens=tokens,
            length=LENGTH,
            held=len(held_texts),
            objective={"causal": "causal", "masked": "masked-token", "denoising": "denoising"}[recipe.objective],
            final=final,
            unigram=unigram_loss(training, held_out),
            initial=facts["initial"],
            bits=f"\nThat is {bits:.2f} bits a byte of text.\n" if recipe.objective == "causal" else "",
            vocabulary=VOCABULARY,
            ratio=held_bytes / len(held_out),
        )
        (folder / "README.md").write_text(card, encoding="utf-8")
        print(json.dumps({"model": name, "held_out_loss": final, "bits_per_byte": bits, **facts}), flush=True)


if __name__ == "__main__":
    main()
