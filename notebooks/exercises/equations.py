"""Judges of exercises 1 to 6 and 12: equations, whose answers are numbers.

Each has the right answers, worked out by hand or by conformance/oracle.py's loops, or golden cases;
and beside them known mistakes {hint: function}. lpo.py is not read.
"""
import itertools
import math

import numpy as np
import oracle
from cases import SIDES

from notebooks.exercises.judging import (CASES, Question, Wrong, asked, by_cases, judged, log,
                                         numbers, of_variant, on_paper_first, rows_of, same, shown,
                                         softmax, stable)

LN3, LN4 = math.log(3), math.log(4)
INF = math.inf


# --- 1. temperature 0 -----------------------------------------------------------------------------


def divided_by(tiny):
    def word_logps(logits, tau):
        return stable(logits, max(tau, tiny))
    return word_logps


def shared_tie(logits, tau):
    best = np.asarray(logits) == np.max(logits)
    return stable(logits, tau) if tau else log(best / best.sum())


def highest_of_tie(logits, tau):
    return stable(np.asarray(logits)[::-1], tau)[::-1]


TEMPERATURE = {
    "softmax returned, its logarithm asked for": lambda x, tau: np.exp(stable(x, tau)),
    "the logits are multiplied by the temperature; divide":
        lambda x, tau: stable(np.asarray(x) * tau, 1.0),
    "temperature 0 is divided by: 0 / 0 is not a number; it is the arg-max":
        lambda x, tau: log(softmax(np.asarray(x) / np.float64(tau))),
    "exp overflows: take the largest logit out first":
        lambda x, tau: log(softmax(np.asarray(x) / np.float64(tau))) if tau else stable(x, tau),
    "exp overflows: take the largest logit out first, in the sum's logarithm too":
        lambda x, tau: np.asarray(x) / tau - log(np.exp(np.asarray(x) / tau).sum()) if tau
        else stable(x, tau),
    **{f"temperature 0 as a division by {tiny:g}; it is the arg-max exactly": divided_by(tiny)
       for tiny in (1e-2, 1e-3, 1e-4, 1e-5, 1e-6, 1e-8, 1e-10, 1e-12)},
    "on a tie at temperature 0 the lowest index takes all": shared_tie,
    "on a tie at temperature 0 the lowest index takes all, not the highest": highest_of_tie,
    "temperature 0 taken as 1": lambda x, tau: stable(x, tau or 1.0)}


def word_logps(theirs, student):
    judged(theirs, "word_logps", [
        Question("logits ln 3, 0 at temperature 1", (np.array([LN3, 0.0]), 1.0),
                 [math.log(3 / 4), math.log(1 / 4)]),
        Question("logits ln 3, 0 at temperature 1/2", (np.array([LN3, 0.0]), 0.5),
                 [math.log(9 / 10), math.log(1 / 10)]),
        Question("logits 0, ln 3 at temperature 0", (np.array([0.0, LN3]), 0.0), [-INF, 0.0]),
        Question("the tie 1, 2, 2 at temperature 0", (np.array([1.0, 2.0, 2.0]), 0.0),
                 [-INF, 0.0, -INF]),
        Question("logits 400, 0 at temperature 1/2", (np.array([400.0, 0.0]), 0.5), [0.0, -800.0])],
        TEMPERATURE)
    cases = [case for case in CASES if "ties" in case["name"] or "huge" in case["name"]
             or case["name"] == "joint-token-noref-zero-moved"]
    by_cases(theirs, "temperature_logps", cases, lambda case: {
        side: [[[asked(theirs, "word_logps", logits, float(tau))[token]
                 for tau in case["temperatures"]] for logits, token in zip(*row)]
               for row in zip(case[side]["lm_logits"], case[side]["tokens"])] for side in SIDES})


# --- 2. the mixture -------------------------------------------------------------------------------


def marginal(logits, tau_logps, temperatures):
    at = [stable(logits, tau) for tau in temperatures]
    return np.array([oracle.log_sum_exp([p + row[v] for p, row in zip(tau_logps, at)])
                     for v in range(len(logits))])


def average_temperature(logits, tau_logps, temperatures):
    return stable(logits, float(np.exp(tau_logps) @ temperatures))


def weighted(logits, tau_logps, temperatures, weights=None, of=np.exp, back=log):
    at = np.stack([stable(logits, tau) for tau in temperatures])
    weights = np.exp(tau_logps) if weights is None else weights
    return back(weights @ of(at))


MIXTURE = {
    "the average temperature: a mixture of distributions is not the distribution at the mean":
        average_temperature,
    "the average of log P(y | tau_k), not the log of the average of P(y | tau_k)":
        lambda x, p, taus: weighted(x, p, taus, of=lambda a: a, back=lambda a: a),
    "every temperature counts alike: P(tau_k) is missing":
        lambda x, p, taus: weighted(x, p, taus, weights=np.full(len(taus), 1 / len(taus))),
    "log P(tau_k) used as a weight: take its exponential":
        lambda x, p, taus: weighted(x, p, taus, weights=np.asarray(p)),
    "the most likely temperature alone: sum over all":
        lambda x, p, taus: stable(x, taus[int(np.argmax(p))]),
    "probabilities returned, their logarithm asked for":
        lambda x, p, taus: weighted(x, p, taus, back=lambda a: a),
    "exp underflows to 0 where log P is -800: take the largest term out first (logsumexp)":
        weighted,
    "-inf - -inf is not a number: a word that no temperature can write has log-probability -inf":
        lambda x, p, taus: naive_logsumexp(np.asarray(p)[:, None]
                                           + np.stack([stable(x, tau) for tau in taus]))}


def naive_logsumexp(terms):
    largest = terms.max(0)
    return largest + log(np.exp(terms - largest).sum(0))


def mixture_logps(theirs, student):
    halves, quarter = np.log([0.5, 0.5]), np.log([0.25, 0.75])
    fox = np.array([LN3, 0.0])
    random = np.random.default_rng(2)
    logits, tau_logps = random.normal(size=5), log(softmax(random.normal(size=3)))
    judged(theirs, "mixture_logps", [
        Question("logits ln 3, 0 and temperatures 0, 1 alike", (fox, halves, [0.0, 1.0]),
                 np.log([7 / 8, 1 / 8])),
        Question("logits ln 3, 0 and P(tau) 1/4 at 0, 3/4 at 1", (fox, quarter, [0.0, 1.0]),
                 np.log([13 / 16, 3 / 16])),
        Question("five words, temperatures 0.5, 1, 2", (logits, tau_logps, [0.5, 1.0, 2.0]),
                 marginal(logits, tau_logps, [0.5, 1.0, 2.0])),
        Question("logits 800, 0, temperatures 1, 1/2", (np.array([800.0, 0.0]), halves, [1.0, 0.5]),
                 [0.0, math.log(0.5) - 800]),
        Question("temperature 0 alone", (fox, np.zeros(1), [0.0]), [0.0, -INF])], MIXTURE)


# --- 3. the posterior -----------------------------------------------------------------------------


def by_rows(of_row):
    return lambda tau_logps, text_logps: np.array([
        of_row(np.asarray(p, float), np.asarray(y, float))
        for p, y in zip(tau_logps, text_logps)])


def bayes(p, y):
    total = oracle.log_sum_exp([float(x) for x in p + y])
    return np.exp(p) if total == -INF else np.exp(p + y - total)


def shares(x):
    return x / x.sum(-1, keepdims=True)


POSTERIOR = {
    "not normalised: divide by the sum over k": by_rows(lambda p, y: np.exp(p + y)),
    "P(tau_k) is missing: the posterior weighs it by the likelihood":
        by_rows(lambda p, y: shares(np.exp(y))),
    "the prior P(tau_k), whatever the word": by_rows(lambda p, y: np.exp(p)),
    "normalised over the words t, not over the temperatures k":
        lambda p, y: np.exp(np.add(p, y)) / np.exp(np.add(p, y)).sum(0),
    "the logarithm returned, probabilities asked for": by_rows(lambda p, y: log(bayes(p, y))),
    "0 / 0: a word that no temperature can write says nothing, so the posterior is the prior":
        by_rows(lambda p, y: shares(np.exp(p + y))),
    "a word that no temperature can write says nothing: the prior, not zeros":
        by_rows(lambda p, y: bayes(p, y) * np.isfinite(y.max()))}

LATENT = {
    "the posterior alone: P(tau_k) is to be subtracted": by_rows(bayes),
    "the sign is turned: posterior minus prior": by_rows(lambda p, y: np.exp(p) - bayes(p, y)),
    "posterior minus 1/K, not minus P(tau_k)": by_rows(lambda p, y: bayes(p, y) - 1 / len(p)),
    "the likelihood P(y | tau_k) minus P(tau_k): normalise it by Bayes' rule":
        by_rows(lambda p, y: np.exp(y) - np.exp(p)),
    "P(tau_k) is missing in the posterior":
        by_rows(lambda p, y: shares(np.exp(y)) - np.exp(p)),
    "one row for all words; give one a word": lambda p, y: by_rows(bayes)(p, y).sum(0),
    "0 / 0: a word that no temperature can write has gradient 0":
        by_rows(lambda p, y: shares(np.exp(p + y)) - np.exp(p))}


def d_marginal(tau_logps, text_logps):
    """By central differences of log sum_k P(tau_k) P(y | tau_k), in the head's logits."""
    def value(logits, y):
        return oracle.log_sum_exp([a + b for a, b in zip(oracle.log_softmax(list(logits)), y)])

    def slope(p, y):
        steps = 1e-5 * np.eye(len(p))
        if value(p, y) == -INF:
            return np.zeros(len(p))
        return np.array([(value(p + e, y) - value(p - e, y)) / 2e-5 for e in steps])
    return np.array([slope(p, y) for p, y in zip(tau_logps, text_logps)])


FOX_OWL = np.log([[1, 3 / 4], [1e-300, 1 / 4]])
FOX_OWL[1, 0] = -INF  # at temperature 0 the owl is impossible


def rows_for_posterior():
    """(words, tau_logps (T,K), text_logps (T,K))"""
    yield "fox, owl and a uniform head", np.log(np.full((2, 2), 1 / 2)), FOX_OWL
    yield "fox, owl and P(tau) = 1/4, 3/4", np.log([[1 / 4, 3 / 4]] * 2), FOX_OWL
    random = np.random.default_rng(3)
    prior = np.log([softmax(random.normal(size=3)) for _ in range(4)])
    yield "four words, K = 3", prior, -np.abs(random.normal(size=(4, 3)))
    yield "four words, the third impossible at every temperature", prior, np.array(
        [[-0.5, -1.0, -INF], [-0.1, -0.2, -0.3], [-INF, -INF, -INF], [-2.0, -1.0, -0.5]])


def posterior(theirs, student):
    questions = [Question(words, (p, y), by_rows(bayes)(p, y))
                 for words, p, y in rows_for_posterior()]
    assert np.allclose(questions[0].want, [[4 / 7, 3 / 7], [0, 1]])  # by hand
    judged(theirs, "posterior", questions, POSTERIOR)


def latent_gradient(theirs, student):
    questions = [Question(words, (p, y), by_rows(bayes)(p, y) - np.exp(p))
                 for words, p, y in rows_for_posterior()]
    for _, (p, y), want in questions:
        assert np.allclose(want, d_marginal(p, y), atol=1e-8)
    judged(theirs, "latent_gradient", questions, LATENT)


# --- 4. the losses --------------------------------------------------------------------------------


ON_PAPER = {  # the chosen response of notebook 3: fox owl, drawn at 0 and 1, P(tau) = 1/4, 3/4
    "tau_logps": np.log([[1 / 4, 3 / 4]] * 2), "tau_idx": np.array([0, 1]),
    "text_logps": FOX_OWL, "ref_text_logps": FOX_OWL,
    "ref_tau_logps": np.log([[1 / 2, 1 / 2]] * 2)}
MOVED = np.array([[0.0, math.log(4 / 5)], [-INF, math.log(1 / 5)]])  # logits ln 4, 0


def score_of(theirs, function, cases, names, words, given, want):
    """A score of responses without padding: one on paper, then golden cases."""
    on_paper_first(
        lambda: judged(theirs, function, [Question(
            words, tuple((ON_PAPER | given)[name] for name in names), want)], {}),
        lambda: by_cases(theirs, "score", cases, lambda case: {
            side: [asked(theirs, function, *(row[name] for name in names))
                   for row in rows_of(case, side)] for side in SIDES}))


def separate_score(theirs, student):
    score_of(theirs, "separate_score", of_variant("separate", "token", reference=False),
             ("tau_logps", "tau_idx"), "fox owl of notebook 3, P(tau) = 1/4, 3/4, drawn 0 1",
             {}, math.log(3 / 16))


def joint_score(theirs, student):
    score_of(theirs, "joint_score", of_variant("joint", "token", reference=False),
             ("tau_logps", "tau_idx", "text_logps", "ref_text_logps"),
             "fox owl of notebook 3, the model moved to logits ln 4, 0", {"text_logps": MOVED},
             math.log(4 / 5 * 3 / 16))


def latent_score(theirs, student):
    score_of(theirs, "latent_score", of_variant("latent", "token"),
             ("tau_logps", "text_logps", "ref_tau_logps", "ref_text_logps"),
             "fox owl of notebook 3, a uniform reference", {}, math.log(13 / 14 * 3 / 2))


def preference_loss(theirs, student):
    cases = [case for case in CASES if case["expected"]["scores"]]
    on_paper_first(
        lambda: judged(theirs, "preference_loss", [
            Question("scores ln 3/16 and ln 1/16, beta 1",
                     (np.log([3 / 16]), np.log([1 / 16]), 1.0), [math.log(4 / 3)]),
            Question("scores ln 9, 0 and 0, ln 9, beta 1/2",
                     (np.log([9, 1]), np.log([1, 9]), 0.5), np.log([4 / 3, 4]))], {}),
        lambda: by_cases(theirs, "loss", cases[::3] + cases[-1:], lambda case: {"": asked(
            theirs, "preference_loss", *(oracle.score(case, side) for side in SIDES),
            case["beta"])}))


# --- 5. the mask ----------------------------------------------------------------------------------


def by_ids(of_row):
    return lambda tokens, eos: np.array([of_row(list(row), eos) for row in tokens], float)


def first_end(row, eos):
    return row.index(eos) if eos in row else len(row)


MASK = {
    "the end of text is left out: it was drawn as any other token":
        by_ids(lambda row, eos: [t < first_end(row, eos) for t in range(len(row))]),
    "tokens other than the end of text, wherever they stand; padding comes after the first":
        by_ids(lambda row, eos: [x != eos for x in row]),
    "up to the last end of text; padding behind the first may hold that token again":
        by_ids(lambda row, eos: [t < len(row) - row[::-1].index(eos) if eos in row else True
                                 for t in range(len(row))]),
    "one token too many behind the end of text":
        by_ids(lambda row, eos: [t <= first_end(row, eos) + 1 for t in range(len(row))]),
    "a row without an end of text is a response all the same":
        by_ids(lambda row, eos: [eos in row and t <= first_end(row, eos)
                                 for t in range(len(row))]),
    "true where padding stands: turn it round":
        by_ids(lambda row, eos: [t > first_end(row, eos) for t in range(len(row))]),
    "everything counted, padding too": by_ids(lambda row, eos: [True] * len(row))}


def response_mask(theirs, student):
    boolean = WithNumbers(theirs)
    judged(boolean, "response_mask", [
        Question(words, (np.array(tokens), eos),
                 by_ids(lambda row, eos: [t <= first_end(row, eos) for t in range(len(row))])(
                     tokens, eos))
        for words, tokens, eos in (
            ("tokens 5 3 9 9, end of text 9", [[5, 3, 9, 9]], 9),
            ("tokens 9 5 3 and 5 9 3, end of text 9", [[9, 5, 3], [5, 9, 3]], 9),
            ("tokens 5 3 4, no end of text", [[5, 3, 4]], 9),
            ("end of text 0: 4 0 0 7", [[4, 0, 0, 7]], 0))], MASK)


class WithNumbers:
    """`theirs`, with true and false as 1 and 0."""

    def __init__(self, theirs):
        self.theirs, self.functions = theirs, theirs.functions

    @property
    def ended(self):
        return self.theirs.ended

    def ask(self, *question):
        kind, what = self.theirs.ask(*question)
        if kind == "gave" and what is not None:
            what = np.asarray(what).astype(float)
        return kind, what


def masked_score(theirs, student):
    cases = of_variant("separate", reference=False)

    def arrays(case, side, under=None):
        tau_logps = np.array([[oracle.log_softmax(row) for row in rows]
                              for rows in case[side]["decoder_logits"].tolist()])
        mask = case[side]["mask"].astype(bool)
        if under is not None and tau_logps.shape[1] == mask.shape[1]:
            tau_logps[~mask] = under
        return tau_logps, case[side]["tau_idx"], mask
    halves = np.log([[[1 / 2, 1 / 2], [1 / 4, 3 / 4], [1 / 8, 7 / 8]]])
    on_paper_first(
        lambda: judged(theirs, "masked_score", [
            Question("token level, P of the drawn ones 1/2 1/4 1/8, the last padding",
                     (halves, np.array([[0, 0, 0]]), np.array([[True, True, False]])),
                     [math.log(1 / 8)]),
            Question("sequence level, P of the drawn one 1/2, two response tokens of three",
                     (halves[:, :1], np.array([[0]]), np.array([[True, True, False]])),
                     [math.log(1 / 2)])], {}),
        lambda: by_cases(theirs, "score", cases, lambda case: {
            side: asked(theirs, "masked_score", *arrays(case, side)) for side in SIDES}))
    judged(theirs, "masked_score", [
        Question(f"{case['name']}, {under} under the mask", arrays(case, "chosen", under),
                 oracle.score(case, "chosen"))
        for case in cases if case["level"] == "token" for under in (math.nan, -INF)],
        {"the mask multiplies, and NaN times 0 is NaN: fill in zeros (np.where)":
         lambda tau_logps, tau_idx, mask: (np.take_along_axis(
             tau_logps, tau_idx[..., None], -1)[..., 0] * mask).sum(-1)})


# --- 6. the reference -----------------------------------------------------------------------------

MARGIN = {
    "the reference is not subtracted": lambda p, ref, c, r: p[c] - p[r],
    "the reference is added; subtract it":
        lambda p, ref, c, r: p[c] - p[r] + (0 if ref is None else ref[c] - ref[r]),
    "chosen and rejected are swapped": lambda p, ref, c, r: -margin_of(p, ref, c, r),
    "the reference of the chosen one alone is subtracted":
        lambda p, ref, c, r: p[c] - p[r] - (0 if ref is None else ref[c]),
    "without a reference nothing is subtracted: None is no array":
        lambda p, ref, c, r: p[c] - p[r] - (ref[c] - ref[r])}


def margin_of(p, ref, c, r):
    return p[c] - p[r] - (0 if ref is None else ref[c] - ref[r])


def margin(theirs, student):
    p, ref = np.log([0.5, 0.25, 0.125, 0.125]), np.log([0.25, 0.125, 0.125, 0.5])
    judged(theirs, "margin", [
        Question("P = 1/2 1/4 1/8 1/8, no reference, chosen 0, rejected 2", (p, None, 0, 2), LN4),
        Question("P = 1/2 1/4 1/8 1/8, reference 1/4 1/8 1/8 1/2, chosen 0, rejected 2",
                 (p, ref, 0, 2), math.log(2)),
        Question("P = 1/2 1/4 1/8 1/8, reference 1/4 1/8 1/8 1/2, chosen 3, rejected 1",
                 (p, ref, 3, 1), math.log(1 / 8)),
        Question("the reference is the policy", (p, p, 1, 3), 0.0)], MARGIN)


def trained(pairs, K, beta, lr, steps, reference, late=False, total=False, moving=False):
    """The rounds of exercise 6 by the oracle's derivatives.  -> (R,K)"""
    logits, before, found = np.zeros(K), np.zeros(K), []
    ref = np.zeros(K)
    for of_round in pairs:
        if reference == "round":
            ref = before if late else logits
            before = logits
        for _ in range(steps):
            gradient, current = np.zeros(K), oracle.log_softmax(list(logits))
            frozen = None if reference == "none" else oracle.log_softmax(
                list(logits if moving else ref))
            for c, r in of_round:
                slope = oracle.d_preference_loss(margin_of(current, frozen, c, r), beta)
                gradient += slope * (np.array(oracle.d_log_softmax(list(logits), c))
                                     - np.array(oracle.d_log_softmax(list(logits), r)))
            logits = logits - lr * gradient / (1 if total else len(of_round))
        found.append(softmax(logits))
    return np.array(found)


def otherwise(which, instead):
    """As asked, but one kind of reference is taken for another."""
    return lambda pairs, K, beta, lr, steps, reference: trained(
        pairs, K, beta, lr, steps, instead if reference == which else reference)


ROUNDS = {
    "the reference moves with every step: copy the head once, when its round begins":
        lambda *given: trained(*given, moving=True),
    "the reference stays the first round's: renew it when a round begins":
        otherwise("round", "initial"),
    "the reference is the head of the round before: take it when this round begins, not earlier":
        lambda *given: trained(*given, late=True),
    "`initial` is renewed each round; it is the first round's head for good":
        otherwise("initial", "round"),
    "the sum over pairs; take their mean": lambda *given: trained(*given, total=True),
    "the gradient is climbed, the loss rises: step against it":
        lambda pairs, K, beta, lr, *rest: trained(pairs, K, beta, -lr, *rest),
    "beta is missing in front of sigma: the slope is -beta sigma(-beta margin)":
        lambda pairs, K, beta, lr, *rest: trained(pairs, K, beta, lr / beta, *rest)}


def rounds(theirs, student):
    pairs = [[(0, 1), (0, 2), (2, 1)], [(0, 1), (2, 0)], [(0, 1), (0, 2)], [(2, 1)]]
    judged(theirs, "rounds", [
        Question(f"four rounds, K = 3, reference {reference!r}",
                 (pairs, 3, 0.5, 1.0, 20, reference), trained(pairs, 3, 0.5, 1.0, 20, reference))
        for reference in ("none", "initial", "round")], ROUNDS)


# --- 12. REINFORCE and LPO ------------------------------------------------------------------------


def outcomes(tau_logits, text_probs):
    """Every (k, y) and its probability, by enumeration."""
    P = softmax(tau_logits)
    return [(k, y, P[k] * text_probs[k][y]) for k in range(len(P))
            for y in range(len(text_probs[0]))]


def expected_reward(tau_logits, text_probs, rewards):
    return math.fsum(p * rewards[y] for _, y, p in outcomes(tau_logits, text_probs))


def by_differences(tau_logits, text_probs, rewards):
    steps = 1e-5 * np.eye(len(tau_logits))
    return np.array([(expected_reward(tau_logits + e, text_probs, rewards)
                      - expected_reward(tau_logits - e, text_probs, rewards)) / 2e-5
                     for e in steps])


def exact_of(tau_logits, text_probs, rewards):
    """sum over (k, y) of P(k, y) r(y) (1_k - P), the score function enumerated."""
    P = softmax(tau_logits)
    return sum(p * rewards[y] * (np.eye(len(P))[k] - P)
               for k, y, p in outcomes(tau_logits, text_probs))


def reinforce_of(tau_logits, tau_idx, rewards, baseline="others", divide=True):
    P, N, total = softmax(tau_logits), len(rewards), 0
    for n in range(N):
        others = [r for m, r in enumerate(rewards) if m != n]
        b = {"others": np.mean(others), "all": np.mean(rewards), "none": 0.0}[baseline]
        total = total + (rewards[n] - b) * (np.eye(len(P))[tau_idx[n]] - P)
    return total / (N if divide else 1)


def lpo_of(tau_logits, text_probs, rewards, beta, ties=False, sign=1.0, half=True, given=False):
    every, mass, total = outcomes(tau_logits, text_probs), 0.0, np.zeros(len(tau_logits))
    for (i, y, p), (j, z, q) in itertools.product(every, every):
        if rewards[y] > rewards[z] or ties and rewards[y] == rewards[z]:
            slope = oracle.d_preference_loss(0.0, beta) * (1 if half else 2)
            total += sign * p * q * slope * (np.eye(len(total))[i] - np.eye(len(total))[j])
            mass += p * q
    return total / (mass if given else 1)


EXACT = {
    "P_k Q_k, without the mean reward subtracted: d P_j / d logit_k is P_j (1_jk - P_k)":
        lambda x, text, r: softmax(x) * (np.asarray(text) @ r),
    "by the probabilities, not by the logits: P_k is missing in front":
        lambda x, text, r: np.asarray(text) @ r - softmax(x) @ (np.asarray(text) @ r),
    "the expected reward of each temperature; its gradient by the logits is asked for":
        lambda x, text, r: np.asarray(text) @ r,
    "the sign is turned: it is the reward's gradient, to be climbed":
        lambda *given: -exact_of(*given)}
REINFORCE = {
    "the baseline holds the response's own reward: the mean of the others is asked for":
        lambda *given: reinforce_of(*given, baseline="all"),
    "no baseline: right on average, and noisier; subtract the mean of the others' rewards":
        lambda *given: reinforce_of(*given, baseline="none"),
    "the sum over responses; take the mean": lambda *given: reinforce_of(*given, divide=False),
    "the sign is turned: it is the reward's gradient, to be climbed":
        lambda *given: -reinforce_of(*given)}
LPO = {
    "the sign is turned: the gradient of the loss, which is descended":
        lambda *given: lpo_of(*given, sign=-1.0),
    "the slope at margin 0 is -beta / 2, not -beta": lambda *given: lpo_of(*given, half=False),
    "divided by the probability of a pair: a tie makes none and adds 0":
        lambda *given: lpo_of(*given, given=True),
    "the size of the rewards enters; a pair only says which is better":
        lambda x, text, r, beta: -beta / 2 * sum(
            p * q * max(r[y] - r[z], 0) * (np.eye(len(x))[i] - np.eye(len(x))[j])
            for (i, y, p), (j, z, q) in itertools.product(outcomes(x, text), repeat=2)),
    "beta is missing: the slope at margin 0 is -beta / 2":
        lambda x, text, r, beta: lpo_of(x, text, r, 1.0)}

TWO = np.array([[1.0, 0.0], [0.4, 0.6]])  # cold always writes word 0, hot word 1 more often
SETTINGS = {  # (head's logits (K,), P(y | tau_k) (K,Y), rewards (Y,))
    "K = 2, P = 1/2 each, rewards 0.6, 1": (np.zeros(2), TWO, np.array([0.6, 1.0])),
    "K = 3, four texts": (np.array([0.3, -0.7, 0.1]),
                          np.array([[0.7, 0.1, 0.1, 0.1], [0.4, 0.3, 0.2, 0.1],
                                    [0.25, 0.25, 0.25, 0.25]]), np.array([1.0, -2.0, 1.0, 3.0]))}


def exact_gradient(theirs, student):
    for given in SETTINGS.values():
        assert np.allclose(exact_of(*given), by_differences(*given), atol=1e-8)
    judged(theirs, "exact_gradient", [Question(words, given, exact_of(*given))
                                      for words, given in SETTINGS.items()], EXACT)


def reinforce(theirs, student):
    x = np.array([0.3, -0.7, 0.1])
    judged(theirs, "reinforce", [
        Question("K = 2, P = 1/2 each, drawn 0 1, rewards 1 0",
                 (np.zeros(2), np.array([0, 1]), np.array([1.0, 0.0])), [0.5, -0.5]),
        Question("K = 3, drawn 0 2 2 1, rewards 1 -2 1 3",
                 (x, np.array([0, 2, 2, 1]), np.array([1.0, -2.0, 1.0, 3.0])),
                 reinforce_of(x, [0, 2, 2, 1], [1.0, -2.0, 1.0, 3.0]))], REINFORCE)
    x, text, rewards = SETTINGS["K = 3, four texts"]  # its mean over all pairs of draws is exact
    mean = sum(p * q * numbers(asked(theirs, "reinforce", x, np.array([i, j]),
                                     np.array([rewards[y], rewards[z]])))
               for (i, y, p), (j, z, q) in itertools.product(outcomes(x, text), repeat=2))
    if not same(mean, exact_of(x, text, rewards)):
        raise Wrong(f"over all draws of two responses its mean is {shown(mean)}, expected "
                    f"{shown(exact_of(x, text, rewards))}, the exact gradient")


def lpo_gradient(theirs, student):
    questions = [Question(f"{words}, beta {beta}", (*given, beta), lpo_of(*given, beta))
                 for words, given in SETTINGS.items() for beta in (0.5, 2.0)]
    judged(theirs, "lpo_gradient", questions, LPO)
