"""A causal transformer as in GPT-2: of its shape, or small enough to be trained on one core."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional


class Shape(NamedTuple):
    """How large a model is."""

    layers: int
    width: int
    heads: int
    vocabulary: int
    context: int
    is_tied: bool = False  # whether the head is the table of embeddings


GPT2_SMALL = Shape(12, 768, 12, 50_257, 1024)


class Block(nn.Module):
    """Attention and a network of one hidden layer, each beside what goes past it."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        width = shape.width
        self.heads = shape.heads
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(2))
        self.attention, self.mix = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """The next layer's input, of shape (batch, length, width) as this one's."""
        batch, length, width = x.shape
        parts = self.attention(self.norms[0](x)).view(batch, length, 3, self.heads, -1)
        query, key, value = parts.permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        x = x + self.mix(mixed.transpose(1, 2).reshape(batch, length, width))
        return x + self.down(functional.gelu(self.up(self.norms[1](x)), approximate="tanh"))


class Transformer(nn.Module):
    """From the tokens so far, what is the next? Weights are drawn as GPT-2's were."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.tokens = nn.Embedding(shape.vocabulary, shape.width)
        self.positions = nn.Embedding(shape.context, shape.width)
        self.blocks = nn.ModuleList(Block(shape) for _ in range(shape.layers))
        self.norm = nn.LayerNorm(shape.width)
        nowhere = "meta" if shape.is_tied else None
        self.head = nn.Linear(shape.width, shape.vocabulary, bias=False, device=nowhere)
        if shape.is_tied:
            self.head.weight = self.tokens.weight
        for name, param in self.named_parameters():
            if param.dim() > 1:
                last = name.endswith(("mix.weight", "down.weight"))
                nn.init.normal_(param, std=0.02 / (2 * shape.layers) ** 0.5 if last else 0.02)
            elif name.endswith("bias"):
                nn.init.zeros_(param)

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits of shape (batch, length, vocabulary)."""
        positions = torch.arange(tokens.shape[1], device=tokens.device)
        x = self.tokens(tokens) + self.positions(positions)
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))

    def loss(self, tokens: Tensor) -> Tensor:
        """The mean cross entropy of all tokens but the first, computed in float32."""
        logits = self(tokens[:, :-1])
        return functional.cross_entropy(logits.flatten(0, 1).float(), tokens[:, 1:].flatten())
