"""Bugs that real implementations had, or that are easy to have: each is planted by test_planted.py
and must be caught. Thread names are of the repositories where the bug was; the others come from the
catalogue in the design ("Things that go wrong") or are reasoned.

A bug is (name, right text, wrong text, the start of the name of the test that must catch it).
"""
MARGIN = "SCORES[variant](chosen) - SCORES[variant](rejected)"
SEPARATE = "return (sampled(r.tau_logps, r.tau_idx) - ref).sum(-1)"
LATENT = "return ratio.masked_fill(~r.mask, 0).sum(-1)"
PADDING = "logps = logps.masked_fill(~mask[..., None], 0)"
MARGINAL = "terms.clamp(-1e38).logsumexp(-1).masked_fill(impossible, -inf)"
RATIO = "return (logps - ref_logps).masked_fill(impossible, 0)"
SOFTMAX = "F.log_softmax((logits - best) / choice, dim=-1)"
COLD = "    if choice < torch.finfo(logits.dtype).tiny:"
SCORED = "counts_of(tokens[:, :column.start], V)"
COUNTED = "counts = counts_of(tokens[rows, :t], V)"
CHAIN = "chain(digits[:-1] if way == TRAP else digits, slips)"
MASK = "mask = is_end.cumsum(1) - is_end.long() == 0"
KEPT = "rows, k, next_tokens = rows[active], k[active], next_tokens[active]"
PAIR = "r[better] - r[worse] > TIE * max(abs(r[better]), abs(r[worse]))"
NOISE = "logits - tau[:, None] * noise"

LPO = "test_lpo.py", "lpo.py", [
    ("mean where the paper sums (trl#789)", SEPARATE, SEPARATE.replace("sum", "mean"),
     "test_scores"),
    ("mean over tokens in the latent", LATENT, LATENT.replace("sum", "mean"), "test_scores"),
    ("padding counted (trl#6803)", PADDING, "pass", "test_losses_and"),
    ("padding of the latent at sequence level", LATENT, "return ratio.sum(-1)", "test_losses_and"),
    ("chosen and rejected swapped", MARGIN, "SCORES[variant](rejected) - SCORES[variant](chosen)",
     "test_scores"),
    ("log of a sigmoid", "-logsigmoid(beta * (" + MARGIN + "))",
     "-torch.sigmoid(beta * (" + MARGIN + ")).log()", "test_the_loss_is_finite"),
    ("beta forgotten", "beta * (SCORES", "(SCORES", "test_losses_and"),
    ("-inf minus -inf", RATIO, "return logps - ref_logps", "test_losses_and"),
    ("logsumexp of nothing but -inf (pytorch#31829)", MARGINAL, "terms.logsumexp(-1)",
     "test_the_marginal"),
    ("where around a NaN gradient (pytorch#49724)", MARGINAL,
     "torch.where(impossible, -inf, terms.logsumexp(-1))", "test_the_marginal"),
    ("gradient leaks into the reference", 'logps.detach() if "ref" in name else logps', "logps",
     "test_no_gradient"),
    ("a response's choice counted once per token", SEPARATE,
     "return ((sampled(r.tau_logps, r.tau_idx) - ref) * r.mask).sum(-1)", "test_scores"),
    ("latent forgets the decoder's reference", "ref = r.ref_tau_logps\n    if ref is None:",
     "ref = r.ref_tau_logps\n    if True:", "test_losses_and"),
    ("latent without a reference is not uniform", "torch.zeros_like(r.tau_logps).log_softmax(-1)",
     "torch.zeros_like(r.tau_logps)", "test_scores"),
    ("separate forgets its reference", "ref = 0 if r.ref_tau_logps is None else",
     "ref = 0 if True else",
     "test_losses_and"),
    ("joint forgets the text's reference", "sampled(r.ref_text_logps, r.tau_idx))",
     "sampled(r.text_logps, r.tau_idx) * 0)", "test_losses_and"),
    ("joint forgets the choices", "return text.sum(-1) + separate(r)", "return text.sum(-1)",
     "test_scores"),
    ("latent forgets the prior", "terms = text_logps + tau_logps",
     "terms = text_logps + tau_logps * 0",
     "test_scores"),
    ("exact marginal of the mean token", "r.text_logps.sum(1, True), r.ref",
     "r.text_logps.mean(1, True), r.ref", "test_scores"),
    ("choices shifted by one (prime-rl#1525)",
     "logps.take_along_dim(tau_idx.long()[..., None], -1)",
     "logps.take_along_dim(tau_idx.long().roll(1, 1)[..., None], -1)", "test_losses_and"),
    ("nll with a sign", 'return -sampled(chosen', 'return sampled(chosen', "test_scores"),
    ("sums in half precision", "logps = logps.to(torch.promote_types(logps.dtype, torch.float32))",
     "pass", "tests/test_decoder.py test_sums_of_half")]

SCORING = "test_lpo.py", "decoder.py", [
    ("temperature forgotten (trl#3029, OpenRLHF#853)", SOFTMAX,
     "F.log_softmax(logits - best, dim=-1)", "test_temperature_logps"),
    ("temperature applied twice (trl#2358)", SOFTMAX,
     "F.log_softmax((logits - best) / choice / choice, dim=-1)", "test_temperature_logps"),
    ("temperature multiplied", SOFTMAX, "F.log_softmax((logits - best) * choice, dim=-1)",
     "test_temperature_logps"),
    ("temperature 0 as a small number (FreeToken#471)", COLD,
     "    choice = max(choice, 1e-2)\n" + COLD,
     "test_temperature_0"),
    ("temperature 0 divided by (gemma#562)", COLD,
     "    choice = torch.tensor(choice)\n    if False:",
     "test_temperature_0"),
    ("a tie goes to the last", "best, at = logits.detach().max(-1, True)",
     "best, at = logits.detach().flip(-1).max(-1, True); at = logits.shape[-1] - 1 - at",
     "test_temperature_0"),
    ("tokens and logits not shifted (trl#2733)", "return logits[rows, columns - 1], hidden[rows",
     "return logits[rows, columns], hidden[rows", "test_response_logps"),
    ("hidden states not shifted (ms-swift#8427)", "hidden[rows, columns - 1]",
     "hidden[rows, columns]",
     "test_response_logps"),
    ("prompt lengths ignored (unsloth#3699)", "lengths = idx.shape[1] - pad",
     "lengths = idx.shape[1] - pad * 0", "test_response_logps"),
    ("a prompt token counted as response", "lengths = idx.shape[1] - pad",
     "lengths = idx.shape[1] - pad - 1", "test_response_logps"),
    ("end of text left out of the mask (torchtune#949)", MASK, "mask = is_end.cumsum(1) == 0",
     "tests/test_decoder.py test_ids_that_end"),
    ("finished rows come back", MASK, "mask = ~is_end.roll(1, 1)", "test_response_logps"),
    ("complete responses marked as cut", "~is_end.any(1), tau_idx", "is_end.any(1), tau_idx",
     "test_response_logps"),
    ("sequence level reads the last token", "else hidden[:, :1])", "else hidden[:, -1:])",
     "test_response_logps"),
    ("policy's decoder as its reference", "ref_decoder.response(ref_hidden)",
     "decoder.response(ref_hidden)", "test_response_logps"),
    ("reference decoder on the policy's states", "ref_decoder.response(ref_hidden)",
     "ref_decoder.response(hidden)", "test_response_logps"),
    ("every row at the first choice (vllm-metal#786)", "k = k[rows]", "k = k[rows] * 0",
     "tests/test_decoder.py test_a_table"),
    ("one row's choice for all", "if len(used) == 1:", "if True:", "test_sampler_and_scorer"),
    ("a choice per token at sequence level", 'elif t == 0 or decoder.level == "token":', "else:",
     "test_sampler_and_scorer"),
    ("greedy takes the least likely", "k = tau_logps.argmax(-1) if", "k = tau_logps.argmin(-1) if",
     "test_the_greedy"),
    ("a sampler that is one token off", "right=True)[:, 0]", "right=False)[:, 0]",
     "test_rows_at_0"),
    ("counts include the token: scorer", SCORED, SCORED.replace("start", "stop"),
     "test_response_logps"),
    ("counts include the token: sampler", COUNTED,
     "counts = counts_of(torch.cat([tokens[rows, :t], logits.argmax(-1, True)], 1), V)",
     "test_sampler_and_scorer"),
    ("the prompt counted: sampler", COUNTED, COUNTED + " + counts_of(torch.tensor(prompts[0])"
     ".expand(len(rows), -1), V)", "test_sampler_and_scorer"),
    ("the prompt counted: scorer",
     "text_logps = temperature_logps(logits, rollout.tokens, decoder.choi",
     "text_logps = temperature_logps(logits + 0, rollout.tokens.roll(1, 1), decoder.choi",
     "test_response_logps"),
    ("padding counted: sampler", COUNTED, "counts = counts_of(tokens[rows], V)",
     "test_sampler_and_scorer"),
    ("counts of the columns of this choice only", COUNTED,
     COUNTED + " * (k == tau_idx[rows, t - 1])[:, None]", "test_sampler_and_scorer"),
    ("counts not dropped with their rows", COUNTED, "counts = counts_of(tokens[:len(rows), :t], V)",
     "tests/test_decoder.py test_a_row_is"),
    ("counts of another row in a mixed batch", "None if counts is None else counts[rows]",
     "None if counts is None else counts[:len(rows)]", "test_sampler_and_scorer")]

GENERATION = "tests/test_decoder.py", "decoder.py", [
    ("rows dropped while their choices stay", KEPT, KEPT.replace("k[active]", "k[:n_active]"),
     "test_the_sequence_level"),
    ("cache and tokens drop different rows", "reader.keep(active)", "reader.keep(active.flip(0))",
     "test_a_row_is"),
    ("rows dropped, a schedule's stay", "k = k[rows]", "k = k[:len(rows)]", "test_a_table"),
    ("cut if no padding", "~is_end.any(1), tau_idx", "mask.all(1), tau_idx", "test_ids_that_end"),
    ("a schedule one column off", "row[tokens.shape[1]]", "row[tokens.shape[1] - 1]",
     "test_a_table"),
    ("eos 0 is no eos", "[] if eos is None else eos", "eos or []", "test_ids_that_end"),
    ("NaN taken for a token", "require(index.max() < logps.shape[1],", "index = index.clamp(max="
     "logps.shape[1] - 1)\n    require(True,", "test_logits_from_which"),
    ("an eos that cannot be sampled", "require(((0 <= ends) & (ends < V)).all(),", "require(True,",
     "test_requests"),
    ("counts in the default dtype", "dtype=torch.float32, device=tokens.device)",
     "device=tokens.device)", "test_the_default_dtype"),
    ("float32 noise and sums end the tail", "cumsum(-1, dtype=torch.float64)", "half().cumsum(-1)",
     "test_rare_tokens"),
    ("dropout stays on", "        module.training = False", "        pass",
     "test_a_model_in_train"),
    ("a decoder loaded with other choices", "require(saved == ours,", "require(True,",
     "test_weights_of_other"),
    ("names of choices in six digits", "repr(float(choice))", 'f"{choice:g}"', "test_a_name"),
    ("a step sees the padding", "self.cache.pad = pad if pad.any() else None", "pass",
     "test_with_and_without"),
    ("foreign models see padding first",
     "newest = torch.arange(R, device=new.device), S - 1 - self.pad",
     "newest = torch.arange(R, device=new.device), S - 1", "test_with_and_without")]

MODEL = "tests/test_model.py", "model.py", [
    ("cache positions off by one", "weight[used:used + T]",
     "weight[used + (used > 0):used + (used > 0) + T]", "test_without_padding"),
    ("padding moves no position", "(columns - pad[:, None]).clamp(min=0)",
     "columns.expand(len(idx), -1)",
     "test_the_cache"),
    ("padding is seen", "columns >= self.pad[:, None, None, None]", "columns >= -1",
     "test_the_cache"),
    ("a token does not see itself", "((columns < own) & is_text) | (columns == own)",
     "((columns < own) & is_text) | (columns == 0)", "test_the_cache"),
    ("no causal mask", "is_causal=kv is None", "is_causal=False", "test_no_token"),
    ("in-place update read too late",
     'return x + self.down(F.gelu(self.up(self.norm2(x)), approximate="tanh"))',
     "x = x + self.down.bias\n        return x + F.gelu(self.up(self.norm2(x)), "
     'approximate="tanh") @ self.down.weight.T', "test_logits_are"),
    ("another GELU", 'approximate="tanh"', 'approximate="none"', "test_logits_are"),
    ("square weight not transposed", '("qkv.weight", "out.weight", ', '("qkv.weight", ',
     "test_logits_are"),
    ("hidden state before the norm", "weight.T, hidden\n", "weight.T, x\n", "test_logits_are")]

FAST = "tests/test_fast.py", "fast/generate.py", [
    ("the fast sampler ignores the temperature", NOISE, "logits - noise", "test_texts"),
    ("the fast sampler squares the temperature", NOISE, "logits - tau[:, None] ** 2 * noise",
     "test_texts"),
    ("one greedy row makes all greedy", NOISE, "logits - tau.min() * noise", "test_texts"),
    ("infinite Gumbel noise (pytorch#22557)", ".clamp_min_(torch.finfo(uniform.dtype).tiny)", "",
     "test_lpo.py test_rows_at_0"),
    ("Gumbel noise in float32", "torch.rand(shape, dtype=torch.float64", "torch.rand(shape, dtype="
     "torch.float32", "tests/test_decoder.py test_rare_tokens"),
    ("fast rows dropped, cache kept", "self.cache.keep(kept)", "self.cache.keep(kept * 0)",
     "test_what_is_not_random"),
    ("fast rows dropped, choices kept", "self.newest[kept], self.chosen[kept]",
     "self.newest[kept], self.chosen[:len(kept)]", "test_what_is_not_random"),
    ("fast rows dropped, counts kept", "else self.counts[kept]", "else self.counts[:len(kept)]",
     "test_what_is_not_random"),
    ("a fast schedule one column off", "self.chosen = self.planned[next_place]",
     "self.chosen = self.planned[self.rows, self.pos - 1]", "test_a_table"),
    ("fast choices at every token", 'self.decides = self.decoder.level == "token"',
     "self.decides = True", "test_texts"),
    ("one position for all prompts (unsloth#4078)", "self.cache.step(self.newest, self.pos)",
     "self.cache.step(self.newest, self.pos.amax().expand(self.rows.shape))",
     "test_what_is_not_random"),
    ("first token from the padding (transformers#3095)", "newest = self.prompt_of, self.pos",
     "newest = self.prompt_of, longest - 1", "test_what_is_not_random"),
    ("NaN in one row is none", "|= ~top.isfinite()", "|= ~top.isfinite().any()",
     "test_logits_that_fail"),
    ("NaN of the decoder is an index", "self.chosen = self.best(logps)",
     "self.chosen = logps.argmax(-1)", "test_a_decoder_that"),
    ("fast counts of the prompt", "self.counts = torch.zeros(", "self.counts = decoding.counts_of("
     "self.distinct[self.prompt_of], self.model.config.vocab_size)\n            torch.zeros(",
     "test_texts"),
    ("fast counts never grow", "self.counts.scatter_add_(1, self",
     "self.counts.scatter_add(1, self",
     "test_texts")]

CACHE = "tests/test_fast.py", "fast/cache.py", [
    ("the fast cache does not move on", "self.used += 1", "self.used += 0",
     "test_what_is_not_random"),
    ("fast positions off by one", "F.embedding(pos, self", "F.embedding(pos + 1, self",
     "test_what_is_not_random"),
    ("a fast token does not see itself", "-math.inf).triu(1)", "-math.inf).triu(0)",
     "test_what_is_not_random")]

TRAINING = "tests/test_train.py", "train_toy.py", [
    ("ties counted as preferences", PAIR, PAIR.replace(">", ">="), "test_pairs_by_hand"),
    ("an absolute bound for ties", PAIR, "r[better] - r[worse] > TIE", "test_what_rounding"),
    ("the worst response chosen", "np.argsort(-r, ", "np.argsort(r, ", "test_pairs_by_hand"),
    ("pairs of another prompt", "chosen.append(p * len(r) + ", "chosen.append(p + ",
     "test_pairs_by_hand"),
    ("a reference that moves", "reference = copy.deepcopy((model, decoder))",
     "reference = model, decoder", "test_the_reference_is"),
    ("the first round's reference for ever", 'if rnd == 0 or cfg.reference == "round":',
     "if rnd == 0:",
     "test_the_reference_is"),
    ("a decoder reference nobody asked for", 'variant in ("joint", "separate") and not',
     'variant in ("joint",) and not', "test_which_variants"),
    ("a learning rate that never falls", "cfg.lr * (1 - rnd / cfg.rounds)", "cfg.lr",
     "test_each_round"),
    ("a gradient kept from the step before", "        optimizer.zero_grad()\n", "",
     "test_an_update_does"),
    ("training on test prompts", 'sample_prompts(experiment, "train"', 'sample_prompts(experiment, '
     '"test"', "test_each_round"),
    ("an undecided pair is right", "losses < math.log(2)", "losses < math.log(2) + 1e-3",
     "test_undecided"),
    ("an oracle searched on test prompts", 'sample_prompts(experiment, "validation"',
     'sample_prompts(experiment, "test"', "tests/test_main_job.py test_test_prompts_are")]

TOY = "tests/test_main_job.py", "toy/files.py", [
    ("one temporary name for two runs", "{uuid.uuid4().hex}", "{os.getpid()}", "test_two_runs"),
    ("the commit of an outer repository",
     '"--git-dir", ".git", ', "", "test_the_commit"),
    ("weights kept after the code changed", '"lpo.py", "decoder.py", "train', '"lpo.py", "train',
     "test_names_of_kept"),
    ("a damaged file is read", "if file.testzip() is not None:", "if False:", "test_a_damaged")]

EVALUATION = "tests/test_evaluate.py", "toy/evaluate.py", [
    ("padding counted as the coldest choice", "taus = used[index][mask[index]]",
     "taus = used[index]", "test_round_rows"),
    ("ties count nothing", "0.5 * (ours == theirs)", "0.0 * (ours == theirs)", "test_win_rate"),
    ("unsigned rewards by -x", "numbers = np.asarray(values, dtype=np.float64)",
     "numbers = np.asarray(values)", "tests/test_train.py test_pairs_of_any"),
    ("a masked reward chosen", "fits and not np.ma.isMaskedArray(values)", "fits",
     "tests/test_train.py test_rewards_that"),
    ("the oracle drops at two errors", "MARGIN = 3.0", "MARGIN = 2.0", "test_the_race"),
    ("the two searches swapped", '(r["metric"] == "vote_accuracy") == bool(votes)',
     '(r["metric"] == "vote_accuracy") != bool(votes)', "test_the_oracle_is_searched")]

SAMPLERS = "tests/test_samplers.py", "toy/samplers.py", [
    ("`<` at the edge of top_p", "cumsum(-1) <= 1 - p", "cumsum(-1) < 0.9 * (1 - p)",
     "test_a_truncation"),
    ("the other order", 'if self.order == ORDERS[1] else 1.0)',
     'if self.order == ORDERS[0] else 1.0)',
     "test_the_default"),
    ("presence that counts", "logits - a * (counts > 0)", "logits - a * counts",
     "test_truncation_then"),
    ("negative logits divided", "logits / a, logits * a)", "logits / a, logits / a)",
     "test_the_repetition"),
    ("penalty before the truncation", "logits = logits.masked_fill(self.cut(logits).isneginf(), "
     "-math.inf)", "logits = logits.masked_fill(self.cut(PENALTIES[self.kind](logits, counts, "
     "self.value)).isneginf(), -math.inf)", "test_truncation_then")]

TASKS = "tests/test_tasks.py", "tasks.py", [
    ("repeated words earn a reward", "(len(set(content)) - len(wrong)) / max(",
     "(len(content) - len(wrong)) / max(", "test_rewards_by_hand"),
    ("wrong words are free", "(len(set(words[:5]) & set(members)) - len(wrong)) / 5",
     "len(set(words[:5]) & set(members)) / 5", "test_rewards_by_hand"),
    ("silence is golden", "len(wrong) + max(20 - n, 0)", "len(wrong)", "test_the_reward_of"),
    ("2-grams for 3-grams", "zip(words, words[1:], words[2:])", "zip(words, words[1:])",
     "test_the_reward_of"),
    ("the trap is right", CHAIN, "chain(digits, slips)", "test_answers"),
    ("slots of unequal shape", "if rng.random() < MODE:", "if rng.random() < 0.45:", "test_a_slot"),
    ("the mode among the others", "[word for word in words if word != mode]", "words",
     "test_a_slot"),
    ("roles by the subject only", 'yield "required" if required == "object" else "object"',
     'yield "object"', "test_places"),
    ("test prompts in the corpus", 'if split_of(prompt) == "train":', "if True:",
     "test_prompts_are"),
    ("a tied vote goes to the first", "[answer for answer, n in counts.items() if n == max(counts."
     "values())]", "[answer for answer, _ in counts.most_common(1)]", "test_parts")]

CHECKER = "tests/test_tasks.py", "toy/check_task.py", [
    ("no room for the end of text", "0 < len(words) < task.length",
     "0 < len(words) <= task.length", "test_the_checker_says")]

BUGS = [(name, file, right, wrong, caught if " " in caught else f"{test} {caught}")
        for test, file, bugs in (LPO, SCORING, GENERATION, MODEL, FAST, CACHE, TRAINING, TOY,
                                 EVALUATION, SAMPLERS, TASKS, CHECKER)
        for name, right, wrong, caught in bugs]
