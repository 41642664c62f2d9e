"""Typical wrong answers: each is a solution with one text replaced, and the hint that must come.

tests/test_exercises.py plants them one by one.
"""
from typing import NamedTuple


class WrongAnswer(NamedTuple):
    number: int
    function: str  # whose verdict has the hint
    right: str     # in the solution, once
    wrong: str
    hint: str      # in what the checker says


ARGMAX = "logps[np.argmax(logits)] = 0.0  # argmax: of equals the first"
SCALED = "scaled = (logits - np.max(logits)) / tau"
IF_ZERO = "    if tau == 0:\n"
LOGSOFTMAX = "return scaled - np.log(np.exp(scaled).sum())"
MIXED = "return largest + np.log(np.exp(terms - largest).sum(0))"
WEIGHTS = "weights = np.exp(terms - np.where(possible, largest, 0.0))"
SEPARATE = "return tau_logps[np.arange(len(tau_idx)), tau_idx].sum()"
POSSIBLE = "possible = np.isfinite(logps) & np.isfinite(ref_logps)"
LATENT = "return log_ratio(policy, reference).sum()"
POLICY = "policy = marginal(tau_logps, text_logps)"
MASKED = "drawn = np.where(mask, drawn, 0.0)"
BEFORE = "return ends.cumsum(1) - ends == 0"
GRADIENT = "gradient, now = np.zeros(K), log_softmax(logits)"
DRAW = "return int(np.argmax(logps + rng.gumbel(size=len(logps))))"
WORD = "ids.append(draw(word_logps(logits, tau), rng))"
TAU = 'greedy if select == "greedy" else draw(tau_logps, rng)'
BETTER = "if row[i] > row[j]]"
BEST_WORST = "candidates = [(int(row.argmax()), int(row.argmin()))]"
CUT = "cut = (math.sqrt(self.epsilon) * (-entropy).exp()).clamp(max=self.epsilon)"
TEMPER = "return word_logps(logits.masked_fill(p < cut, -math.inf), self.temperature)"
ENTROPY = "entropy = -torch.where(p > 0, p * logps, 0.0).sum(-1, keepdim=True)"
EXACT = "return P * (Q - P @ Q)"
OTHERS = "others = (rewards.sum() - rewards) / (N - 1)"
MEAN = "return ((rewards - others)[:, None] * grad_logps).mean(0)"
LPO = "return -beta / 2 * (chosen - rejected)"
ROLES = 'ROLES = {"echo": "echo"}'
REWARD = "    words = text.split()\n"
FIRST = "    if losses.score(side([True, False])) != -1:\n"

WRONG = [WrongAnswer(*row) for row in (
    (1, "word_logps", IF_ZERO, "    tau = max(tau, 1e-5)\n" + IF_ZERO,
     "temperature 0 as a division by 1e-05"),
    (1, "word_logps", IF_ZERO, "    tau = np.float64(tau)\n    if tau < 0:\n",
     "0 / 0 is not a number"),
    (1, "word_logps", SCALED, "scaled = logits / tau", "exp overflows: take the largest"),
    (1, "word_logps", SCALED, "scaled = (logits - np.max(logits)) * tau", "divide"),
    (1, "word_logps", ARGMAX, "logps[logits == np.max(logits)] = 0.0\n"
     "        logps -= np.log(np.exp(logps).sum())", "the lowest index takes all"),
    (1, "word_logps", ARGMAX, "logps[len(logits) - 1 - np.argmax(logits[::-1])] = 0.0",
     "not the highest"),
    (1, "word_logps", LOGSOFTMAX, "return np.exp(scaled) / np.exp(scaled).sum()",
     "its logarithm asked for"),

    (2, "mixture_logps", "    terms = np", "    return word_logps(logits, np.exp(tau_logps) @ "
     "temperatures)\n    terms = np", "the average temperature"),
    (2, "mixture_logps", MIXED, "return (np.exp(tau_logps)[:, None] * (terms - tau_logps[:, None]))"
     ".sum(0)", "not the log of the average"),
    (2, "mixture_logps", "logp + word_logps", "-np.log(len(temperatures)) + word_logps",
     "every temperature counts alike"),
    (2, "mixture_logps", MIXED, "return np.log(np.exp(terms).sum(0))", "underflows"),
    (2, "mixture_logps", "largest = np.where(np.isneginf(largest), 0.0, largest)",
     "largest = largest + 0", "-inf - -inf is not a number"),

    (3, "posterior", "terms = tau_logps + text_logps", "terms = text_logps + 0",
     "P(tau_k) is missing"),
    (3, "posterior", "np.where(possible, weights / total, np.exp(tau_logps))",
     "np.exp(tau_logps + text_logps)", "not normalised"),
    (3, "posterior", WEIGHTS, "return np.exp(terms) / np.exp(terms).sum(-1, keepdims=True)",
     "so the posterior is the prior"),
    (3, "posterior", WEIGHTS, "return np.exp(terms) / np.exp(terms).sum(0)",
     "normalised over the words"),
    (3, "latent_gradient", " - np.exp(tau_logps)\n", "\n", "P(tau_k) is to be subtracted"),
    (3, "latent_gradient", " - np.exp(tau_logps)\n", " - 1 / tau_logps.shape[-1]\n",
     "posterior minus 1/K"),
    (3, "latent_gradient", "return posterior(tau_logps, text_logps) -",
     "return -posterior(tau_logps, text_logps) +", "the sign is turned"),

    (4, "separate_score", SEPARATE, SEPARATE.replace("sum", "mean"), "mean over response tokens"),
    (4, "separate_score", SEPARATE, SEPARATE.replace("return ", "return -"),
     "chosen and rejected swapped, or the sign of the score"),
    (4, "joint_score", "return text.sum() + separate_score(tau_logps, tau_idx)",
     "return text.sum()", "temperature term missing"),
    (4, "joint_score", POSSIBLE, "return logps - ref_logps", "NaN"),
    (4, "joint_score", "text = log_ratio(text_logps[t, tau_idx], ref_text_logps[t, tau_idx])",
     "text = np.where(np.isfinite(text_logps[t, tau_idx]), text_logps[t, tau_idx], 0.0)",
     "reference language model missing"),
    (4, "latent_score", POLICY, "policy = (np.exp(tau_logps) * text_logps).sum(-1)\n"
     "    return log_ratio(policy, (np.exp(ref_tau_logps) * ref_text_logps).sum(-1)).sum()",
     "the mean of log P(y | tau_k) over k"),
    (4, "latent_score", LATENT, LATENT.replace("sum", "mean"), "mean over response tokens"),
    (4, "latent_score", "reference = marginal(ref_tau_logps, ref_text_logps)",
     "reference = marginal(0 * ref_tau_logps, ref_text_logps)",
     "the uniform reference of `latent` lacks its 1/K"),
    (4, "preference_loss", "x = beta * (", "x = (", "beta missing"),
    (4, "preference_loss", "np.logaddexp(0.0, -x)", "np.logaddexp(0.0, x)",
     "chosen and rejected swapped"),
    (4, "preference_loss", "np.logaddexp(0.0, -x)", "-np.log(1 / (1 + np.exp(-x)))",
     "log(sigmoid(x)) overflows"),
    (4, "preference_loss", "return np.logaddexp(0.0, -x)",
     "return np.logaddexp(0.0, -x).mean() + 0 * x", "mean over the batch"),

    (5, "response_mask", BEFORE, "return ends.cumsum(1) == 0", "the end of text is left out"),
    (5, "response_mask", BEFORE, "return ends == 0", "tokens other than the end of text"),
    (5, "response_mask", BEFORE, "return ends == ends", "everything counted"),
    (5, "masked_score", "drawn = np.where(mask, drawn, 0.0)", "drawn = drawn * mask",
     "the mask multiplies"),
    (5, "masked_score", MASKED, "drawn = drawn + 0", "padding counted"),
    (5, "masked_score", "    if drawn.shape[1] == mask.shape[1]:\n        " + MASKED,
     "    drawn = np.where(mask, drawn, 0.0)", "counted once a token"),
    (5, "masked_score", "return drawn.sum(1)", "return drawn.sum(1) / mask.sum(1)",
     "mean over response tokens"),

    (6, "margin", "value -= ref", "value += ref", "the reference is added"),
    (6, "margin", "value = tau_logps[chosen] - tau_logps[rejected]",
     "return tau_logps[chosen] - tau_logps[rejected]", "the reference is not subtracted"),
    (6, "margin", "    if ref_tau_logps is not None:\n    ", "", "None is no array"),
    (6, "rounds", GRADIENT, GRADIENT + '\n            if reference != "none":\n'
     "                frozen = now", "the reference moves with every step"),
    (6, "rounds", 'if reference == "round":', "if False:", "stays the first round's"),
    (6, "rounds", 'if reference == "round":', 'if reference != "none":',
     "`initial` is renewed each round"),
    (6, "rounds", "gradient / len(of_round)", "gradient", "take their mean"),
    (6, "rounds", "logits - lr", "logits + lr", "the loss rises"),

    (7, "draw", DRAW, "return int(np.argmax(logps))", "the most likely one, always"),
    (7, "draw", DRAW, "return int(rng.integers(len(logps)))", "all alike"),
    (7, "draw", DRAW, "p = np.clip(-logps, 0, 1e9)\n"
     "    return int(rng.choice(len(p), p=p / p.sum()))",
     "log-probabilities used as probabilities"),
    (7, "respond", WORD, "ids.append(draw(word_logps(logits, 1.0), rng))",
     "the temperature drawn is not applied"),
    (7, "respond", WORD, "ids.append(int(np.argmax(logits)))", "draw the word, too"),
    (7, "respond", TAU, "greedy", "as for 'greedy'"),
    (7, "respond", TAU, "draw(tau_logps, rng)", "as for 'sample'"),
    (7, "respond", " and eos not in ids", "", "ends with its first end of text"),
    (7, "respond", 'level == "token" or not tau_idx', "True", "at the sequence level one alone"),
    (7, "respond", "step(ids)", "step([])", "call step with the words so far"),
    (7, "respond", TAU, "int(rng.integers(len(tau_logps)))" + ' if select == "sample" else greedy',
     "P(tau | h) does not enter"),

    (8, "pairs", BETTER, "if i != j and row[i] >= row[j]]", "a tie makes a pair"),
    (8, "pairs", "(p, i, j) for", "(p, j, i) for", "chosen and rejected are swapped"),
    (8, "pairs", BEST_WORST, "order = np.argsort(-row)\n            "
     "candidates = [(int(order[0]), int(order[min(1, len(row) - 1)]))]",
     "the best against the second best"),
    (8, "pairs", "    if not np.isfinite(rewards).all():\n",
     "    if False:\n", "a NaN compares with nothing"),
    (8, "pairs", "(p, i, j) for", "(p, p * len(row) + i, p * len(row) + j) for",
     "indices into all P*N"),
    (8, "pairs", "rewards = np.asarray(rewards, dtype=float)",
     "rewards = np.asarray(rewards)\n"
     "    if rewards.dtype == np.uint8:\n"
     "        order = np.argsort(-rewards, axis=1, kind='stable').tolist()\n"
     "        both = [[(o[0], o[-1])] if how == 'best-worst' else\n"
     "                itertools.combinations(o, 2) for o in order]\n"
     "        return [(p, i, j) for p, c in enumerate(both) for i, j in c\n"
     "                if rewards[p, i] != rewards[p, j]]\n"
     "    rewards = np.asarray(rewards, dtype=float)", "it wraps around"),

    (9, "task", "LENGTH = 10", "LENGTH = 9", "and a length above"),
    (9, "task", '"start with"', '"begin with"', "give words of WORDS"),
    (9, "task", '"start with", *nouns', '"start with", *nouns[1:]', "words; give 8"),
    (9, "task", '"start with"', '"sum up"', "ask for 'math' already"),
    (9, "task", ROLES, "ROLES = {}", "every word has the role 'rest'"),
    (9, "task", ROLES, 'ROLES = {"noun": "noun"}', "roles names noun"),
    (9, "task", "return right * len(set(words[:8:2]) & set(tasks.VERBS)) / 4", "return 1.0",
     "a tie is no pair"),
    (9, "task", REWARD, REWARD + "    words[7]\n", "a hot model writes anything"),
    (9, "task", REWARD, REWARD + '    if not words:\n        return float("-inf")\n',
     "give a finite number"),
    (9, "task", "nouns = [tasks.pick(tasks.NOUNS, rng) for _ in range(4)]",
     "nouns = [tasks.pick(tasks.NOUNS, rng)] * 4", "300 prompts have"),
    (9, "task", '    while True:\n        yield "stop"', '    yield "stop"', "does not go through"),
    (9, "task", "def answer(prompt, rng):\n",
     "def answer(prompt, rng):\n    import random as rng\n", "the same rng gave other examples"),
    (9, "task", "return right * len", "return -right * len", "no word wants to be cold"),

    (10, "bug", FIRST, '    return "padding"\n' + FIRST, "give one of the five"),
    (10, "bug", FIRST, "    return 3\n" + FIRST, "give one of the five"),
    (10, "bug", FIRST, "    return None\n" + FIRST, "give one of the five"),
    (10, "bug", FIRST, '    other = {"beta twice": "mean for sum"}\n'
     '    return other.get(hunted(losses), "beta twice")\n\n\ndef hunted(losses):\n' + FIRST,
     "guessed?"),

    (11, "eta", CUT, "cut = (math.sqrt(self.epsilon) * (-entropy).exp()).clamp(min=self.epsilon)",
     "eta is the smaller"),
    (11, "eta", ENTROPY, ENTROPY + " / math.log(2)", "entropy in bits"),
    (11, "eta", "logps = word_logps(logits, 1.0)", "logps = word_logps(logits, self.temperature)",
     "cut on the model's own distribution"),
    (11, "eta", TEMPER, "return word_logps(logits.masked_fill(p < cut, -math.inf), 1.0)",
     "the temperature is not applied"),
    (11, "eta", TEMPER,
     "return word_logps(logits, self.temperature).masked_fill(p < cut, -math.inf)",
     "renormalised"),
    (11, "eta", "math.sqrt(self.epsilon) *", "self.epsilon *", "the square root of epsilon"),
    (11, "eta", ENTROPY, "entropy = -(p * logps).sum(-1, keepdim=True)", "0 log 0 is NaN"),
    (11, "eta", 'return f"eta={self.epsilon:g}@{self.temperature:g}"', 'return "eta"',
     "a name tells epsilon and temperature"),
    (11, "eta", "-torch.where(p > 0, p * logps, 0.0).sum(-1, keepdim=True)",
     "-torch.where(p > 0, p * logps, 0.0).sum()[None]", "one entropy for all rows"),

    (12, "exact_gradient", EXACT, "return P * Q", "without the mean reward subtracted"),
    (12, "exact_gradient", EXACT, "return Q - P @ Q", "P_k is missing in front"),
    (12, "exact_gradient", EXACT, "return Q", "expected reward of each temperature"),
    (12, "reinforce", OTHERS, "others = rewards.mean()", "holds the response's own reward"),
    (12, "reinforce", OTHERS, "others = 0.0 * rewards", "no baseline"),
    (12, "reinforce", MEAN, MEAN.replace("mean(0)", "sum(0)"), "take the mean"),
    (12, "reinforce", MEAN, MEAN.replace("return ", "return -"), "the sign is turned"),
    (12, "lpo_gradient", LPO, "return beta / 2 * (chosen - rejected)", "the sign is turned"),
    (12, "lpo_gradient", LPO, "return -beta * (chosen - rejected)", "not -beta"),
    (12, "lpo_gradient", LPO, "return -beta / 2 * (chosen - rejected) / chosen.sum()",
     "a tie makes none"),
    (12, "lpo_gradient", "better = (rewards[:, None] > rewards).astype(float)",
     "better = np.maximum(rewards[:, None] - rewards, 0)", "the size of the rewards enters"),
)]
