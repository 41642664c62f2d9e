"""Keys and values kept: model.GPT's forward pass written out for one new token a row.

It computes what the modules of model.py do, and tests hold the two together. Calls of modules would
take as long as the arithmetic of a small model, and with one query a row plain products are faster
than the fused attention, on a CPU and on a GPU. Nothing here has a gradient.
"""
import math

import torch
import torch.nn.functional as F


class Cache:
    """One slot a position, in tensors that stay in place, as a CUDA graph wants them.

    `pos` (B,) counts the tokens of each row that are valid, `used` is the longest row's slots.
    Prompts of unequal length are padded on the right; the caller then sets `pos` to their true
    lengths, and what the padding left behind is masked until the tokens to come overwrite it.
    """

    def __init__(self, model, batch, length):
        tokens, places, H = model.token_embedding, model.position_embedding, model.config.n_head
        length += -length % 8  # GPUs are slow at odd rows
        self.embeddings = tokens.weight.detach(), places.weight.detach()
        self.blocks = [[(layer.weight.detach(), layer.bias.detach()) for layer in block.children()]
                       for block in model.blocks]
        self.norm = model.norm.weight.detach(), model.norm.bias.detach()
        self.kv = tokens.weight.new_zeros(len(model.blocks), 2, batch, H, length,
                                          tokens.embedding_dim // H)
        self.pos, self.used = torch.zeros_like(self.kv[0, 0, :, 0, 0, 0], dtype=torch.long), 0
        slots = torch.arange(batch * H * length, device=self.kv.device)
        self.slots = slots.view(batch, H, length)  # their numbers

    def prefill(self, layer, kv):
        """Take a layer's keys and values of the prompts.  (2,B,H,T,D)"""
        self.kv[layer, ..., :kv.shape[-2], :] = kv.detach()

    def keep(self, rows):
        """Forget all other rows."""
        self.kv, self.pos = self.kv[:, :, rows], self.pos[rows]

    def step(self, idx):
        """One more token a row: (B,) -> logits (B,V), hidden (B,C)."""
        self.used += 1
        (_, _, B, H, _, D), (tokens, places) = self.kv.shape, self.embeddings
        S, C = self.used + -self.used % 8, (H * D,)
        slots = (self.slots[:B, :, 0] + self.pos[:, None]).view(-1)  # (B*H,): where to write
        unseen = self.slots[0, 0, :S] > self.pos[:, None, None]  # (B,1,S): where not to look
        bias = self.kv.new_zeros(unseen.shape).masked_fill_(unseen, -math.inf)
        x = F.embedding(idx, tokens) + F.embedding(self.pos, places)  # (B,C)
        for kv, (norm1, norm2, qkv, out, up, down) in zip(self.kv, self.blocks):
            heads = F.linear(torch.layer_norm(x, C, *norm1), *qkv).view(B, 3, H, D)
            heads = heads.transpose(0, 1).reshape(3, B * H, D)
            kv.view(2, -1, D).index_copy_(1, slots, heads[1:])
            k, v = kv[..., :S, :].flatten(1, 2)  # two of (B*H,S,D)
            scores = torch.bmm(heads[0, :, None], k.mT).view(B, H, S)
            shares = torch.add(bias, scores, alpha=D ** -0.5).softmax(-1).view(B * H, 1, S)
            x = x + F.linear(torch.bmm(shares, v).view(B, *C), *out)
            y = F.linear(torch.layer_norm(x, C, *norm2), *up)
            x = x + F.linear(F.gelu(y, approximate="tanh"), *down)
        self.pos = self.pos + 1
        hidden = torch.layer_norm(x, C, *self.norm)
        return F.linear(hidden, tokens), hidden
