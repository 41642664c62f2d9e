"""GPT-2's architecture from scratch: pre-norm transformer, learned positions, tied embedding.

`model(idx)` returns the logits and the last hidden state, which is all that a decoder needs. With a
cache, `model(idx, cache)` computes the new tokens only. There is no dropout.
"""
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
            if type(value) is not int or value < 1:
                raise ValueError(f"{name} is {value!r}; give a whole number >= 1")
        if self.n_embd % self.n_head:
            raise ValueError(f"n_embd {self.n_embd} does not divide into {self.n_head} heads")


class Block(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x))."""

    def __init__(self, config):
        super().__init__()
        C = config.n_embd
        self.n_head = config.n_head
        self.norm1, self.norm2 = nn.LayerNorm(C), nn.LayerNorm(C)
        self.qkv, self.out = nn.Linear(C, 3 * C), nn.Linear(C, C)
        self.up, self.down = nn.Linear(C, 4 * C), nn.Linear(4 * C, C)

    def forward(self, x, layer=None, cache=None):
        B, T, C = x.shape
        heads = self.qkv(self.norm1(x)).view(B, T, 3, self.n_head, -1)
        heads = heads.permute(2, 0, 3, 1, 4)  # (B,T,3,H,D) -> (3,B,H,T,D)
        if cache is not None:
            cache.prefill(layer, heads[1:])
        y = F.scaled_dot_product_attention(*heads, is_causal=True)
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
        """An empty cache.Cache for `batch` rows of at most `length` tokens, for generation."""
        from cache import Cache  # a page on speed alone
        return Cache(self, batch, length)

    def forward(self, idx, cache=None):
        """(B,T) -> logits (B,T,V), hidden (B,T,C): the state after the final layer norm.

        With a cache, idx holds the tokens after the `used` ones, and `used` moves on by T.
        """
        T, limit = idx.shape[-1] if idx.dim() else 0, self.config.block_size
        if cache is not None:
            limit = min(limit, cache.kv.shape[3]) - cache.used
        if idx.dim() != 2 or idx.dtype != torch.long or 0 in idx.shape or T > limit:
            raise ValueError(f"idx is {idx.dtype} {*idx.shape,}; give long (B,T), T up to {limit}")
        if cache is not None and cache.used:
            steps = [cache.step(x, torch.full_like(x, cache.used)) for x in idx.unbind(1)]
            return tuple(torch.stack(x, 1) for x in zip(*steps))
        if idx.is_cpu and ((idx < 0) | (idx >= self.config.vocab_size)).any():  # a GPU would wait
            raise ValueError(f"idx has ids outside 0 to {self.config.vocab_size - 1}")
        if cache is not None:
            cache.used = T
        x = self.token_embedding(idx) + self.position_embedding.weight[:T]  # (B,T,C)
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
