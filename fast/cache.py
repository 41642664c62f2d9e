"""Keys and values in tensors that stay in place, and model.GPT's forward pass for one more token.

It computes what the modules of model.py compute, and tests compare the two. For one query per row
plain products are faster than the fused attention. Nothing here has a gradient.

B rows, S slots (tokens seen, in eights), C hidden width, H heads of width D = C / H.
"""
import math

import torch
import torch.nn.functional as F


def weights(layer):
    return layer.weight.detach(), layer.bias.detach()


class Cache:
    """One slot per position, in tensors that stay in place, as a CUDA graph needs them.

    `used` counts the slots of the longest row. Prompts of unequal lengths are padded on the right;
    what padding leaves in a slot is masked until the token of that position overwrites it.
    """

    def __init__(self, model, filled, length):
        """filled: the model.Cache of the right-padded prompts; length: of the longest text."""
        self.used = filled.used
        self.token_table = model.token_embedding.weight.detach()
        self.place_table = model.position_embedding.weight.detach()
        self.norm = weights(model.norm)
        H, C = model.config.n_head, model.config.n_embd
        D = C // H
        self.blocks = []
        for block in model.blocks:
            norm1, norm2, qkv, out, up, down = map(weights, block.children())
            # a head's query, key and value beside each other: outputs (3,H,D) -> (H,3,D)
            qkv = [x.unflatten(0, (3, H, D)).transpose(0, 1).flatten(0, 2) for x in qkv]
            self.blocks.append((norm1, norm2, qkv, out, up, down))
        slots = length + -length % 8  # GPUs are slow at odd rows
        batch = filled.kv[0].shape[1]
        # for each layer; a key lies beside its value
        self.kv = [self.token_table.new_zeros(batch, H, slots, 2, D) for _ in self.blocks]
        for mine, prompts in zip(self.kv, filled.kv):  # prompts: (2,B,H,longest,D)
            mine[:, :, :self.used] = prompts.permute(1, 2, 3, 0, 4)
        # added to scores: a query at place i sees the slots up to i
        self.bias = self.token_table.new_full((slots, slots), -math.inf).triu(1)
        self.keep(slice(None))

    def keep(self, rows):
        """Go on with these rows only, which may repeat: the samples of a prompt start from one."""
        self.kv = [kv[rows] for kv in self.kv]
        B, H, slots, _, _ = self.kv[0].shape
        heads = torch.arange(B * H, device=self.bias.device)
        self.first_slot = (heads * slots).view(B, H)  # the number of a head's first
        self.seen = 0  # slots that the views show

    def look(self, S):
        """Views of the first S slots: making one costs a microsecond."""
        self.seen = S
        self.views = []
        for kv in self.kv:
            seen = kv[:, :, :S].flatten(0, 1)  # (B*H,S,2,D)
            # all slots (B*H*slots,2,D), keys (B*H,D,S), values (B*H,S,D)
            self.views.append((kv.flatten(0, 2), seen[..., 0, :].mT, seen[..., 1, :]))

    def step(self, idx, pos):
        """One more token per row, at its place pos.  (B,), (B,) -> logits (B,V), hidden (B,C)"""
        self.used += 1
        B, H = self.first_slot.shape
        D = self.kv[0].shape[-1]
        C = H * D
        S = self.used + -self.used % 8  # slots that a token can see, in eights
        if S != self.seen:
            self.look(S)
        own_slot = (self.first_slot + pos[:, None]).view(-1)  # (B*H,): where to write
        bias = self.bias[:, :S].index_select(0, pos)[:, None]  # (B,1,S)

        x = F.embedding(idx, self.token_table) + F.embedding(pos, self.place_table)  # (B,C)
        for (slots, k, v), block in zip(self.views, self.blocks):
            norm1, norm2, qkv, out, up, down = block
            heads = F.linear(torch.layer_norm(x, (C,), *norm1), *qkv).view(B * H, 3, D)
            slots.index_copy_(0, own_slot, heads[:, 1:])  # its key and value
            scores = torch.bmm(heads[:, :1], k).view(B, H, S)
            shares = torch.add(bias, scores, alpha=D ** -0.5).softmax(-1).view(B * H, 1, S)
            x = x + F.linear(torch.bmm(shares, v).view(B, C), *out)
            y = F.linear(torch.layer_norm(x, (C,), *norm2), *up)
            x = x + F.linear(F.gelu(y, approximate="tanh"), *down)
        hidden = torch.layer_norm(x, (C,), *self.norm)
        return F.linear(hidden, self.token_table), hidden
