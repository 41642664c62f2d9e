"""Bugs that real implementations had, or that are easy to have: each is planted by test_planted.py
and must be caught. (name, file, right text, wrong text, what must catch it, where it comes from)

`conformance` stands for `conformance/check.py`, the rest are names of tests. A thread is named by
its repository and number; the others are reasoned, by the catalogue in the design or on the spot.
"""
from typing import NamedTuple


class Bug(NamedTuple):
    name: str
    file: str
    right: str
    wrong: str
    caught_by: str
    source: str


LATENT_SUM = ".masked_fill(~r.mask, 0).sum(-1)"
SEPARATE = "policy = drawn(r.tau_logps, r.tau_idx).sum(-1)"
MARGIN = "score(chosen, variant, exact_sequence) - score(rejected, variant, exact_sequence)"
DEAD = "terms.masked_fill(dead[..., None], 0).logsumexp(-1).masked_fill(dead, -math.inf)"
SOFTMAX = "F.log_softmax(shifted / tau, dim=-1)"
TIE = "logits.argmax(-1, True)"

BUGS = [
    # --- lpo.py
    Bug("mean where the paper sums", "lpo.py", SEPARATE, SEPARATE.replace("sum", "mean"),
        "conformance", "huggingface/trl#789: asked why not; training collapsed with the mean"),
    Bug("mean over tokens in the latent", "lpo.py", LATENT_SUM, LATENT_SUM.replace("sum", "mean"),
        "conformance", "huggingface/trl#789"),
    Bug("padding counted", "lpo.py", "if shape[1] == T:", "if False:", "conformance",
        "0xallam/Direct-Preference-Optimization#4, huggingface/trl#6803"),
    Bug("padding counted in the latent", "lpo.py", LATENT_SUM, ".sum(-1)", "conformance",
        "0xallam/Direct-Preference-Optimization#4"),
    Bug("mask by multiplication", "lpo.py",
        "x.masked_fill(~r.mask[..., None] if x.dim() == 3 else ~r.mask, 0)",
        "x * (r.mask[..., None] if x.dim() == 3 else r.mask)", "test_padding_may_hold_anything",
        "NaN or -inf times 0 is NaN; catalogue"),
    Bug("chosen and rejected swapped", "lpo.py", MARGIN,
        "score(rejected, variant, exact_sequence) - score(chosen, variant, exact_sequence)",
        "conformance", "catalogue; the loss still goes down"),
    Bug("log of a sigmoid", "lpo.py", "-F.logsigmoid(beta * margin)",
        "-torch.sigmoid(beta * margin).log()", "conformance", "overflows for large |x|; catalogue"),
    Bug("beta forgotten", "lpo.py", "-F.logsigmoid(beta * margin)", "-F.logsigmoid(margin)",
        "conformance", "the loss still goes down"),
    Bug("sampling temperature forgotten", "lpo.py", SOFTMAX, "F.log_softmax(shifted, dim=-1)",
        "conformance", "huggingface/trl#3029, OpenRLHF/OpenRLHF#853, NVIDIA/NeMo-Aligner#46"),
    Bug("temperature applied twice", "lpo.py", SOFTMAX,
        "F.log_softmax(shifted / tau / tau, dim=-1)", "conformance",
        "huggingface/trl#2358: logits from generate are scaled already; GMISWE/tinker-cloud#26"),
    Bug("temperature multiplied", "lpo.py", SOFTMAX, "F.log_softmax(shifted * tau, dim=-1)",
        "conformance", "inverse temperature taken for the temperature"),
    Bug("temperature 0 as a small number", "lpo.py", "        if tau > 0:\n",
        "        tau = max(tau, 1e-2)\n        if tau > 0:\n", "conformance",
        "FlashML-org/FreeToken#471: greedy as a tiny temperature, wrong on ties"),
    Bug("temperature 0 divided by", "lpo.py", "        if tau > 0:\n",
        "        if True:\n            tau = torch.tensor(tau)\n", "conformance",
        "google-deepmind/gemma#562"),
    Bug("a tie goes to the highest index", "lpo.py", TIE,
        "logits.shape[-1] - 1 - logits.flip(-1).argmax(-1, True)", "test_temperature_0_is",
        "FlashML-org/FreeToken#471"),
    Bug("-inf minus -inf", "lpo.py",
        "return logps.masked_fill(dead, 0) - ref_logps.masked_fill(dead, 0)",
        "return logps - ref_logps", "conformance", "catalogue"),
    Bug("logsumexp of nothing but -inf", "lpo.py", DEAD, "terms.logsumexp(-1)",
        "test_impossible_tokens", "pytorch/pytorch#31829, jax-ml/jax#6811"),
    Bug("where around a NaN gradient", "lpo.py", DEAD,
        "torch.where(dead, -math.inf, terms.logsumexp(-1))", "test_impossible_tokens",
        "the branch not taken still back-propagates NaN; pytorch/pytorch#49724"),
    Bug("gradient leaks into the reference", "lpo.py",
        'x.detach() if name.startswith("ref_") else x', "x", "test_no_gradient", "catalogue"),
    Bug("a sequence's temperature counted n times", "lpo.py", SEPARATE,
        "policy = (drawn(r.tau_logps, r.tau_idx) * (r.mask.sum(-1, True) if "
        "r.tau_idx.shape[1] == 1 else 1)).sum(-1)", "conformance",
        "broadcast over tokens before the sum"),
    Bug("latent forgets the decoder's reference", "lpo.py", "uniform if r.ref_tau_logps is None "
        "else r.ref_tau_logps", "uniform", "conformance", "right in round one only"),
    Bug("latent without a reference is not uniform", "lpo.py",
        "-math.log(r.tau_logps.shape[-1])", "0.0", "conformance", "a reference that sums to K"),
    Bug("joint forgets the text's reference", "lpo.py",
        "log_ratio(drawn(r.text_logps, r.tau_idx), drawn(r.ref_text_logps, r.tau_idx))",
        "log_ratio(drawn(r.text_logps, r.tau_idx), drawn(r.text_logps, r.tau_idx) * 0)",
        "conformance", "0 * -inf is NaN, too"),
    Bug("joint forgets the temperatures", "lpo.py", "text.sum(-1) + separate_score(r)",
        "text.sum(-1)", "conformance", "plain DPO at the drawn temperature"),
    Bug("latent forgets the prior", "lpo.py", "terms = text_logps + tau_logps",
        "terms = text_logps + tau_logps * 0", "conformance", "no gradient for the decoder"),
    Bug("exact marginal of the mean token", "lpo.py", "marginal(text.sum(1), tau[:, 0])",
        "marginal(text.mean(1), tau[:, 0])", "conformance", "product of a text taken for a mean"),
    Bug("temperatures shifted by one", "lpo.py", "tau_idx.expand(logps.shape[:2])[..., None]",
        "tau_idx.expand(logps.shape[:2]).roll(1, 1)[..., None]", "conformance",
        "PrimeIntellect-ai/prime-rl#1525"),
    Bug("NLL minimises the likelihood", "lpo.py", "return -separate_score", "return separate_score",
        "conformance", "a sign"),
    # --- decoder.py
    Bug("tokens and logits not shifted", "decoder.py",
        "return logits[rows, columns - 1], hidden[rows, columns - 1]",
        "return logits[rows, columns], hidden[rows, columns]", "test_response_logps",
        "huggingface/trl#2733, OpenRLHF/OpenRLHF#465"),
    Bug("hidden states not shifted", "decoder.py", "hidden[rows, columns - 1]",
        "hidden[rows, columns]", "test_response_logps", "modelscope/ms-swift#8427"),
    Bug("prompt lengths ignored", "decoder.py",
        "columns = lengths[:, None] + torch.arange(tokens.shape[1], device=idx.device)",
        "columns = lengths.max() + torch.arange(tokens.shape[1], device=idx.device).expand("
        "tokens.shape)", "test_response_logps", "unslothai/unsloth#3699"),
    Bug("a prompt token counted as response", "decoder.py", "columns = lengths[:, None] + torch",
        "columns = lengths[:, None] - 1 + torch", "test_response_logps",
        "catalogue: the prompt of a side not masked; 0xallam/Direct-Preference-Optimization#4"),
    Bug("sampler ignores the temperature", "decoder.py", "(logits + tau[:, None] * noise",
        "(logits + noise", "test_the_sampler", "catalogue"),
    Bug("sampler squares the temperature", "decoder.py", "(logits + tau[:, None] * noise",
        "(logits + tau[:, None] ** 2 * noise", "test_the_sampler", "catalogue"),
    Bug("one greedy row makes all greedy", "decoder.py", "tau[:, None] * noise",
        "tau.min() * noise", "test_rows_at_0", "vllm-project/vllm-metal#786, FreeToken#471"),
    Bug("Gumbel noise of infinity", "decoder.py", "noise.clamp_min(torch.finfo(dtype).tiny).log()",
        "noise.log()", "test_rows_at_0", "pytorch/pytorch#22557, #20179, #192577"),
    Bug("end of text left out of the mask", "decoder.py", "mask[:, t] = alive",
        "mask[:, t] = alive & (drawn != eos)", "test_response_logps",
        "meta-pytorch/torchtune#949, mll-lab-nu/RAGEN#59"),
    Bug("finished rows come back", "decoder.py", "alive = alive & (drawn != eos)",
        "alive = drawn != eos", "test_response_logps", "the flag is of the last step only"),
    Bug("complete responses marked as cut", "decoder.py", "return Rollout(tokens, mask, alive, "
        "tau_idx if", "return Rollout(tokens, mask, ~alive, tau_idx if", "test_response_logps",
        "a sign"),
    Bug("sequence level reads the last token", "decoder.py", "hidden[:, :1])", "hidden[:, -1:])",
        "test_response_logps", "the end of the response for the end of the prompt"),
    Bug("greedy takes the least likely", "decoder.py", "tau_logps.argmax(-1) if",
        "tau_logps.argmin(-1) if", "test_the_greedy_choice", "equation 4"),
    Bug("one position for all prompts", "decoder.py", "cache.pos = lengths",
        "cache.pos = lengths * 0 + longest", "test_cache_and_batching",
        "rasbt/reasoning-from-scratch#33, unslothai/unsloth#4078"),
    Bug("first token from the padding", "decoder.py", "newest = lengths + (t - 1)",
        "newest = lengths * 0 + longest + (t - 1)", "test_cache_and_batching",
        "huggingface/transformers#3095"),
    Bug("policy's decoder as its reference", "decoder.py", "ref_decoder.response(ref_hidden)",
        "decoder.response(ref_hidden)", "test_response_logps", "the margin loses its reference"),
    Bug("reference decoder on the policy's states", "decoder.py",
        "ref_decoder.response(ref_hidden)", "ref_decoder.response(hidden)", "test_response_logps",
        "invisible while the language model is frozen"),
    # --- model.py
    Bug("cache does not move on", "model.py", "cache.pos = cache.pos + T",
        "cache.pos = cache.pos + 1", "test_cache_gives", "catalogue; one token at a time hides it"),
    Bug("cache positions off by one", "model.py", "positions = cache.pos[:, None] + torch",
        "positions = cache.pos[:, None] + 1 + torch", "test_cache_gives",
        "catalogue; unslothai/unsloth#3699"),
    Bug("a token does not see itself", "model.py", "slots <= positions", "slots < positions",
        "test_cache_gives", "catalogue"),
    Bug("in-place update read too late", "model.py",
        'return x + self.down(F.gelu(self.up(self.norm2(x)), approximate="tanh"))',
        "x = x + self.down.bias\n        return x + F.gelu(self.up(self.norm2(x)), "
        'approximate="tanh") @ self.down.weight.T', "test_hugging_face",
        "the bias enters before the layer reads x; hidden while biases are zero"),
    Bug("another GELU", "model.py", 'approximate="tanh"', 'approximate="none"', "test_hugging_face",
        "GPT-2 has the tanh form"),
    Bug("square weight not transposed", "model.py", '("qkv.weight", "out.weight", ',
        '("qkv.weight", ', "test_hugging_face", "the only weight whose shape does not tell"),
    Bug("hidden state before the norm", "model.py",
        "hidden = self.norm(x)\n        return hidden @ self.token_embedding.weight.T, hidden",
        "hidden = self.norm(x)\n        return hidden @ self.token_embedding.weight.T, x",
        "test_hugging_face", "the head would read a state that the logits do not"),
    # --- pairing, in train_toy.py
    Bug("ties counted as preferences", "train_toy.py", "if here[i] > here[j]:",
        "if here[i] >= here[j]:", "test_pairs", "catalogue"),
    Bug("worst response chosen", "train_toy.py", "np.argsort(-here", "np.argsort(here",
        "test_pairs", "catalogue"),
    Bug("pairs of another prompt", "train_toy.py", "chosen.append(p * len(here) + int(i))",
        "chosen.append(p + int(i))", "test_pairs", "an index into the flat batch"),
    # --- tasks.py
    Bug("repeats earn a reward", "tasks.py", 'len(set(fits) - {"the", "."})',
        'len([fit for fit in fits if fit not in {"the", "."}])', "test_rewards_by_hand",
        "what a grader forgets, a policy finds"),
    Bug("misfits are free", "tasks.py", "return (distinct - misfits) / 5", "return distinct / 5",
        "test_rewards_by_hand", "then the hottest temperature is best"),
    Bug("silence is golden", "tasks.py", "- 2 * (1 - valid / 35)",
        "- 2 * (1 - valid / max(len(text.split()), 1)) * bool(text)", "test_reward_of_repeats",
        "an empty response repeats nothing"),
    Bug("2-grams for 3-grams", "tasks.py", "zip(words, words[1:], words[2:])",
        "zip(words, words[1:])", "test_reward_of_repeats", "off by one"),
    Bug("the trap is right", "tasks.py", "rng, last_sign=-1)", "rng, last_sign=1)",
        "test_the_corpus", "then greedy is right and no vote helps"),
    Bug("test prompts in training", "tasks.py", 'if split_of(prompt) == "train":', "if True:",
        "test_prompts_of_the_splits", "a leak that makes every number better"),
    Bug("a tied vote goes to the first", "tasks.py",
        "return [answer for answer, n in counts.items() if n == max(counts.values())]",
        "return [answer for answer, _ in counts.most_common(1)]", "test_vote_needs",
        "luck of the order"),
]
