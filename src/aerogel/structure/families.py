"""Where each family keeps the heads and neurons of a block: a row for each kind of block."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from torch import nn

Kind = Literal["attention", "cross_attention", "feed_forward"]
"""The kinds of sub-layers that can lose structures."""


@dataclass(frozen=True)
class AttentionRoles:
    """The modules of an attention, by their path in the block, and the attributes of its core that its forward reads.

    Attributes:
        core: the module that computes the attention.
        projections: the parts of each input matrix in the order of its rows: "q", "k", "v", or several of them.
        output: the output projection.
        head_size: the attribute for the size of a head.
        heads: the attributes for the number of heads, `widths` for the number of features of all heads.
    """

    core: str
    projections: Mapping[str, str]
    output: str
    head_size: str
    heads: tuple[str, ...] = ()
    widths: tuple[str, ...] = ()
    kind: Kind = "attention"

    @property
    def name(self) -> str:
        return self.core


@dataclass(frozen=True)
class FeedForwardRoles:
    """The modules of feed-forward layers, by their path in the block. `inputs` that a block does not have are skipped.

    `widths` are attributes of the module `name` for the number of neurons.
    """

    name: str
    inputs: tuple[str, ...]
    output: str
    widths: tuple[str, ...] = ()
    kind: Kind = "feed_forward"


Roles = AttentionRoles | FeedForwardRoles


def _within(core: str, **projections: str) -> dict[str, str]:
    return {f"{core}.{name}": parts for name, parts in projections.items()}


def _bert(attention: str, kind: Kind) -> AttentionRoles:
    core = f"{attention}.self"
    return AttentionRoles(
        core,
        _within(core, query="q", key="k", value="v"),
        f"{attention}.output.dense",
        "attention_head_size",
        ("num_attention_heads",),
        ("all_head_size",),
        kind,
    )


def _bart(core: str, kind: Kind = "attention") -> AttentionRoles:
    projections = _within(core, q_proj="q", k_proj="k", v_proj="v")
    return AttentionRoles(core, projections, f"{core}.out_proj", "head_dim", ("num_heads",), kind=kind)


def _t5(core: str, kind: Kind) -> AttentionRoles:
    projections = _within(core, q="q", k="k", v="v")
    return AttentionRoles(core, projections, f"{core}.o", "key_value_proj_dim", ("n_heads",), ("inner_dim",), kind)


def _gpt2(core: str, kind: Kind, **projections: str) -> AttentionRoles:
    parts = _within(core, **projections)
    return AttentionRoles(core, parts, f"{core}.c_proj", "head_dim", ("num_heads",), ("split_size",), kind)


BERT_FEED_FORWARD = FeedForwardRoles("intermediate", ("intermediate.dense",), "output.dense")
BERT: tuple[Roles, ...] = (
    _bert("attention", "attention"),
    _bert("crossattention", "cross_attention"),
    BERT_FEED_FORWARD,
)
BART: tuple[Roles, ...] = (
    _bart("self_attn"),
    _bart("encoder_attn", "cross_attention"),
    FeedForwardRoles("fc1", ("fc1",), "fc2"),
)
LLAMA: tuple[Roles, ...] = (
    AttentionRoles(
        "self_attn", _within("self_attn", q_proj="q", k_proj="k", v_proj="v"), "self_attn.o_proj", "head_dim"
    ),
    FeedForwardRoles("mlp", ("mlp.gate_proj", "mlp.up_proj"), "mlp.down_proj", ("intermediate_size",)),
)
DISTILBERT: tuple[Roles, ...] = (
    AttentionRoles(
        "attention",
        _within("attention", q_lin="q", k_lin="k", v_lin="v"),
        "attention.out_lin",
        "attention_head_size",
        ("n_heads",),
    ),
    FeedForwardRoles("ffn", ("ffn.lin1",), "ffn.lin2"),
)
MPNET: tuple[Roles, ...] = (
    AttentionRoles(
        "attention.attn",
        _within("attention.attn", q="q", k="k", v="v"),
        "attention.attn.o",
        "attention_head_size",
        ("num_attention_heads",),
        ("all_head_size",),
    ),
    BERT_FEED_FORWARD,
)
GPT2: tuple[Roles, ...] = (
    _gpt2("attn", "attention", c_attn="qkv"),
    _gpt2("crossattention", "cross_attention", q_attn="q", c_attn="kv"),
    FeedForwardRoles("mlp", ("mlp.c_fc",), "mlp.c_proj"),
)
T5: tuple[Roles, ...] = (
    _t5("layer.0.SelfAttention", "attention"),
    _t5("layer.1.EncDecAttention", "cross_attention"),
    *(
        FeedForwardRoles(name, tuple(f"{name}.{part}" for part in ("wi", "wi_0", "wi_1")), f"{name}.wo")
        for name in ("layer.1.DenseReluDense", "layer.2.DenseReluDense")  # of an encoder, of a decoder
    ),
)
BLOCKS: dict[str, tuple[Roles, ...]] = {  # by the class of the block in transformers
    "BartDecoderLayer": BART,
    "BartEncoderLayer": BART,
    "BertLayer": BERT,
    "ElectraLayer": BERT,
    "GPT2Block": GPT2,
    "LlamaDecoderLayer": LLAMA,
    "MPNetLayer": MPNET,
    "MistralDecoderLayer": LLAMA,
    "OPTDecoderLayer": BART,
    "Qwen2DecoderLayer": LLAMA,
    "Qwen3DecoderLayer": LLAMA,
    "RobertaLayer": BERT,
    "T5Block": T5,
    "TransformerBlock": DISTILBERT,
    "XLMRobertaLayer": BERT,
}


@dataclass(frozen=True)
class StockFields:
    """The fields of a stock configuration for the numbers of layers and structures, which are the same in all layers.

    `heads` and `key_heads` are empty where the size of a head depends on their number.
    """

    neurons: str
    layers: str = "num_hidden_layers"
    heads: str = ""
    key_heads: str = ""


BERT_FIELDS = StockFields("intermediate_size")
LLAMA_FIELDS = StockFields("intermediate_size", heads="num_attention_heads", key_heads="num_key_value_heads")
STOCK_FIELDS: dict[str, StockFields] = {  # by the class of the block in transformers
    "BartDecoderLayer": StockFields("decoder_ffn_dim", "decoder_layers"),
    "BartEncoderLayer": StockFields("encoder_ffn_dim", "encoder_layers"),
    "BertLayer": BERT_FIELDS,
    "ElectraLayer": BERT_FIELDS,
    "GPT2Block": StockFields("n_inner"),
    "LlamaDecoderLayer": LLAMA_FIELDS,
    "MPNetLayer": BERT_FIELDS,
    "MistralDecoderLayer": LLAMA_FIELDS,
    "OPTDecoderLayer": StockFields("ffn_dim"),
    "Qwen2DecoderLayer": LLAMA_FIELDS,
    "Qwen3DecoderLayer": LLAMA_FIELDS,
    "RobertaLayer": BERT_FIELDS,
    "T5Block": StockFields("d_ff", heads="num_heads"),
    "TransformerBlock": StockFields("hidden_dim"),
    "XLMRobertaLayer": BERT_FIELDS,
}
T5_DECODER_FIELDS = StockFields("d_ff", "num_decoder_layers", "num_heads")


def block_roles(block: type) -> tuple[Roles, ...]:
    """The roles in a block of this class or of a class derived from it; empty for other classes."""
    return next((BLOCKS[kind.__name__] for kind in block.__mro__ if kind.__name__ in BLOCKS), ())


def stock_fields(block: nn.Module) -> StockFields:
    """The fields for a block of a known class."""
    name = next(kind.__name__ for kind in type(block).__mro__ if kind.__name__ in STOCK_FIELDS)
    return T5_DECODER_FIELDS if name == "T5Block" and block.is_decoder else STOCK_FIELDS[name]
