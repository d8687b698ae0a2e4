"""What is left of a sub-layer without structures: it adds its output bias."""

from typing import Any

from torch import Tensor, nn


class NoFeatures(nn.Module):
    """In place of a matrix without rows."""

    def forward(self, x: Tensor) -> Tensor:
        """x (..., d) -> (..., 0)."""
        return x[..., :0]


class OutputBias(nn.Module):
    """In place of a matrix without columns: returns its bias, or zeros if it has none, for each token."""

    weight = None  # T5 looks for its dtype

    def __init__(self, out_features: int, bias: nn.Parameter | None) -> None:
        super().__init__()
        self.out_features = out_features
        self.bias = bias

    def forward(self, x: Tensor) -> Tensor:
        """x (..., any) -> (..., out_features)."""
        bias = x.new_zeros(self.out_features) if self.bias is None else self.bias
        return bias.expand(*x.shape[:-1], self.out_features)


class EmptyAttention(nn.Module):
    """In place of an attention without heads; the cache of its layer stays empty.

    `config` is that of the attention that it replaces. `output` is the name of the output projection within it, or
    empty if the projection is elsewhere in the block.
    """

    def __init__(self, config: Any, output: str = "", bias: OutputBias | None = None) -> None:
        super().__init__()
        self.config = config
        self.output = output
        if bias is not None:
            self.add_module(output, bias)

    def forward(self, hidden_states: Tensor, *arguments: Any, **keywords: Any) -> tuple[Any, ...]:
        """What it adds to the hidden states, and no attention weights."""
        part = getattr(self, self.output) if self.output else None
        return (hidden_states[..., :0] if part is None else part(hidden_states)), None


class EmptyT5Attention(EmptyAttention):
    """The same for T5, whose attentions also return the position bias that they used."""

    def forward(self, hidden_states: Tensor, *arguments: Any, **keywords: Any) -> tuple[Any, ...]:
        return super().forward(hidden_states)[0], keywords.get("position_bias"), None
