"""A real language model: any causal one of transformers, as AutoModelForCausalLM gives it.

    decoder = AdaptiveDecoder(lm.get_output_embeddings().weight.shape[1])
    rollout = generate(lm, prompts, 64, decoder=decoder)
    logps = response_logps(lm, decoder, prompts, rollout)
    lm.generate(**inputs, max_new_tokens=64, custom_generate=Adaptive(decoder))

transformers samples, with its caches, padding, processors and stopping. The decoder sees the hidden
state that enters the output embedding; logits are the model's own. From time to time two texts are
read again, alone and without a cache: a model whose states then differ is refused by name. So are
beams, and whatever is not one causal model.

B responses, T response tokens, K choices, V vocabulary size, C hidden width, S tokens of a text.
"""
import torch
from torch.nn.functional import pad as filled_up
from transformers import LogitsProcessorList, PreTrainedModel

import decoder as decoding
from lpo import ResponseLogps, require

AT_ONCE = dict(cpu=2 ** 26, cuda=2 ** 30)  # logits of scored texts: 256 MiB, 4 GiB in float32


# --- hidden states --------------------------------------------------------------------------------


class Tap:
    """A hook before the output embedding, which notes the hidden states that enter it.

    It stays there: compiled code does not notice that a hook comes or goes.
    """

    def __init__(self):
        self.columns = None  # (B,n,1): only the states of these go on to the embedding
        self.hidden = None   # (B,n,C) of these, or of all that came
        self.compared = frozenset()  # kinds of generation whose states were compared

    def __call__(self, embedding, args):
        hidden = args[0] if self.columns is None else args[0].take_along_dim(self.columns, 1)
        self.hidden = hidden.detach() if self.columns is None else hidden
        return (hidden, *args[1:])

    def take(self, lm):
        """The states, once.  -> (B,n,C), in float32 at least"""
        hidden, self.hidden = self.hidden, None
        require(hidden is not None and hidden.dim() == 3,
                f"{type(lm).__name__} passes no hidden states (B,S,C) to its output embedding")
        return decoding.at_least_float32(hidden)


def tap_of(lm):
    """The model's Tap, set by the first call. ValueError on what is not one causal model."""
    embedding = lm.get_output_embeddings() if isinstance(lm, PreTrainedModel) else None
    require(isinstance(embedding, torch.nn.Module) and not lm.config.is_encoder_decoder,
            f"{type(lm).__name__} is no causal model as AutoModelForCausalLM gives it; unwrap it")
    if not hasattr(embedding, "tap"):
        embedding.tap = Tap()
        embedding.register_forward_pre_hook(embedding.tap)
        torch.compiler.reset()  # what was compiled before would not call it
    return embedding.tap


def read(lm, idx, columns):
    """A plain pass over texts, and what it has at n columns.  (B,S), (B,n) -> (B,n,V), (B,n,C)"""
    tap = tap_of(lm)
    tap.columns = columns[..., None]
    try:
        return lm(input_ids=idx, use_cache=False).logits, tap.take(lm)
    finally:
        tap.columns = tap.hidden = None


def compare(lm, text, columns, seen):
    """ValueError if the text (S,), read alone, has other states at n columns than seen (n,C).

    In half precision at fewer than half of them: after some tokens rounding errors explode.
    """
    hidden = read(lm, text[None], text.new_tensor([columns]))[1][0]
    apart = (seen - hidden).abs().mean(-1) / hidden.abs().mean(-1)  # (n,)
    fits = apart.max() <= 1e-3 if lm.dtype.itemsize >= 4 else apart.quantile(0.5) <= 0.1
    require(fits, f"{type(lm).__name__} has other hidden states beside padding, or with its cache, "
                  "than for the text alone; try prompts of one length, or use_cache=False")


# --- scoring --------------------------------------------------------------------------------------


def scored(lm, choices, prompts, rollout):
    """Hidden states that predict response tokens, and log P(y_t | choice k).  -> (B,T,C), (B,T,K)

    As many texts at once as have AT_ONCE logits, or one.
    """
    tokens = rollout.tokens.to(lm.device)
    B, T = tokens.shape
    longest = max(map(len, prompts)) + T
    rows = AT_ONCE[lm.device.type] // (longest * lm.config.get_text_config().vocab_size) or 1
    parts = []
    for start, some in zip(range(0, B, rows), tokens.split(rows)):
        idx, pad = decoding.padded(lm, prompts[start:start + rows], T, left=False)
        n = idx.shape[1] - pad  # lengths of the prompts
        columns = n[:, None] + torch.arange(T, device=lm.device)  # of the tokens
        idx = torch.cat([idx, torch.zeros_like(some)], 1).scatter(1, columns, some)
        with decoding.evaluating(lm):
            logits, hidden = read(lm, idx, columns - 1)
            row = n.argmin()
            compare(lm, idx[row, :n[row]], [n[row] - 1], hidden[row, :1])
        parts.append((hidden, decoding.temperature_logps(logits, some, choices)))
    return [torch.cat(part) for part in zip(*parts)]


def response_logps(lm, decoder, prompts, rollout, ref_lm=None, ref_decoder=None):
    """As decoder.response_logps. Without ref_lm the model is frozen, and gets no gradient."""
    require(rollout.tau_idx is not None, "this rollout has no choices; generate it with a decoder")
    with torch.set_grad_enabled(ref_lm is not None and torch.is_grad_enabled()):
        hidden, text_logps = scored(lm, decoder.choices, prompts, rollout)
    with torch.no_grad():
        ref = scored(ref_lm, decoder.choices, prompts, rollout) if ref_lm else (hidden, text_logps)
        ref_tau_logps = ref_decoder and ref_decoder.response(ref[0])
    tau_idx, mask = rollout.tau_idx.to(lm.device), rollout.mask.to(lm.device)
    return ResponseLogps(decoder.response(hidden), tau_idx, mask, text_logps, ref[1], ref_tau_logps)


# --- generation -----------------------------------------------------------------------------------


def sample_at(logits, tau, generator):
    """One index per row from softmax(logits / tau), the arg-max at 0.  (B,N), (B,1) -> (B,), (B,)

    Each index waits for an exponential time, of rate exp(logits / tau), and the first to come is
    taken. In float64, so that rare tokens have their chance; the device is asked for no value.
    Returned first: a number that is finite if the logits are, at one index at least.
    """
    times = torch.empty(logits.shape, dtype=torch.float64, device=logits.device)
    return (logits - tau * times.exponential_(generator=generator).log_()).max(-1)


class Last:
    """A function as the last processor.

    transformers reads the signature of each processor's __call__ at each token. For a class that is
    quick; for a bare function or method it takes a quarter of a millisecond.
    """

    def __init__(self, function):
        self.function = function

    def __call__(self, input_ids, scores):
        return self.function(input_ids, scores)


class Adaptive:
    """The decoder in lm.generate(..., custom_generate=Adaptive(decoder)); tau_idx has its choices.

    Processors (a minimum length, forbidden words) act before the choice. Warpers (temperature,
    top_k, top_p ...) do not act: the choice is in their place, do_sample or not. For one call at a
    time, and a model in eval() mode.
    """

    def __init__(self, decoder=None, greedy=False, generator=None, plan=None):
        self.decoder = decoder
        self.greedy = greedy
        self.generator = generator
        self.plan = plan  # without a decoder: tokens so far (B,t) -> B choices

    def __call__(self, model, input_ids, logits_processor, **others):
        config, mask = others["generation_config"], others.get("attention_mask")
        plain = config.get_generation_mode().value in ("sample", "greedy_search")
        require(plain and config.guidance_scale in (None, 1),
                "choices go neither with beams nor with guidance; leave these options out")
        self.lm, self.start, tap = model, input_ids.shape[1], tap_of(model)
        self.k, self.seen, self.checks, self.taus = [], [], [], None
        pad = input_ids.new_zeros(len(input_ids)) if mask is None else (mask == 0).sum(1)
        self.rows = torch.stack([pad.argmax(), pad.argmin()])  # shortest and longest: compared
        processors = [p for p in logits_processor if not type(p).__name__.endswith("Warper")]
        processors = LogitsProcessorList([*processors, Last(self.choose)])
        result = model._sample(input_ids, processors, **others)
        self.tau_idx = torch.stack(self.k, 1)
        require(torch.stack(self.checks).isfinite().all(),
                "the model or decoder gives NaN, or no possible token")
        for row, seen in zip(self.rows.tolist(), torch.stack(self.seen, 1)):
            text = getattr(result, "sequences", result)[row, pad[row]:-1]
            n = self.start - int(pad[row])  # tokens of its prompt
            kind = (n < self.start, n.bit_length(), len(text).bit_length(),
                    type(others.get("past_key_values")))
            if kind not in tap.compared:
                newest = range(len(text) - len(seen) + 1, len(text))
                compare(model, text, [n - 1, *newest], seen)
                tap.compared |= {kind}
        return result

    def choose(self, input_ids, logits):
        """Pick each row's choice, sample a token at it, and leave nothing else.  (B,V) -> (B,V)"""
        hidden = tap_of(self.lm).take(self.lm)[:, -1].to(logits.device)  # (B,C)
        seen = hidden[self.rows.to(logits.device)]  # a copy: recorded passes share their memory
        self.seen = [*self.seen[:1], *self.seen[1:][-6:], seen]  # the first, and the newest 7
        written = input_ids[:, self.start:]
        if self.decoder is None:
            choices, k = decoding.numbered(self.plan, written)
            k = k.to(logits.device)
        else:
            choices, tau_logps = self.decoder.choices, self.decoder(hidden)  # (B,K)
            check, k = tau_logps.max(-1) if self.greedy else sample_at(tau_logps, 1, self.generator)
            self.checks.append(check)
            if self.decoder.level == "sequence" and self.k:
                k = self.k[0]
        self.k.append(k)
        if any(map(callable, choices)):
            counts = decoding.counts_of(written, logits.shape[1])
            logits, tau = decoding.logps_at(logits, choices, k, counts), 1
        else:
            if self.decoder is None or self.taus is None:  # a copy to a GPU would wait for it
                self.taus = torch.tensor(choices, dtype=torch.float64, device=logits.device)
            tau = self.taus[k, None]  # (B,1)
        check, token = sample_at(logits, tau, self.generator)
        self.checks.append(check)
        return torch.full_like(logits, -torch.inf).scatter(1, token[:, None], 0.0)


def by_transformers(options, lm, prompts, T, decoder, plan, greedy, ends, generator):
    """What decoder.sampling_loop does, by lm.generate.  -> tokens (B,T), tau_idx (B,T)"""
    idx, pad = decoding.padded(lm, prompts, T, left=True)
    S, config = idx.shape[1], lm.config.get_text_config()
    context = max(0, getattr(config, "max_position_embeddings", None) or 0) or torch.inf  # -1: none
    ids = torch.cat([idx.flatten(), ends])
    require(S + T <= context and 0 <= ids.min() and ids.max() < config.vocab_size,
            f"{S} + {T} tokens, ids (with eos) from {ids.min()} to {ids.max()}; give "
            f"{type(lm).__name__} at most {context} tokens, and ids below {config.vocab_size}")
    adaptive = Adaptive(decoder, greedy, generator, plan)
    mask = torch.arange(S, device=pad.device) >= pad[:, None]
    texts = lm.generate(input_ids=idx, attention_mask=mask.long(), max_new_tokens=T,
                        eos_token_id=ends.tolist() or None, pad_token_id=0, do_sample=False,
                        custom_generate=adaptive, **options)
    texts = getattr(texts, "sequences", texts)
    return [filled_up(x, (0, T - x.shape[1])) for x in (texts[:, S:], adaptive.tau_idx)]


def generate(lm, prompts, max_new_tokens, decoder=None, temperature=None, tau_select="sample",
             eos=None, generator=None, **options):
    """As decoder.generate, by lm.generate.  B token lists, also of unequal lengths -> Rollout

    eos None: the model's own; (): none. options: as lm.generate takes them, such as min_new_tokens,
    bad_words_ids, or cache_implementation="static" (compiled on a GPU). Raises ValueError, with its
    name, on a model that cannot be served, and on options that do not go with choices.
    """
    tap_of(lm)
    beyond = options.keys() & {"num_return_sequences", "stopping_criteria", "max_time", "streamer"}
    require(not beyond, f"{beyond}: here is one response per prompt, up to eos; see Adaptive")
    eos = lm.generation_config.eos_token_id if eos is None else eos
    return decoding.generate(lm, prompts, max_new_tokens, decoder, temperature, tau_select, eos,
                             generator, lambda *given: by_transformers(options, *given))
