"""GPT-2's architecture from scratch: pre-norm transformer, learned positions, tied embedding.

`model(idx)` returns the logits and the last hidden state, which is all that a decoder needs.
`model(idx, cache)` takes only the new tokens and keeps the keys and values of the earlier ones.
There is no dropout.

B sequences of T tokens, V vocabulary size, C hidden width, H heads of width D = C / H.
"""
import re
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
        whole = all(type(value) is int and value >= 1 for value in vars(self).values())
        if not whole or self.n_embd % self.n_head:
            raise ValueError(f"{self}: give whole numbers >= 1, n_embd a multiple of n_head")


class Cache:
    """Keys and values of the tokens that the model has read, for `batch` rows of up to `length`.

    Rows share their columns: shorter texts have padding on the left, whose lengths `pad` holds.
    """

    def __init__(self, model, batch, length):
        H = model.config.n_head
        D = model.config.n_embd // H
        weight = model.token_embedding.weight
        self.used = 0     # columns
        self.pad = None   # (B,) long; None: no row has padding
        self.kv = [weight.new_zeros(2, batch, H, length, D) for _ in model.blocks]

    def keep(self, rows):
        """Go on with these rows only: (n,) long, which may repeat, or (B,) bool."""
        self.kv = [kv[:, rows] for kv in self.kv]
        if self.pad is not None:
            self.pad = self.pad[rows]

    def visible(self, T):
        """Which columns the next T tokens see.  -> (T,S) or (B,1,T,S) bool, or None: all"""
        if T == 1 and self.pad is None:
            return None
        columns = torch.arange(self.used + T, device=self.kv[0].device)
        own = columns[self.used:, None]
        real = True if self.pad is None else columns >= self.pad[:, None, None, None]
        return (columns < own) & real | (columns == own)  # padding sees itself: NaN would spread


class Block(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x)).  (B,T,C) -> (B,T,C)"""

    def __init__(self, config):
        super().__init__()
        C = config.n_embd
        self.n_head = config.n_head
        self.norm1 = nn.LayerNorm(C)
        self.norm2 = nn.LayerNorm(C)
        self.qkv = nn.Linear(C, 3 * C)  # queries, keys and values in one product
        self.out = nn.Linear(C, C)
        self.up = nn.Linear(C, 4 * C)
        self.down = nn.Linear(4 * C, C)

    def forward(self, x, kv=None, used=0, visible=None):
        """kv (2,B,H,S,D): a layer of the cache, of which `used` columns are filled."""
        B, T, C = x.shape
        heads = self.qkv(self.norm1(x)).view(B, T, 3, self.n_head, -1)
        q, k, v = heads = heads.permute(2, 0, 3, 1, 4)  # (B,T,3,H,D) -> 3 of (B,H,T,D)
        if kv is not None:
            kv[..., used:used + T, :] = heads[1:]
            k, v = kv[..., :used + T, :]  # (2,B,H,S,D) -> 2 of (B,H,S,D)
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=visible, is_causal=kv is None)
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
        residual_std = std / (2 * config.n_layer) ** 0.5  # two additions to x a layer
        for name, weight in self.named_parameters():
            if name.endswith(("out.weight", "down.weight")):
                nn.init.normal_(weight, std=residual_std)
            elif weight.dim() == 2:
                nn.init.normal_(weight, std=std)
            elif name.endswith("bias"):
                nn.init.zeros_(weight)

    def forward(self, idx, cache=None):
        """(B,T) -> logits (B,T,V), hidden (B,T,C): the state after the final layer norm.

        With a cache, idx holds only the tokens that follow those in the cache. Raises ValueError on
        ids outside the vocabulary and on texts longer than the context.
        """
        T = idx.shape[1]
        used, pad = (0, None) if cache is None else (cache.used, cache.pad)
        if not 0 < T <= self.config.block_size - used:
            raise ValueError(f"{T} tokens; give 1 to {self.config.block_size - used}")
        places = self.position_embedding.weight[used:used + T]  # (T,C)
        if pad is not None:
            columns = torch.arange(used, used + T, device=idx.device)
            places = self.position_embedding((columns - pad[:, None]).clamp(min=0))  # (B,T,C)
        try:
            x = self.token_embedding(idx) + places  # (B,T,C)
        except IndexError:
            raise ValueError(f"idx has ids outside 0 to {self.config.vocab_size - 1}") from None
        if cache is None:
            for block in self.blocks:
                x = block(x)
        else:
            visible = cache.visible(T)
            for block, kv in zip(self.blocks, cache.kv):
                x = block(x, kv, used, visible)
            cache.used += T
        hidden = self.norm(x)
        return hidden @ self.token_embedding.weight.T, hidden

    def new_cache(self, batch, length):
        """An empty Cache, for `batch` rows of at most `length` tokens."""
        return Cache(self, batch, length)

    # --- GPT-2's own weights, under the names of Hugging Face's checkpoints

    @classmethod
    def from_pretrained(cls, name_or_folder):
        """GPT-2 from a folder that save_pretrained wrote, or by name if it can be downloaded.

        Needs the transformers library. Raises ValueError on settings that are not GPT-2's own.
        """
        from transformers import GPT2LMHeadModel  # nothing else here needs transformers
        theirs = GPT2LMHeadModel.from_pretrained(name_or_folder, torch_dtype="auto")
        c = theirs.config
        own = dict(activation_function="gelu_new", layer_norm_epsilon=1e-5, scale_attn_weights=True,
                   scale_attn_by_inverse_layer_idx=False, n_inner=4 * c.n_embd)
        odd = {name: getattr(c, name) for name in own if getattr(c, name) not in (own[name], None)}
        if odd:
            raise ValueError(f"{name_or_folder} has settings that are not GPT-2's own: {odd}")
        config = GPTConfig(c.vocab_size, c.n_positions, c.n_layer, c.n_head, c.n_embd)
        return cls(config).to(theirs.dtype).load_hf_state_dict(theirs.state_dict())

    def load_hf_state_dict(self, state_dict):
        """Take GPT-2 weights under Hugging Face's names; ValueError if names or shapes differ."""
        theirs = {WRAPPERS.sub("", name): weight for name, weight in state_dict.items()
                  if not name.endswith((".attn.bias", ".attn.masked_bias"))}  # causal masks
        head = theirs.pop("lm_head.weight", None)
        if head is not None and not torch.equal(head, theirs.get("wte.weight", head[:0])):
            raise ValueError("lm_head.weight differs from wte.weight; give tied weights")
        shapes = {name: tuple(weight.shape) for name, weight in theirs.items()}
        wanted = {name: tuple(weight.shape) for name, weight in self.hf_state_dict().items()}
        if shapes != wanted:
            names = sorted(name for name, _ in shapes.items() ^ wanted.items())
            raise ValueError(f"these weights are not a GPT-2's of {self.config}: {names[:4]} are "
                             "missing, too many, or of another shape")
        with torch.no_grad():
            for name, weight in self.hf_state_dict().items():  # views of our weights
                weight.copy_(theirs[name])
        return self

    def hf_state_dict(self):
        """The weights under Hugging Face's names, as GPT2Model of transformers loads them."""
        return {hf_name(name): weight.T if name.endswith(TRANSPOSED) else weight
                for name, weight in self.state_dict().items()}


HF_NAMES = {"token_embedding": "wte", "position_embedding": "wpe", "blocks.": "h.",
            "norm1": "ln_1", "norm2": "ln_2", "qkv": "attn.c_attn", "out": "attn.c_proj",
            "up": "mlp.c_fc", "down": "mlp.c_proj", "norm.": "ln_f."}
# theirs are (in, out), torch's linear layers (out, in)
TRANSPOSED = ("qkv.weight", "out.weight", "up.weight", "down.weight")
WRAPPERS = re.compile(r"^((_orig_mod|module|transformer)\.)*")  # of compiled and distributed models


def hf_name(name):
    """A weight's name in Hugging Face's checkpoints of GPT-2."""
    for our_part, hf_part in HF_NAMES.items():
        name = name.replace(our_part, hf_part)
    return name
