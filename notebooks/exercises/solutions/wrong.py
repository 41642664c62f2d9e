"""Known mistakes: each is a solution with one text replaced, and the sentence that names it.

make_key.py runs each on the questions and keeps its answers; check.py recognises them.
"""
LOGSOFTMAX = "return scaled - np.log(np.exp(scaled).sum())"
MIXED = "return np.logaddexp.reduce(rows)"
SEPARATE = "return tau_logps[np.arange(len(tau_idx)), tau_idx].sum()"
MASK, FILL = "ends.cumsum(1) - ends == 0", "logps = np.where(mask, logps, 0.0)"
GRADIENT = "gradient, now = np.zeros(K), log_softmax(logits)"
TOKEN = "choice_logps(logits, tau), random()"
ENTROPY = "-torch.where(p > 0, p * logps, 0.0).sum(-1, keepdim=True)"
LPO, OTHERS = "return -beta / 2 * (chosen", "others = (rewards.sum() - rewards) / (N - 1)"

WRONG = {  # (exercise, function): [(right, wrong, what it is)]
    (1, "choice_logps"): [
        ("if tau == 0", "tau = max(tau, 1e-5)\n    if tau == 0", "a small number instead of 0"),
        ("(logits - np.max(logits)) / tau", "logits / tau", "exp overflows for large logits"),
        ("np.arange(len(logits)) == np.argmax(logits)", "logits == max(logits)", "a tie is shared"),
        (LOGSOFTMAX, "return np.exp(scaled) / np.exp(scaled).sum()", "the logarithm is missing")],
    (2, "mixture_logps"): [
        ("    rows", "    return choice_logps(logits, np.exp(tau_logps) @ temperatures)\n    rows",
         "this is the distribution at the average temperature"),
        (MIXED, "return np.exp(tau_logps) @ (rows - np.asarray(tau_logps)[:, None])",
         "this is the average of log P(y | tau_k), not the log of the average"),
        ("logp + choice", "-np.log(len(temperatures)) + choice", "P(tau_k) does not enter"),
        (MIXED, "return np.log(np.exp(rows).sum(0))", "exp underflows to 0 where log P is -800"),
        (MIXED, "return np.max(rows, 0) + np.log(np.exp(rows - np.max(rows, 0)).sum(0))",
         "-inf - -inf is NaN")],
    (3, "posterior"): [
        ("terms = tau_logps + text_logps", "terms = text_logps + 0", "the prior is missing"),
        ("terms - np.where(possible, total, 0)", "terms", "it is not divided by the sum over k"),
        ("np.where(possible, np.exp", "np.exp(terms - total) + 0 * np.where(possible, np.exp",
         "0 / 0 where no temperature allows the token; there the posterior is the prior")],
    (3, "latent_gradient"): [
        (" - np.exp(tau_logps)\n", "\n", "P(tau_k) is not subtracted"),
        (" - np.exp(tau_logps)\n", " - 1 / tau_logps.shape[-1]\n", "subtract P(tau_k), not 1 / K")],
    (4, "separate_score"): [
        (SEPARATE, SEPARATE.replace("sum", "mean"), "this is the mean over tokens, not the sum")],
    (4, "joint_score"): [
        (" + separate_score(tau_logps, tau_idx)", "", "log P(tau_t) is missing"),
        ("possible =", "return logps - ref_logps  #", "-inf - -inf is NaN; it should count 0"),
        (", ref_text_logps[t, tau_idx])", ", 0 * t)", "the text's reference is missing")],
    (4, "latent_score"): [
        ("= marginal(tau_logps, text_logps)", "= (np.exp(tau_logps) * text_logps).sum(-1)",
         "this is the mean of log P(y | tau_k) over k"),
        ("marginal(ref_tau_logps", "marginal(0 * ref_tau_logps", "Pref(tau_k) is missing")],
    (4, "preference_loss"): [
        ("x = beta * (", "x = (", "beta is missing"),
        ("np.logaddexp(0.0, -x)", "-np.log(1 / (1 + np.exp(-x)))", "exp overflows")],
    (5, "response_mask"): [
        (MASK, "ends.cumsum(1) == 0", "the end of text is left out"),
        (MASK, "ends == 0", "padding that is not eos is counted")],
    (5, "masked_score"): [
        (FILL, "logps = logps * mask", "NaN times 0 is NaN"),
        (FILL, "logps = logps + 0", "padding is counted"),
        ("if logps.shape[1] == mask.shape[1]:", "if True:", "a sequence has one temperature")],
    (6, "margin"): [
        ("value -= ref", "value += ref", "the reference is added"),
        ("    if ref_tau_logps is not None:\n    ", "", "the reference may be None")],
    (6, "rounds"): [
        (GRADIENT, GRADIENT + "\n            frozen = frozen if frozen is None else now",
         "the reference moves with every step"),
        ('if reference == "round":', 'if reference != "none":', "`initial` is renewed, too"),
        ("gradient / len(of_round)", "gradient", "this is the sum over pairs, not the mean"),
        ("slope = -beta /", "slope = -1 /", "beta is missing in front")],
    (7, "sample"): [
        ("return int(", "return int(np.argmax(logps)) + 0 * int(", "this is always the likeliest"),
        ('side="right"', 'side="left"', "the sum must exceed u; it may not equal it")],
    (7, "respond"): [
        (TOKEN, "choice_logps(logits, 1.0), random()", "the temperature is not applied"),
        (f"sample({TOKEN})", "int(np.argmax(logits))", "the token is not sampled"),
        ('if select == "greedy"', "if False", "`greedy` is ignored"),
        (" and eos not in ids", "", "the response goes on after eos"),
        ('level == "token" or not tau_idx', "True", "the sequence level picks once, not per token"),
        ("step(ids)", "step([])", "step does not get the ids so far")],
    (8, "pairs"): [
        ("if row[i] > row[j]]", "if i != j and row[i] >= row[j]]", "a tie makes a pair"),
        ("(p, i, j) for", "(p, j, i) for", "chosen and rejected are swapped"),
        ("    if not np.isfinite(rewards).all():\n", "    if False:\n", "NaN is not refused"),
        ("np.asarray(rewards, dtype=float)", "-(-np.asarray(rewards)).astype(float)",
         "of unsigned numbers -x wraps around")],
    (9, "task"): [  # here the third text is a part of the sentence that must come
        ("LENGTH = 10", "LENGTH = 9", "and a length above"),
        ('"start with"', '"sum up"', "belong to 'math'"),
        ('ROLES = {"echo": "echo"}', "ROLES = {}", "every word has the role 'rest'"),
        ("return right * len", "return 1 / len(words) + len", "is ZeroDivisionError"),
        ("return right * len", "return 1.0 + 0 * len", "a tie makes no pair"),
        ("return right * len", "return -right * len", "no word wants to be cold"),
        ("for _ in range(4)]\n", "for _ in range(1)] * 4\n", "300 prompts differ"),
        ("prompt, rng):\n", "prompt, rng):\n    import random as rng\n", "same rng gave other")],
    (10, "fix"): [("x = beta * (", "x = (", "beta is missing now")],
    (11, "eta"): [
        (".clamp(max=", ".clamp(min=", "the larger of the two bounds is used"),
        (ENTROPY, ENTROPY + " / math.log(2)", "the entropy is in bits; exp(-H) needs nats"),
        ("(logits, 1.0)", "(logits, self.temperature)", "the temperature comes before the removal"),
        (ENTROPY, "-(p * logps).sum(-1, keepdim=True)", "0 log 0 is NaN, and so is the entropy"),
        (ENTROPY, ENTROPY.replace("-1, keepdim=True", ""), "one entropy is used for all rows"),
        ('f"eta={self.epsilon:g}@{self.temperature:g}"', '"eta"', "the name is always the same")],
    (12, "log_gradient"): [(" - softmax(tau_logits)", "", "differentiate the log of the sum")],
    (12, "exact_gradient"): [
        ("P * (Q - P @ Q)", "P * Q", "J is not subtracted"),
        ("P * (Q - P @ Q)", "Q - P @ Q", "P_k is missing in front")],
    (12, "reinforce"): [
        (OTHERS, "others = rewards.mean()", "the baseline contains the response's own reward"),
        (OTHERS, "others = 0", "there is no baseline")],
    (12, "lpo_gradient"): [
        (LPO, LPO.replace("-beta", "beta"), "the sign is wrong: this is the gradient of a loss"),
        (LPO, LPO.replace(" / 2", ""), "the slope at margin 0 is not -beta"),
        (".astype(float)", " * abs(rewards[:, None] - rewards)", "the size of the rewards enters")],
}
