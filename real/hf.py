"""Any causal language model of Hugging Face's as the module that `generate` takes.

    model = wrap(lm)
    generate(model, prompts, 64, decoder=AdaptiveDecoder(model.config.n_embd), eos=model.eos_ids)

A causal model has a body, which makes hidden states, and a head, which makes logits of them. The
body runs over all tokens, the head only where somebody looks: logits of whole prompts would be
gigabytes at a vocabulary of 49,152. Everything that leaves here is float32 at least.

B rows, T tokens, S slots of the cache (in eights), C hidden width, V words, K choices.
"""
import copy
import inspect
import math
from types import SimpleNamespace

import torch
import torch.nn as nn
import torch.nn.functional as F
from transformers import AttentionInterface, DynamicCache
from transformers.modeling_outputs import BaseModelOutputWithPastAndCrossAttentions

from decoder import as_evaluated, response_places, right_padded
from lpo import ResponseLogps, at_least_float32, require, temperature_logps

# --- the model ------------------------------------------------------------------------------------


class Wrapped(nn.Module):
    """`model(idx)` -> Logits, hidden: the state that the head sees, behind the final norm.

    Of a transformers model (AutoModelForCausalLM), on the same weights.
    config: vocab_size, block_size (infinite if the model has no longest text) and n_embd. eos_ids:
    the ids that end a text, as the model's generation_config lists them.
    """

    def __init__(self, lm):
        super().__init__()
        self.lm = lm
        self.head_alone = without_body(lm)
        theirs = lm.config.get_text_config()
        self.config = SimpleNamespace(
            vocab_size=theirs.vocab_size, n_embd=theirs.hidden_size,
            block_size=getattr(theirs, "max_position_embeddings", None) or math.inf)
        eos = lm.generation_config.eos_token_id
        self.eos_ids = [] if eos is None else eos if isinstance(eos, list) else [eos]

    def forward(self, idx, cache=None):
        """(B,T) -> Logits (B,T,V), hidden (B,T,C). A cache, still empty, takes keys and values."""
        known = {} if cache is None else cache.arguments(idx.shape[1])
        hidden = self.lm.base_model(idx, use_cache=cache is not None, **known).last_hidden_state
        return Logits(self.head, hidden), at_least_float32(hidden)

    def head(self, hidden):
        """lm's own way from hidden states to logits, scaled or capped as it does.  -> (...,V)"""
        logits = self.head_alone(inputs_embeds=hidden.view(1, -1, hidden.shape[-1])).logits
        return at_least_float32(logits.view(*hidden.shape[:-1], -1))

    def new_cache(self, batch, length):
        """An empty cache for `batch` rows of at most `length` tokens."""
        return Slots(self, batch, length)


wrap = Wrapped


class Logits:
    """Logits (B,T,V) that are made where they are looked at: logits[rows, places] -> (...,V)."""

    def __init__(self, head, hidden):
        self.head = head
        self.hidden = hidden

    def __getitem__(self, at):
        return self.head(self.hidden[at])


class Given(nn.Module):
    """In the place of a body: its inputs are its hidden states."""

    def forward(self, *_, inputs_embeds, **__):
        return BaseModelOutputWithPastAndCrossAttentions(last_hidden_state=inputs_embeds)


def without_body(lm):
    """The same model, its weights included, but that hidden states are given.  -> nn.Module"""
    head = copy.copy(lm)
    head._modules = lm._modules | {lm.base_model_prefix: Given()}
    return head


# --- keys and values kept -------------------------------------------------------------------------


def one_query(module, query, key, value, mask, scaling=None, **_):
    """Attention of one new token a row: (B,H,1,D), (B,G,S,D), (B,G,S,D) -> (B,1,H,D), None.

    H / G queries share a key. The library may copy each key H / G times before it attends, two
    fifths of the time of a step with 1,024 rows; here they are rows of one product.
    """
    B, H, _, D = query.shape
    queries = query.reshape(B, key.shape[1], -1, D)  # (B,G,H/G,D)
    scores = queries @ key.mT * (D ** -0.5 if scaling is None else scaling) + mask
    return (scores.softmax(-1) @ value).view(B, 1, H, -1), None


AttentionInterface.register("one_query", one_query)


class Slots(DynamicCache):
    """One slot a position, in tensors that stay in place, as fast/cache.py has it for model.py.

    A layer hands its new keys and values to `update` and attends to what that gives back. Rows are
    padded on the right: each writes at its own place, and the mask hides what it has not written.
    """
    recordable = True

    def __init__(self, model, batch, length):
        super().__init__()
        self.config = config = model.lm.config.get_text_config()
        self.attention = attention = config._attn_implementation
        takes = inspect.signature(model.lm.base_model.forward).parameters
        window = getattr(config, "sliding_window", None)
        kinds = getattr(config, "layer_types", None) or [
            "full_attention" if window is None else "sliding_attention"]
        far = dict(full_attention=math.inf, sliding_attention=window)
        require(far.keys() >= set(kinds) and "position_ids" in takes,
                f"a {config.model_type} keeps more than keys and values; use decoder.generate")
        require(attention in ("sdpa", "eager"),
                f"attention is {attention}; load with attn_implementation='sdpa'")
        self.sees = {kind: far[kind] for kind in kinds}  # layers of a kind: so many places
        self.name = "cache" if "cache" in takes else "past_key_values"  # before transformers 5.20
        self.model = model
        self.length = length
        self.used = 0
        self.kv = {}  # layer -> keys and values (B,H,S,D)
        self.pos = None  # (B,): where the newest tokens go; None while the prompts come in

    def arguments(self, new):
        """What a body wants beside the first tokens."""
        require(self.used == 0, "the cache has tokens; go on by step()")
        self.used = new
        return {self.name: self}

    def update(self, k, v, layer, *_, **__):
        """A layer's new keys and values (B,H,T,D) -> all that it may attend to."""
        if self.pos is None:
            free = self.length + -self.length % 8 - k.shape[2]
            self.kv[layer] = [F.pad(x, (0, 0, 0, free)) for x in (k, v)]
            return k, v
        for kept, x in zip(self.kv[layer], (k, v)):
            kept.scatter_(2, self.pos[:, None, None, None].expand_as(x), x)
        return [kept[:, :, :self.seen] for kept in self.kv[layer]]

    def keep(self, rows):
        """These rows, which may repeat, and no others."""
        self.kv = {layer: [x[rows] for x in kept] for layer, kept in self.kv.items()}

    def step(self, idx, pos):
        """One more token a row, at its place pos.  (B,), (B,) -> logits (B,V), hidden (B,C)"""
        self.used += 1
        self.seen = self.used + -self.used % 8  # slots
        self.pos = pos
        back = pos[:, None] - torch.arange(self.seen, device=pos.device)  # (B,S): places ago
        masks = {kind: torch.where((back >= 0) & (back < sees), 0.0, -math.inf).to(
            self.model.lm.dtype)[:, None, None] for kind, sees in self.sees.items()}
        mask = masks if len(masks) > 1 else masks.popitem()[1]  # as bodies with two kinds take it
        if self.attention == "sdpa":
            self.config._attn_implementation = "one_query"
        try:
            hidden = self.model.lm.base_model(
                idx[:, None], attention_mask=mask, position_ids=pos[:, None], use_cache=True,
                **{self.name: self}).last_hidden_state[:, 0]
        finally:
            self.config._attn_implementation = self.attention
        return self.model.head(hidden), at_least_float32(hidden)


# --- scoring what was drawn -----------------------------------------------------------------------

AT_ONCE = 2 ** 24  # logits: 64 MiB in float32, of which a choice makes some four copies


@torch.no_grad()
def frozen_pass(model, choices, prompts, rollout, tokens=2 ** 14):
    """All that a frozen language model has to say of responses.  -> hidden (B,T,C), logps (B,T,K)

    The hidden states that decide, log P(y_t | tau_k) of each choice; zeros under the mask. The body
    runs on as many rows at once as have `tokens` tokens, padding included (at least on one), the
    head on AT_ONCE logits: no array has a whole vocabulary for each token. The rollout may be on
    another device.
    """
    B, T = rollout.tokens.shape
    idx, lengths = right_padded(model, prompts, B, T)
    rows = max(1, tokens // idx.shape[1])
    places = response_places(lengths, T)  # (B,T)
    words, mask = rollout.tokens.to(idx.device), rollout.mask.to(idx.device)
    idx.scatter_(1, places, words)
    exact = dict(dtype=torch.promote_types(model.lm.dtype, torch.float32), device=idx.device)
    hidden = torch.zeros(B, T, model.config.n_embd, **exact)
    text_logps = torch.zeros(B, T, len(choices), **exact)
    tokens_at_once = max(1, AT_ONCE // model.config.vocab_size)
    with as_evaluated(model):
        for some in torch.arange(B, device=idx.device).split(rows):
            before = places[some][mask[some]] - 1  # where each response token is predicted
            logits, states = model(idx[some, :before.max() + 1])
            row, column = mask[some].nonzero(as_tuple=True)  # of all response tokens
            hidden[some[row], column] = states[row, before]
            for r, t, place in zip(*(x.split(tokens_at_once) for x in (row, column, before))):
                b = some[r]
                text_logps[b, t] = temperature_logps(logits[r, place], words[b, t], choices)
    return hidden, text_logps


def response_logps(decoder, rollout, frozen, ref_decoder=None):
    """What a decoder makes of responses, and of frozen_pass of them.  -> ResponseLogps

    As decoder.response_logps where the language model is frozen; a loop that trains the decoder
    needs frozen_pass only once.
    """
    require(rollout.tau_idx is not None,
            "this rollout has a fixed temperature; generate it with a decoder")
    hidden, text_logps = frozen
    with torch.no_grad():
        ref_tau_logps = None if ref_decoder is None else ref_decoder.response(hidden)
    return ResponseLogps(
        tau_logps=decoder.response(hidden), tau_idx=rollout.tau_idx.to(hidden.device),
        mask=rollout.mask.to(hidden.device), text_logps=text_logps, ref_text_logps=text_logps,
        ref_tau_logps=ref_tau_logps)
