"""Text becomes inputs: labelled examples, and windows that cover the text once."""

import pytest
import torch
import transformers
from hypothesis import given, strategies as st
from transformers import DataCollatorWithPadding, PretrainedConfig, PreTrainedTokenizerBase

from aerogel.errors import DataError, ModelError
from aerogel.models import load_tokenizer
from aerogel.tasks import IGNORED, Examples, context_length
from aerogel.tasks.encode import FEWEST, _parts, _token_ids, encode_examples, language_windows
from builders import ARCHITECTURES, prose, sentences

TEXT = prose(150)
LENGTH = 64
KINDS = {"encoder": "bert", "decoder": "gpt2", "encoder-decoder": "bart"}


@pytest.fixture(scope="module")
def tokenizers() -> dict[str, PreTrainedTokenizerBase]:
    return {kind: load_tokenizer(f"tiny-{name}") for kind, name in KINDS.items()}


def config_of(kind: str) -> PretrainedConfig:
    return ARCHITECTURES[KINDS[kind]].config()


# lengths


def test_room_for_positions() -> None:
    assert context_length(transformers.BertConfig()) == 512
    assert context_length(transformers.GPT2Config(n_positions=128)) == 128
    assert context_length(transformers.T5Config()) is None
    assert context_length(transformers.BartConfig(max_position_embeddings=96)) == 96


@pytest.mark.parametrize(
    "config",
    [
        transformers.RobertaConfig(max_position_embeddings=34),
        transformers.XLMRobertaConfig(max_position_embeddings=34),
        transformers.CamembertConfig(max_position_embeddings=34),
        transformers.MPNetConfig(max_position_embeddings=34),
        transformers.LongformerConfig(max_position_embeddings=34, attention_window=8),
        transformers.BertConfig(max_position_embeddings=32),
        transformers.OPTConfig(max_position_embeddings=32, word_embed_proj_dim=32),
        transformers.GPTNeoXConfig(max_position_embeddings=32),
    ],
    ids=lambda config: config.model_type,
)
def test_a_model_takes_as_many_tokens_as_it_is_said_to(config: PretrainedConfig) -> None:
    for name, value in dict(
        vocab_size=50, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32
    ).items():
        setattr(config, name, value)
    length = context_length(config)
    assert length == 32
    model = transformers.AutoModel.from_config(config).eval()
    with torch.inference_mode():
        model(input_ids=torch.full((1, length), 7), attention_mask=torch.ones(1, length, dtype=torch.long))
    if config.model_type not in ("gpt_neox", "opt"):  # these stretch
        with pytest.raises((IndexError, RuntimeError)):
            model(input_ids=torch.full((1, length + 1), 7), attention_mask=torch.ones(1, length + 1, dtype=torch.long))


# examples


@pytest.mark.parametrize("kind", KINDS)
def test_examples_are_encoded_one_by_one(kind: str, tokenizers: dict[str, PreTrainedTokenizerBase]) -> None:
    rows = sentences(20)
    tokenizer = tokenizers[kind]
    encoded = encode_examples(
        Examples([(text,) for text, _ in rows], [n for _, n in rows]), tokenizer, config_of(kind), 8
    )
    for (text, label), example in zip(rows, encoded, strict=True):
        alone = tokenizer(text, truncation=True, max_length=8)
        assert {name: example[name] for name in alone} == dict(alone)
        assert example["labels"] == label
        assert isinstance(example["labels"], int)
        assert len(example["input_ids"]) <= 8


def test_pairs_are_encoded_as_pairs(tokenizers: dict[str, PreTrainedTokenizerBase]) -> None:
    tokenizer = tokenizers["encoder"]
    (example,) = encode_examples(Examples([("one", "two")], [1]), tokenizer, config_of("encoder"), 16)
    assert example["input_ids"] == tokenizer("one", "two")["input_ids"]
    assert example["input_ids"] != tokenizer("one two")["input_ids"]


@pytest.mark.parametrize("kind", KINDS)
def test_special_tokens_in_a_text_are_plain_characters(
    kind: str, tokenizers: dict[str, PreTrainedTokenizerBase]
) -> None:
    tokenizer = tokenizers[kind]
    text = "one </s> two <mask> three <pad><s>"
    (example,) = encode_examples(Examples([(text,)], [0]), tokenizer, config_of(kind), 64)
    body = example["input_ids"][1:-1] if kind != "decoder" else example["input_ids"]
    assert not set(body) & set(tokenizer.all_special_ids)
    assert tokenizer.decode(body) == text
    assert tokenizer.decode(_token_ids(text, tokenizer)) == text


def test_no_example_is_longer_than_the_model(tokenizers: dict[str, PreTrainedTokenizerBase]) -> None:
    long = Examples([(TEXT,)], [0])
    for kind, tokenizer in tokenizers.items():
        (example,) = encode_examples(long, tokenizer, config_of(kind), 1000)
        assert len(example["input_ids"]) == LENGTH


@pytest.mark.parametrize("problem", [None, "regression"])
def test_a_number_to_predict_is_kept_whole(problem: str | None, tokenizers: dict[str, PreTrainedTokenizerBase]) -> None:
    config = transformers.BertConfig(num_labels=1, problem_type=problem)
    (example,) = encode_examples(Examples([("a", "b")], [2.75]), tokenizers["encoder"], config, 16)
    assert example["labels"] == 2.75


# windows


@pytest.mark.parametrize("seed", [0, 7])
@pytest.mark.parametrize("kind", KINDS)
def test_windows_cover_the_text_once(kind: str, seed: int, tokenizers: dict[str, PreTrainedTokenizerBase]) -> None:
    tokenizer = tokenizers[kind]
    windows = language_windows(TEXT, tokenizer, config_of(kind), seed)
    stream = tokenizer(TEXT, add_special_tokens=False)["input_ids"]
    alone = tokenizer("")["input_ids"]  # the special tokens that frame a text
    framed = kind != "decoder"
    body = LENGTH - (2 if framed else 0)
    assert len(windows) == len(stream) // body >= 5
    for place, window in enumerate(windows):
        expected = torch.tensor(stream[place * body : (place + 1) * body])
        inputs, labels = window["input_ids"], window["labels"]
        assert inputs.shape == labels.shape == (LENGTH,)
        assert inputs.dtype == labels.dtype == torch.long
        if kind == "decoder":
            assert torch.equal(inputs, expected)
            assert torch.equal(labels, expected)
            assert tokenizer.eos_token_id not in inputs
            continue
        framed_text = torch.tensor([alone[0], *expected.tolist(), alone[1]])
        if kind == "encoder":
            assert torch.equal(torch.where(labels == IGNORED, inputs, labels), framed_text)
            masked = inputs == tokenizer.mask_token_id
            assert torch.equal(masked, labels != IGNORED)
            assert int(masked.sum()) == round(0.15 * body)
        else:
            assert torch.equal(labels, framed_text)
            real = int(window["attention_mask"].sum())
            assert window["attention_mask"].tolist() == [1] * real + [0] * (LENGTH - real)
            assert (inputs[real:] == tokenizer.pad_token_id).all()
            assert (inputs[:real] != tokenizer.pad_token_id).all()
            assert [int(inputs[0]), int(inputs[real - 1])] == alone
            assert tokenizer.mask_token_id in inputs


@pytest.mark.parametrize("kind", KINDS)
def test_the_seed_and_the_place_decide_the_damage(kind: str, tokenizers: dict[str, PreTrainedTokenizerBase]) -> None:
    def windows(seed: int, limit: int | None = None) -> list[list[int]]:
        made = language_windows(TEXT, tokenizers[kind], config_of(kind), seed, limit=limit)
        return [window["input_ids"].tolist() for window in made]

    whole = windows(3)
    assert windows(3) == whole
    assert windows(3, limit=4) == whole[:4]
    assert windows(3, limit=10_000) == whole
    assert (windows(4) == whole) == (kind == "decoder")


def test_windows_are_no_longer_than_the_model_or_512(tokenizers: dict[str, PreTrainedTokenizerBase]) -> None:
    tokenizer = tokenizers["decoder"]
    room = transformers.GPT2Config(vocab_size=8000, n_positions=4096)
    assert len(language_windows(TEXT, tokenizer, room, 0)[0]["labels"]) == 512
    assert len(language_windows(TEXT, tokenizer, config_of("decoder"), 0, length=24)[0]["labels"]) == 24


def test_t5_has_no_opening_token_and_its_spans_are_gone() -> None:
    tokenizer = load_tokenizer("tiny-gpt2")  # as T5's, it has neither a mask nor an opening token
    tokenizer._tokenizer.post_processor = load_tokenizer("tiny-bart")._tokenizer.post_processor
    (window, *_) = language_windows(TEXT, tokenizer, ARCHITECTURES["t5"].config(), 0, length=64)
    real = int(window["attention_mask"].sum())
    assert real < 64
    kept = window["input_ids"][1 : real - 1].tolist()
    rest = iter(window["labels"].tolist())
    assert all(token in rest for token in kept)


@pytest.mark.parametrize("kind", KINDS)
def test_too_short_a_text_is_refused(kind: str, tokenizers: dict[str, PreTrainedTokenizerBase]) -> None:
    for text in ("", "a few words"):
        with pytest.raises(DataError, match=rf"the text has \d tokens, .* {FEWEST}"):
            language_windows(text, tokenizers[kind], config_of(kind), 0)


@pytest.mark.parametrize("kind", KINDS)
def test_a_short_text_is_one_short_window(kind: str, tokenizers: dict[str, PreTrainedTokenizerBase]) -> None:
    text = " ".join(TEXT.split()[:12])
    [window] = language_windows(text, tokenizers[kind], config_of(kind), 0)
    ends = 0 if kind == "decoder" else 2
    count = len(tokenizers[kind](text, add_special_tokens=False)["input_ids"])
    assert FEWEST <= count < LENGTH - 2
    assert len(window["labels"]) == len(window["input_ids"]) == count + ends
    assert (window["labels"] != IGNORED).any()


@pytest.mark.parametrize("limit", [0, -3])
def test_a_limit_leaves_something(limit: int, tokenizers: dict[str, PreTrainedTokenizerBase]) -> None:
    with pytest.raises(DataError, match=f"limit {limit} "):
        language_windows(TEXT, tokenizers["decoder"], config_of("decoder"), 0, limit=limit)
    with pytest.raises(DataError, match=f"limit {limit} "):
        Examples([("a",), ("b",)], [0, 1]).first(limit)


def test_masking_needs_a_mask_token() -> None:
    with pytest.raises(ModelError, match="needs a tokenizer with a mask token"):
        language_windows(TEXT, load_tokenizer("tiny-gpt2"), config_of("encoder"), 0)


# parts


@given(st.text("ab \n", max_size=60), st.integers(1, 12))
def test_parts_are_the_text(text: str, size: int) -> None:
    parts = list(_parts(text, size))
    assert "".join(parts) == text
    assert all(0 < len(part) <= size for part in parts)
    for part in parts[:-1]:
        assert part.endswith("\n") or "\n" not in part


@pytest.mark.parametrize("kind", KINDS)
def test_parts_make_the_same_tokens_as_the_whole(kind: str, tokenizers: dict[str, PreTrainedTokenizerBase]) -> None:
    text = prose(3000)
    assert len(list(_parts(text))) > 1
    whole = tokenizers[kind](text, add_special_tokens=False, verbose=False)["input_ids"]
    assert _token_ids(text, tokenizers[kind]) == whole


# texts without tokens


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("pairs", [False, True])
def test_an_empty_text_has_a_token_all_the_same(
    kind: str, pairs: bool, tokenizers: dict[str, PreTrainedTokenizerBase]
) -> None:
    tokenizer = tokenizers[kind]
    texts = [("", ""), ("a word", ""), ("", "")] if pairs else [("",), ("a word",), ("",)]
    rows = encode_examples(Examples(texts, [0, 1, 0]), tokenizer, config_of(kind), 16)
    for row in rows:
        assert len(row["input_ids"]) == len(row["attention_mask"]) == sum(row["attention_mask"]) > 0
    if kind == "decoder":
        assert rows[0]["input_ids"] == [tokenizer.eos_token_id]
    batch = DataCollatorWithPadding(tokenizer)([rows[0], rows[2]])  # none of them longer
    assert batch["input_ids"].dtype == torch.long
