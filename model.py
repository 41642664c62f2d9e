"""GPT-2's architecture from scratch: pre-norm transformer, learned positions, tied embedding.

`model(idx)` returns the logits and the last hidden state, which is all that a decoder needs. With a
cache, `model(idx, cache)` computes the new tokens only. There is no dropout.

B sequences of T tokens, V words, C hidden width, H heads of D = C / H.
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

    def forward(self, x, layer=None, cache=None):
        B, T, C = x.shape
        heads = self.qkv(self.norm1(x)).view(B, T, 3, self.n_head, -1)
        q, k, v = heads.permute(2, 0, 3, 1, 4)  # (B,T,3,H,D) -> 3 of (B,H,T,D)
        if cache is not None:
            cache.prefill(layer, k, v)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
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

        With a cache, idx holds the tokens after those that it has `used`. Raises ValueError on ids
        that are no words, and on more tokens than the context (or the cache) has places for.
        """
        room = self.config.block_size
        if cache is not None:
            room = min(room, cache.length) - cache.used
        if idx.dim() != 2 or idx.dtype != torch.long or 0 in idx.shape or idx.shape[1] > room:
            raise ValueError(f"idx is {idx.dtype} {*idx.shape,}; give long (B,T), T up to {room}")
        if idx.is_cpu and ((idx < 0) | (idx >= self.config.vocab_size)).any():  # a GPU would wait
            raise ValueError(f"idx has ids outside 0 to {self.config.vocab_size - 1}")
        T = idx.shape[1]
        if cache is not None and cache.used:
            steps = [cache.step(token, torch.full_like(token, cache.used))  # which adds 1 to used
                     for token in idx.unbind(1)]
            logits, hidden = zip(*steps)  # T of (B,V), T of (B,C)
            return torch.stack(logits, 1), torch.stack(hidden, 1)
        x = self.token_embedding(idx) + self.position_embedding.weight[:T]  # (B,T,C)
        for layer, block in enumerate(self.blocks):
            x = block(x, layer, cache)
        if cache is not None:
            cache.used = T
        hidden = self.norm(x)
        return hidden @ self.token_embedding.weight.T, hidden

    def new_cache(self, batch, length):
        """An empty fast.cache.Cache for `batch` rows of at most `length` tokens."""
        from fast.cache import Cache  # a page on speed alone
        return Cache(self, batch, length)

    # --- GPT-2's own weights, under the names of Hugging Face's checkpoints

    @classmethod
    def from_pretrained(cls, name_or_folder):
        """GPT-2 from a folder that save_pretrained wrote, or by name where it can be downloaded.

        Needs the transformers library. Raises ValueError on settings that are not GPT-2's own.
        """
        from transformers import GPT2LMHeadModel  # nothing else here needs transformers
        theirs = GPT2LMHeadModel.from_pretrained(name_or_folder, torch_dtype="auto")
        c = theirs.config
        own = dict(activation_function=("gelu_new",), n_inner=(None, 4 * c.n_embd),
                   layer_norm_epsilon=(1e-5,), scale_attn_weights=(True,),
                   scale_attn_by_inverse_layer_idx=(False,))
        odd = {name: getattr(c, name) for name, known in own.items()
               if getattr(c, name) not in known}
        if odd:
            raise ValueError(f"{name_or_folder} has settings that are not GPT-2's own: {odd}")
        config = GPTConfig(c.vocab_size, c.n_positions, c.n_layer, c.n_head, c.n_embd)
        return cls(config).to(theirs.dtype).load_hf_state_dict(theirs.state_dict())

    def load_hf_state_dict(self, state_dict):
        """Take GPT-2 weights under Hugging Face's names; ValueError if names or shapes differ."""
        theirs = {}
        for name, weight in state_dict.items():
            for wrapper in ("_orig_mod.", "module.", "transformer."):  # the first two are torch's
                name = name.removeprefix(wrapper)
            if not name.endswith((".attn.bias", ".attn.masked_bias")):  # causal-mask buffers
                theirs[name] = weight
        head = theirs.pop("lm_head.weight", None)
        if head is not None and not torch.equal(head, theirs.get("wte.weight", head[:0])):
            raise ValueError("lm_head.weight differs from wte.weight; give tied weights")
        ours = {}
        for name, weight in self.state_dict().items():
            if hf_name(name) not in theirs:
                raise ValueError(f"{hf_name(name)} is missing; is this a GPT-2 of {self.config}?")
            new = theirs.pop(hf_name(name))
            ours[name] = new.T if name.endswith(TRANSPOSED) else new
            if ours[name].shape != weight.shape:
                raise ValueError(f"{hf_name(name)} is {tuple(new.shape)}; {self.config} asks for "
                                 f"{name} of {tuple(weight.shape)}")
        if theirs:
            raise ValueError(f"weights without a place here: {sorted(theirs)[:4]}; is it a GPT-2?")
        self.load_state_dict(ours)
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


def hf_name(name):
    """A weight's name in Hugging Face's checkpoints of GPT-2."""
    for our_part, hf_part in HF_NAMES.items():
        name = name.replace(our_part, hf_part)
    return name
