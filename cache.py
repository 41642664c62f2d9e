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

    `used` counts the slots of the longest row. Prompts of unequal length are padded on the
    right; what padding left behind is masked until later tokens, at their own places, overwrite it.
    """

    def __init__(self, model, batch, length):
        tokens, places, H = model.token_embedding, model.position_embedding, model.config.n_head
        length += -length % 8  # GPUs are slow at odd rows
        self.embeddings = tokens.weight.detach(), places.weight.detach()
        self.blocks = [[(layer.weight.detach(), layer.bias.detach()) for layer in block.children()]
                       for block in model.blocks]
        for block in self.blocks:
            block[2] = [x.unflatten(0, (3, H, -1)).transpose(0, 1).flatten(0, 2) for x in block[2]]
        self.norm = model.norm.weight.detach(), model.norm.bias.detach()
        self.kv = tokens.weight.new_zeros(len(model.blocks), batch, H, length, 2,
                                          tokens.embedding_dim // H)
        slots = torch.arange(batch * H * length, device=self.kv.device)
        self.slots, self.used = slots.view(batch, H, length), 0  # their numbers
        self.bias = self.kv.new_full((length, length), -math.inf).triu(1)  # later slots are masked

    def prefill(self, layer, kv):
        """Take a layer's keys and values of the prompts.  (2,B,H,T,D)"""
        self.kv[layer, :, :, :kv.shape[-2]] = kv.detach().movedim(0, -2)

    def keep(self, rows):
        """Forget all other rows."""
        self.kv = self.kv[:, rows]

    def step(self, idx, pos):
        """One more token a row, at its place pos.  (B,), (B,) -> logits (B,V), hidden (B,C)"""
        self.used += 1
        (_, B, H, _, _, D), (tokens, places) = self.kv.shape, self.embeddings
        S, C = self.used + -self.used % 8, (H * D,)
        slots = (self.slots[:B, :, 0] + pos[:, None]).view(-1)  # (B*H,): where to write
        bias = self.bias[:, :S].index_select(0, pos)[:, None]  # (B,1,S)
        x = F.embedding(idx, tokens) + F.embedding(pos, places)  # (B,C)
        kept, seen = self.kv.flatten(1, 3), self.kv[..., :S, :, :].flatten(1, 2)
        for kv, k, v, (norm1, norm2, qkv, out, up, down) in zip(
                kept, seen[..., 0, :].mT, seen[..., 1, :], self.blocks):
            heads = F.linear(torch.layer_norm(x, C, *norm1), *qkv).view(B * H, 3, D)
            kv.index_copy_(0, slots, heads[:, 1:])
            scores = torch.bmm(heads[:, :1], k).view(B, H, S)
            shares = torch.add(bias, scores, alpha=D ** -0.5).softmax(-1).view(B * H, 1, S)
            x = x + F.linear(torch.bmm(shares, v).view(B, *C), *out)
            y = F.linear(torch.layer_norm(x, C, *norm2), *up)
            x = x + F.linear(F.gelu(y, approximate="tanh"), *down)
        hidden = torch.layer_norm(x, C, *self.norm)
        return F.linear(hidden, tokens), hidden
