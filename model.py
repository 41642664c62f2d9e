"""GPT-2's architecture from scratch: pre-norm transformer, learned positions, tied embedding.

`model(idx)` returns the logits and the last hidden state, which the AdaptiveDecoder reads.
`model(idx, cache)` takes only the new tokens and keeps the keys and values of the earlier ones.
There is no dropout.

B texts of T tokens, S tokens with those in the cache, V vocabulary size, C hidden width, H heads of
width D = C / H.
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
        whole = all(type(size) is int and size >= 1 for size in vars(self).values())
        if not whole or self.n_embd % self.n_head:
            raise ValueError(f"{self}: give whole numbers >= 1, and n_embd a multiple of n_head")


class Cache:
    """Keys and values of the tokens read so far, for a batch of texts of at most `length` tokens.

    Texts are aligned on the right: `pad` is the number of padding tokens on the left of each.
    """

    def __init__(self, model, batch, length):
        H = model.config.n_head
        D = model.config.n_embd // H
        like = model.token_embedding.weight  # its dtype and device
        self.used = 0     # columns that are filled
        self.pad = None   # (B,) long, or None if no text has padding
        self.kv = [like.new_zeros(2, batch, H, length, D) for _ in model.blocks]  # keys, values

    def keep(self, rows):
        """Keep only these rows: (n,) long, which may repeat, or (B,) bool."""
        self.kv = [kv[:, rows] for kv in self.kv]
        if self.pad is not None:
            self.pad = self.pad[rows]

    def visible(self, T):
        """Which of the S columns each of the next T tokens sees.  -> (T,S) or (B,1,T,S) bool

        None if that is all of them. Padding sees only itself: a row that sees nothing gives NaN.
        """
        if T == 1 and self.pad is None:
            return None
        columns = torch.arange(self.used + T, device=self.kv[0].device)
        own = columns[self.used:, None]
        if self.pad is None:
            return columns <= own
        is_text = columns >= self.pad[:, None, None, None]
        return ((columns < own) & is_text) | (columns == own)


class Block(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x)).  (B,T,C) -> (B,T,C)"""

    def __init__(self, config):
        super().__init__()
        C = config.n_embd
        self.n_head = config.n_head
        self.norm1 = nn.LayerNorm(C)
        self.norm2 = nn.LayerNorm(C)
        self.qkv = nn.Linear(C, 3 * C)  # queries, keys and values at once
        self.out = nn.Linear(C, C)
        self.up = nn.Linear(C, 4 * C)
        self.down = nn.Linear(4 * C, C)

    def forward(self, x, kv=None, used=0, visible=None):
        """kv (2,B,H,S,D): the cache of this layer, filled to `used`; visible: Cache.visible"""
        B, T, C = x.shape
        heads = self.qkv(self.norm1(x)).view(B, T, 3, self.n_head, -1)
        heads = heads.permute(2, 0, 3, 1, 4)  # (B,T,3,H,D) -> (3,B,H,T,D)
        q, k, v = heads
        if kv is not None:
            kv[..., used:used + T, :] = heads[1:]  # the new keys and values
            k, v = kv[..., :used + T, :]  # each (B,H,S,D)
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

        std = 0.8 * config.n_embd ** -0.5  # GPT-2's 0.02 is too small for a width of 64
        residual_std = std / (2 * config.n_layer) ** 0.5  # each layer adds to x twice
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
        texts longer than the context and, on a CPU, on ids outside the vocabulary.
        """
        T = idx.shape[1]
        used, pad = (0, None) if cache is None else (cache.used, cache.pad)
        if not 0 < T <= self.config.block_size - used:
            raise ValueError(f"{T} tokens do not fit into the context; give 1 to "
                             f"{self.config.block_size - used}")
        positions = self.position_embedding.weight[used:used + T]  # (T,C)
        if pad is not None:
            columns = torch.arange(used, used + T, device=idx.device)
            positions = self.position_embedding((columns - pad[:, None]).clamp(min=0))  # (B,T,C)
        try:
            x = self.token_embedding(idx) + positions  # (B,T,C)
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
        """What `forward` takes to read a text piece by piece."""
        return Cache(self, batch, length)

    # --- loading and saving GPT-2's weights, under Hugging Face's names

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
                  if not name.endswith((".attn.bias", ".attn.masked_bias"))}  # masks, not weights
        head = theirs.pop("lm_head.weight", None)
        if head is not None and not torch.equal(head, theirs.get("wte.weight", head[:0])):
            raise ValueError("lm_head.weight differs from wte.weight; give tied weights")
        shapes = {name: tuple(weight.shape) for name, weight in theirs.items()}
        wanted = {name: tuple(weight.shape) for name, weight in self.hf_state_dict().items()}
        if shapes != wanted:
            names = sorted({name for name, _ in shapes.items() ^ wanted.items()})
            raise ValueError(f"these weights do not fit {self.config}: {names[:4]} are missing, "
                             "too many, or of another shape")
        with torch.no_grad():
            for name, weight in self.hf_state_dict().items():  # views of our weights
                weight.copy_(theirs[name])
        return self

    def hf_state_dict(self):
        """The weights under Hugging Face's names, which transformers' GPT2Model can load."""
        return {hf_name(name): weight.T if name.endswith(TRANSPOSED) else weight
                for name, weight in self.state_dict().items()}


HF_NAMES = {"token_embedding": "wte", "position_embedding": "wpe", "blocks.": "h.",
            "norm1": "ln_1", "norm2": "ln_2", "qkv": "attn.c_attn", "out": "attn.c_proj",
            "up": "mlp.c_fc", "down": "mlp.c_proj", "norm.": "ln_f."}
# theirs are (in, out), torch's linear layers (out, in)
TRANSPOSED = ("qkv.weight", "out.weight", "up.weight", "down.weight")
WRAPPERS = re.compile(r"^((_orig_mod|module|transformer)\.)*")  # some are of wrapped models


def hf_name(name):
    """A weight's name in Hugging Face's checkpoints of GPT-2."""
    for our_part, hf_part in HF_NAMES.items():
        name = name.replace(our_part, hf_part)
    return name
