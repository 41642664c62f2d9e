"""GPT-2's architecture from scratch: pre-norm transformer, learned positions, tied embedding.

`model(idx)` returns the logits and the last hidden state, which is all that a decoder needs. With a
cache, `model(idx, cache)` computes the new tokens only. There is no dropout.
"""
import math
from dataclasses import dataclass

import torch
import torch.nn as nn
import torch.nn.functional as F


@dataclass(frozen=True)
class GPTConfig:
    vocab_size: int
    block_size: int  # longest context, in tokens
    n_layer: int
    n_head: int
    n_embd: int

    def __post_init__(self):
        for name, value in vars(self).items():
            if not isinstance(value, int) or value < 1:
                raise ValueError(f"{name} is {value!r}; give a whole number >= 1")
        if self.n_embd % self.n_head:
            raise ValueError(f"n_embd {self.n_embd} does not divide into {self.n_head} heads")


class Cache:
    """Keys and values of the tokens seen, one slot a position, in tensors that stay in place.

    `pos` (B,) counts the tokens of each row that are valid, `used` is the longest row's slots.
    Prompts of unequal length are padded on the right; the caller then sets `pos` to their true
    lengths, and what the padding left behind is masked until the tokens to come overwrite it.
    """

    def __init__(self, config, batch, length, like):
        shape = (config.n_layer, 2, batch, config.n_head, length, config.n_embd // config.n_head)
        self.kv = like.new_zeros(shape)
        self.pos, self.used = torch.zeros(batch, dtype=torch.long, device=like.device), 0

    def advance(self, T):
        """Make room for T more tokens a row; all layers share the places.  -> positions (B,T)"""
        positions = self.pos[:, None] + torch.arange(T, device=self.pos.device)
        self.pos, self.used = self.pos + T, self.used + T
        _, _, B, H, _, D = self.kv.shape
        self.index = positions[None, :, None, :, None].expand(2, B, H, T, D)
        unseen = torch.arange(self.used, device=self.pos.device) > positions[..., None]
        bias = torch.zeros_like(unseen, dtype=self.kv.dtype).masked_fill(unseen, -math.inf)
        self.bias = bias.repeat_interleave(H, dim=0)  # (B,T,used) -> (B*H,T,used)
        return positions

    def attend(self, layer, q, kv):
        """Store new keys and values, attend to all.  (B,H,T,D), (2,B,H,T,D) -> (B,H,T,D)

        Plain products: with one query a row they are faster than the fused attention.
        """
        self.kv[layer].scatter_(3, self.index, kv)
        k, v = self.kv[layer, ..., :self.used, :].flatten(1, 2)  # two of (B*H,used,D)
        scores = torch.baddbmm(self.bias, q.flatten(0, 1), k.transpose(1, 2),
                               alpha=q.shape[-1] ** -0.5)  # (B*H,T,used)
        return (scores.softmax(-1) @ v).view(q.shape)

    def keep(self, rows):
        """Forget all other rows."""
        self.kv, self.pos = self.kv[:, :, rows], self.pos[rows]


class Block(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x))."""

    def __init__(self, config):
        super().__init__()
        C = config.n_embd
        self.n_head = config.n_head
        self.norm1, self.norm2 = nn.LayerNorm(C), nn.LayerNorm(C)
        self.qkv, self.out = nn.Linear(C, 3 * C), nn.Linear(C, C)
        self.up, self.down = nn.Linear(C, 4 * C), nn.Linear(4 * C, C)

    def forward(self, x, layer, cache):
        B, T, C = x.shape
        heads = self.qkv(self.norm1(x)).view(B, T, 3, self.n_head, -1)
        heads = heads.permute(2, 0, 3, 1, 4)  # (B,T,3,H,D) -> (3,B,H,T,D)
        if cache is None:
            y = F.scaled_dot_product_attention(*heads, is_causal=True)
        else:
            y = cache.attend(layer, heads[0], heads[1:])
        x = x + self.out(y.transpose(1, 2).reshape(B, T, C))  # (B,H,T,D) -> (B,T,C)
        return x + self.down(F.gelu(self.up(self.norm2(x)), approximate="tanh"))


class GPT(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.config = config
        self.token_embedding = nn.Embedding(config.vocab_size, config.n_embd)
        self.position_embedding = nn.Embedding(config.block_size, config.n_embd)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.n_layer))
        self.norm = nn.LayerNorm(config.n_embd)
        std = 0.8 * config.n_embd ** -0.5  # GPT-2's 0.02 is too little at 64 dimensions
        for name, weight in self.named_parameters():
            if name.endswith(("out.weight", "down.weight")):  # two residual additions a layer
                nn.init.normal_(weight, std=std / (2 * config.n_layer) ** 0.5)
            elif weight.dim() == 2:
                nn.init.normal_(weight, std=std)
            elif name.endswith("bias"):
                nn.init.zeros_(weight)

    def new_cache(self, batch, length):
        """An empty cache for `batch` rows of at most `length` tokens."""
        return Cache(self.config, batch, length, like=self.token_embedding.weight)

    def forward(self, idx, cache=None):
        """(B,T) -> logits (B,T,V), hidden (B,T,C): the state after the final layer norm.

        With a cache, idx holds the tokens after its `pos`, and `pos` moves on by T.
        """
        T, limit = idx.shape[-1] if idx.dim() else 0, self.config.block_size
        if idx.dim() != 2 or idx.dtype != torch.long or 0 in idx.shape or T > limit:
            raise ValueError(f"idx is {idx.dtype} {*idx.shape,}; give long (B,T), T up to {limit}")
        if cache is None:
            if idx.is_cpu and ((idx < 0) | (idx >= self.config.vocab_size)).any():  # a GPU waits
                raise ValueError(f"idx has ids outside 0 to {self.config.vocab_size - 1}")
            positions = torch.arange(T, device=idx.device)
        else:
            positions = cache.advance(T)
        x = self.token_embedding(idx) + self.position_embedding(positions)  # (B,T,C)
        for layer, block in enumerate(self.blocks):
            x = block(x, layer, cache)
        hidden = self.norm(x)
        return hidden @ self.token_embedding.weight.T, hidden

    def load_hf_state_dict(self, state_dict):
        """Take GPT-2 weights under Hugging Face's names; ValueError if names or shapes differ."""
        import gpt2_weights  # a page that only those need who have such weights
        return gpt2_weights.load(self, state_dict)

    @classmethod
    def from_pretrained(cls, name_or_folder):
        """GPT-2 from a folder that save_pretrained wrote, or by name where it can be downloaded."""
        import gpt2_weights
        theirs, config = gpt2_weights.pretrained(name_or_folder)
        return cls(GPTConfig(**config)).to(theirs.dtype).load_hf_state_dict(theirs.state_dict())
