"""Runs any implementation of LPO, model and sampler included, against model_kit/. Needs numpy.

    python conformance/check_model.py their_module      or path/to/file.py

The module defines up to four functions; one that is missing is skipped, as is a question for which
one raises NotImplementedError. Token ids are lists of whole numbers, of unequal lengths; arrays are
numpy's or nested lists. Padding, packing, shards and caches are the module's own business.
    score(policy, prompts, responses)   a prompt and a response a row -> a list of
        {"tau_logps": log P(tau | h), (T,K) or at the sequence level (1,K),
         "text_logps": log P(y_t | tau_k), (T,K),
         "mixture_logps": log sum_k P(tau_k) P(y_t | tau_k), (T,)}; what is left out is skipped
    generate(policy, prompts, max_new_tokens, n, seed, select)   n responses a prompt ->
        answer[prompt][i] = (ids, tau_idx), the end of text (`eos_token_id`) included; tau_idx has
        one index a token, at the sequence level one alone. select: "sample" draws the choice,
        "greedy" takes the most likely one; the word is drawn at it in either
    pairs(rewards, how)   (P,N) array, "best-worst" or "all" -> list of (prompt, chosen, rejected),
        indices; ties make no pair, NaN is refused by an exception. "top-2" comes with two criteria,
        (2,P,N): of the 2 best by the first the best by the second, against the worst by the second
        of the 2 worst by the first
    train(policy, reference, pairs, variant, level, beta, lr, steps, micro_batches)   -> the head's
        weights {name: array}, named as in decoder.safetensors, after `steps` plain SGD steps on the
        mean loss of all pairs, each step's gradient summed up over micro-batches of such sizes.
        variant: "separate", "joint", "latent"; "nll": minus the chosen's sum of log P(tau) alone;
        at the sequence level "exact_sequence": latent, with the marginal of the whole response
`policy` and `reference` are folders: GPT-2 as Hugging Face writes it, decoder.json and
decoder.safetensors. A reference of None: the policy's own model, and no reference head. A pair is
{"prompt": ids, "chosen": (ids, tau_idx), "rejected": (ids, tau_idx)}. The attribute DTYPE of the
module is set to --dtype. The module runs in a process of its own, as in check.py.
Exit status: 0 all that ran agrees, 1 a number differs or the module failed, 2 nothing ran.
"""
import argparse
import itertools
import json
import sys
import time
from collections import Counter

import numpy as np

import check
import gpt2
from make_model_kit import KIT, LEVELS

ANSWER = check.ANSWER
FUNCTIONS = ("score", "generate", "pairs", "train")
TOLERANCES = {"float64": 1e-9, "float32": 1e-5}  # README.md: what was measured
FALSE_ALARM = 1e-6  # odds that a right sampler misses anywhere in a run
N = 4000  # responses a prompt
T = 3     # of so many tokens at most; every one of them is enumerated
TAILS = (0.1, 0.02, 0.01)  # shares of the words at a place


class Miss(Exception):
    """What is wrong, on one line, with what came and what was expected."""


class Skip(Exception):
    """The question was not answered, which is allowed."""


def require(fits, message):
    if not fits:
        raise Miss(message)


# ---- their module, in another process ----------------------------------------------------------

class Process(check.Process):
    """As check.py's, with the functions and the answers of this page."""
    page = __file__

    def ask(self, function, *given):
        """-> as answer(), or "ended", words"""
        return tuple(self.exchange(function, (function, *given)))


class Here(check.Here):
    """As check.py's, with the functions and the answers of this page."""
    names = FUNCTIONS

    def ask(self, function, *given):
        """-> "gave", plain lists and dicts; "raised", words; or "skipped", None"""
        try:
            answer = getattr(self.module, function)(*given)
            return "gave", json.loads(json.dumps(answer, default=plain))
        except NotImplementedError:
            return "skipped", None
        except BaseException as error:  # sys.exit too: whatever their code raises is the result
            return "raised", check.words(error)


def plain(x):
    """What JSON does not know: numpy's arrays and numbers."""
    if isinstance(x, (np.ndarray, np.generic)):
        return x.tolist()
    raise TypeError(f"the answer holds {type(x).__name__}; give numbers, lists and numpy arrays")


def asked(theirs, function, *given):
    """Their answer, or what there is instead as an exception."""
    kind, what = theirs.ask(function, *given)
    if kind == "skipped":
        raise Skip
    require(kind == "gave", what if kind == "ended" else f"raised {what}")
    return what


# ---- numbers -----------------------------------------------------------------------------------

def compare(label, got, want, allowed):
    """Miss unless |got - want| <= allowed * max(1, |want|).  -> the largest error, so divided"""
    got = check.real(got)
    require(got.shape == want.shape, f"{label} has shape {got.shape}, expected {want.shape}")
    error = check.errors(got, want) / np.maximum(1, np.abs(np.nan_to_num(want, neginf=0)))
    if (error > allowed).any():
        index = tuple(np.argwhere(error > allowed)[0].tolist())
        raise Miss(f"{label}{list(index)} is {got[index]:.9g}, expected {want[index]:.9g}")
    return error.max(initial=0)


# ---- score -------------------------------------------------------------------------------------

def rows_to_score(cases):
    """Every response of the cases.  -> prompts, responses"""
    rows = list(zip(cases["prompts"], cases["responses"]))
    rows += [(pair["prompt"], pair[side][0]) for pair in cases["pairs"]
             for side in ("chosen", "rejected")]
    return [list(column) for column in zip(*rows)]


def check_score(theirs, level, role, cases, dtype):
    """Rows of unequal lengths in one call, each as the key has it alone."""
    folder = KIT / level / role
    policy, (prompts, responses) = gpt2.load(folder), rows_to_score(cases)
    answer = asked(theirs, "score", str(folder), prompts, responses)
    require(len(answer) == len(prompts), f"{len(answer)} rows, expected {len(prompts)}")
    worst, ran = 0.0, set()
    for row, (prompt, response) in enumerate(zip(prompts, responses)):
        for name, want in gpt2.score(policy, prompt, response).items():
            if answer[row].get(name) is not None:
                error = compare(f"row {row} {name}", answer[row][name], want, TOLERANCES[dtype])
                worst, ran = max(worst, error), ran | {name}
    if not ran:
        raise Skip
    return f"{len(prompts)} rows of {', '.join(sorted(ran))}; largest error {worst:.1e}"


def check_empty(theirs, level, cases):
    """A response without a token: refused by an exception, or answered by arrays without one."""
    prompts, responses = cases["prompts"][:2], [cases["responses"][0], []]
    kind, what = theirs.ask("score", str(KIT / level / "policy"), prompts, responses)
    if kind == "raised":
        return f"refused: {what}"
    if kind == "skipped":
        raise Skip
    require(kind == "gave", what)
    lengths = {name: len(what[1][name]) for name in ("text_logps", "mixture_logps")
               if what[1].get(name) is not None}
    for name, length in lengths.items():
        require(length == 0, f"{name} of an empty response has {length} tokens, expected 0")
    if not lengths:
        raise Skip
    return "answered"


# ---- generate: exact binomial tests ------------------------------------------------------------

def p_value(hits, n, odds, log_factorials):
    """Twice the tail of Binomial(n, odds) from hits outward: below x with odds of at most x."""
    odds = min(max(odds, 0.0), 1.0)
    if odds in (0.0, 1.0):
        return float(hits == n * odds)
    k = np.arange(hits + 1) if hits < n * odds else np.arange(hits, n + 1)
    ways = log_factorials[n] - log_factorials[k] - log_factorials[n - k]
    logs = ways + k * np.log(odds) + (n - k) * np.log1p(-odds)
    return min(1.0, 2 * float(np.exp(logs).sum()))


def events(policy, answer, P, n):
    """Which (choice, word) each event of each response is.  -> (P,n,T): choice * V + word, or -1

    -1 stands where a response has ended. Miss unless each ends with its first end of text or has
    T tokens, and has as many choices as its level asks for.
    """
    V, K, eos = policy.config["vocab_size"], len(policy.choices), policy.config["eos_token_id"]
    require(len(answer) == P, f"answers to {len(answer)} prompts, expected {P}")
    codes = np.full((P, n, T), -1)
    for p, responses in enumerate(answer):
        require(len(responses) == n, f"prompt {p}: {len(responses)} responses, expected {n}")
        for i, (ids, tau_idx) in enumerate(responses):
            where = f"prompt {p}, response {i}: ids {ids!r:.60}, tau_idx {tau_idx!r:.60}"
            fits = all(type(x) is int and 0 <= x < size
                       for column, size in ((ids, V), (tau_idx, K)) for x in column)
            require(fits, f"{where}; expected ids below {V}, tau_idx below {K}")
            end = ids.index(eos) + 1 if eos in ids else T
            require(len(ids) == end, f"{where}; expected {end} ids, up to {eos}, the end of text")
            decisions = end if policy.level == "token" else 1
            require(len(tau_idx) == decisions, f"{where}; expected {decisions} of tau_idx")
            of_tokens = tau_idx if policy.level == "token" else tau_idx * end
            codes[p, i, :end] = [k * V + word for k, word in zip(of_tokens, ids)]
    return codes


def frequencies(policy, codes, odds):
    """Each (choice, word) at each event, and at each choice its least likely words together.

    The latter see a cut tail, whose words are each too rare to be missed. codes: (P,n,T). odds:
    (P,T,K,V). Yields (what, hits, n, odds).
    """
    P, n, _ = codes.shape
    _, _, K, V = odds.shape
    for p in range(P):
        for t in range(T):
            hits = np.bincount(codes[p, :, t] + 1, minlength=1 + K * V)[1:].reshape(K, V)
            for k, tau in enumerate(policy.choices):
                where = f"prompt {p}, token {t}, temperature {tau:g}"
                for v in range(V):
                    yield f"{where}, word {v}", hits[k, v], n, odds[p, t, k, v]
                rising = odds[p, t, k].argsort(kind="stable")
                tails = zip(hits[k, rising].cumsum(), odds[p, t, k, rising].cumsum())
                for m, (some, share) in enumerate(tails):
                    yield f"{where}, its {m + 1} least likely words", some, n, share


def unlikely(given, share):
    """Which words a nucleus of 1 - share would cut: ahead of them is so much.  (...,V) -> bool"""
    order = np.argsort(-given, axis=-1, kind="stable")
    falling = np.take_along_axis(given, order, -1)
    cut = falling.cumsum(-1) - falling >= 1 - share
    places = order.argsort(-1, kind="stable")
    return np.take_along_axis(cut, places, -1)


def tails(policy, prompts, codes, select):
    """Is anything truncated? Responses with a word that is unlikely where it stands, all together.

    Yields as `frequencies` does. codes: (P,n,T).
    """
    V, eos = policy.config["vocab_size"], policy.config["eos_token_id"]
    child = np.cumsum(np.arange(V) != eos) - 1  # of a word: which of a history's continuations
    for p, prompt in enumerate(prompts):
        places = [given for _, given in gpt2.enumerated(policy, prompt, T, select)]  # T of (H,K,V)
        for share in TAILS:
            history, found = np.zeros(codes.shape[1], int), np.zeros(codes.shape[1], bool)
            for t, given in enumerate(places):
                going = np.flatnonzero(codes[p, :, t] >= 0)
                choices, words = np.divmod(codes[p, going, t], V)
                found[going] |= unlikely(given, share)[history[going], choices, words]
                history[going] = history[going] * (V - 1) + child[words]
            without = [joint for joint, _ in gpt2.enumerated(
                policy, prompt, T, select, lambda given: ~unlikely(given, share))]
            none = sum(joint[..., eos].sum() for joint in without[:-1]) + without[-1].sum()
            yield (f"prompt {p}, responses with a word of the unlikeliest {share:.0%}", found.sum(),
                   len(found), 1 - none)


def lags(n):
    """How far apart a batch may repeat its noise: all up to 64, divisors and powers of two."""
    some = {*range(1, 65), *(2 ** i for i in range(20)), *(x for x in range(1, n) if n % x == 0)}
    return sorted(lag for lag in some if 2 * lag <= n)


def joints(codes, again, odds):
    """Are two rows independent? Noise that rows share leaves every single row's odds right.

    codes: (P,n,T), of one call; again: (P,m,T), of another seed. Yields as `frequencies` does.
    """
    P, n, _ = codes.shape
    for p in range(P):
        for lag in lags(n):
            first = np.flatnonzero(np.arange(n) // lag % 2 == 0)  # pairs that share no row
            first = first[first + lag < n]
            yield from agreements(f"prompt {p}, responses {lag} apart",
                                  codes[p, first], codes[p, first + lag], odds[p])
        m = again.shape[1]
        yield from agreements(f"prompt {p}, two seeds", codes[p, :m], again[p], odds[p])
        even = slice(0, n - n % 2, 2)
        yield from tables(f"prompt {p}, two responses side by side", codes[p, even, 0],
                          codes[p, 1::2, 0], odds[p, 0], odds[p, 0])
        for q in range(p):
            yield from tables(f"prompts {q} and {p}, the same row", codes[q, :, 0],
                              codes[p, :, 0], odds[q, 0], odds[p, 0])


def agreements(where, codes, others, odds):
    """How often two rows have the same event.  (m,T), (m,T), (T,K,V)"""
    for t in range(T):
        same = (codes[:, t] == others[:, t]) & (codes[:, t] >= 0)
        yield f"{where}, the same token {t}", same.sum(), len(same), (odds[t] ** 2).sum()


def tables(where, codes, others, odds, other_odds):
    """Two rows' first choices, and their first words, jointly.  (m,), (m,), (K,V), (K,V)"""
    V = odds.shape[1]
    for what, axis, part in ("choices", 1, lambda x: x // V), ("words", 0, lambda x: x % V):
        joint = np.outer(odds.sum(axis), other_odds.sum(axis))
        hits = np.zeros(joint.shape, int)
        np.add.at(hits, (part(codes), part(others)), 1)
        for (a, b), share in np.ndenumerate(joint):
            yield f"{where}, {what} {a} and {b}", hits[a, b], len(codes), share


def check_generate(theirs, level, select, prompts, n, budget):
    """Frequencies against enumeration. budget: the odds of a false alarm."""
    folder = KIT / level / "policy"
    policy = gpt2.load(folder)
    P, m = len(prompts), max(1, n // 8)
    codes, again = (
        events(policy, asked(theirs, "generate", str(folder), prompts, T, size, seed, select),
               P, size)
        for size, seed in ((n, 1), (m, 2)))
    odds = np.stack([gpt2.event_odds(policy, prompt, T, select) for prompt in prompts])
    trials = [*frequencies(policy, codes, odds), *tails(policy, prompts, codes, select)]
    if select == "sample":  # greedy choices and one word agree by themselves
        trials += joints(codes, again, odds)
    log_factorials = np.append(0, np.log(np.arange(1, n + 1)).cumsum())
    limit = budget / len(trials)
    worst = [(p_value(hits, size, share, log_factorials), what, hits, size, share)
             for what, hits, size, share in trials]
    missed = sum(p <= limit for p, *_ in worst)
    p, what, hits, size, share = min(worst, key=lambda trial: trial[0])
    require(not missed, f"{what}: {hits} of {size}, expected {size * share:.1f}, p-value {p:.1e}; "
                        f"{missed} of {len(trials)} tests miss, each at {limit:.1e}")
    return f"{P * n} responses, {len(trials)} tests, smallest p-value {p:.1e}, limit {limit:.1e}"


# ---- pairs -------------------------------------------------------------------------------------

REWARDS = {
    "distinct": np.array([[0.5, -1.0, 2.0, 0.25], [-3.0, -1.0, -2.0, -2.5]]),
    "ties": np.array([[1.0, 1.0, 1.0, 1.0], [0.0, 1.0, 1.0, 0.0], [0.0, 0.0, 0.0, 1.0]]),
    "unsigned": np.array([[0, 3, 1], [2, 2, 2], [5, 0, 5]], dtype=np.uint8),  # -x wraps around
    "single": np.array([[0.5], [1.0]])}
TWO_CRITERIA = {  # (2,P,N)
    "distinct": np.array([[[3.0, 2.0, 1.0, 0.0, -1.0], [-5.0, 4.0, 2.5, 1.5, 3.0]],
                          [[0.1, 0.7, 0.2, 0.3, 0.9], [2.0, -1.0, 3.0, -2.0, 0.0]]]),
    "ties": np.array([[[1.0, 1.0, 1.0, 0.0], [0.5, 0.5, 0.5, 0.5], [2.0, 1.0, 1.0, 0.0],
                       [2.0, 1.0, 1.0, 0.0]],
                      [[0.0, 2.0, 1.0, -1.5], [1.0, 1.0, 1.0, 1.0], [0.0, 3.0, -3.0, -1.0],
                       [5.0, 3.0, -3.0, -9.0]]]),
    "unsigned": np.array([[[0, 3, 1, 7], [9, 2, 5, 0]],
                          [[1, 0, 4, 2], [0, 8, 3, 6]]], dtype=np.uint8)}


def indices(answer, P, N):
    """Their pairs as tuples; Miss on what is no (prompt, chosen, rejected)."""
    pairs = [tuple(pair) for pair in answer]
    for pair in pairs:
        fits = len(pair) == 3 and all(type(i) is int and 0 <= i < size
                                      for i, size in zip(pair, (P, N, N)))
        require(fits, f"{pair!r:.60} is no (prompt, chosen, rejected) of {P} x {N} rewards")
    return pairs


def check_pairs(theirs, name, how):
    """Ties leave several right answers: any of them will do."""
    rewards = REWARDS[name]
    answer = indices(asked(theirs, "pairs", rewards, how), *rewards.shape)
    for p, of_prompt in enumerate(rewards.tolist()):
        got = [(i, j) for prompt, i, j in answer if prompt == p]
        right = {(i, j) for i, x in enumerate(of_prompt) for j, y in enumerate(of_prompt) if x > y}
        if how == "best-worst":
            ends = max(of_prompt), min(of_prompt)
            right = {(i, j) for i, j in right if (of_prompt[i], of_prompt[j]) == ends}
        count = len(right) if how == "all" else min(1, len(right))
        require(set(got) <= right and len(got) == len(set(got)) == count,
                f"rewards {of_prompt}: {got!r:.80}, expected {count} of {sorted(right)}")
    return f"{len(answer)} pairs"


def admissible(first, second, k):
    """The pairs of one prompt that a ranking by the first criterion leads to.  -> set

    Equals may stand in any order. None: no pair, since neither is better by the first; if the
    second prefers the chosen all the same, both are right.
    """
    outcomes = set()
    for ranked in itertools.permutations(range(len(first))):
        if any(first[i] < first[j] for i, j in zip(ranked, ranked[1:])):
            continue
        top, bottom = ranked[:k], ranked[-k:]
        most, least = max(second[i] for i in top), min(second[j] for j in bottom)
        for i, j in itertools.product(top, bottom):
            if second[i] == most and second[j] == least:
                if first[i] == first[j]:
                    outcomes.add(None)
                if first[i] > first[j] or second[i] > second[j]:
                    outcomes.add((i, j))
    return outcomes


def check_two_criteria(theirs, name, k):
    """Where two rewards matter, as the paper pairs them."""
    both = TWO_CRITERIA[name]
    answer = indices(asked(theirs, "pairs", both, f"top-{k}"), *both.shape[1:])
    for p, (first, second) in enumerate(zip(*both.tolist())):
        got = [(i, j) for prompt, i, j in answer if prompt == p]
        right = admissible(first, second, k)
        require(len(got) < 2 and (got or [None])[0] in right,
                f"rewards {first} and {second}: {got!r:.80}, expected one of {right}")
    return f"{len(answer)} pairs"


def check_nan(theirs, how):
    rewards = np.array([[0.5, np.nan, 1.0, 0.0]])
    if how.startswith("top"):
        rewards = np.stack([np.arange(4.0)[None], rewards])  # in the second criterion
    kind, what = theirs.ask("pairs", rewards, how)
    if kind == "skipped":
        raise Skip
    require(kind == "raised", f"a NaN among the rewards gives {what!r:.60}, expected an exception")
    return f"refused: {what}"


# ---- train -------------------------------------------------------------------------------------

VARIANTS = {"token": ("separate", "joint", "latent", "nll"),
            "sequence": ("separate", "joint", "latent", "nll", "exact_sequence")}
REFERENCES = {"none": None, "policy": "policy", "kept": "reference"}
MICRO_BATCHES = ([1, 1, 1, 1, 1], [2, 2, 1], [5], [1, 4])
BETA, LR, STEPS = 0.5, 0.4, 3


def check_train(theirs, level, variant, frozen, cases, dtype):
    """The head's weights, however the pairs are cut into micro-batches.

    frozen: no reference; the policy itself, as at the start of a round; one kept from before.
    """
    folder, role = KIT / level, REFERENCES[frozen]
    policy, pairs = gpt2.load(folder / "policy"), cases["pairs"]
    reference = None if role is None else gpt2.load(folder / role)
    want = gpt2.trained(policy, reference, pairs, variant, BETA, LR, STEPS)
    worst = 0.0
    for sizes in MICRO_BATCHES:
        head = asked(theirs, "train", str(folder / "policy"), role and str(folder / role), pairs,
                     variant, level, BETA, LR, STEPS, sizes)
        require(set(head) == set(want), f"weights {sorted(head)}, expected {sorted(want)}")
        for name in want:
            label = f"micro-batches {sizes}: {name}"
            worst = max(worst, compare(label, head[name], want[name], TOLERANCES[dtype]))
    return f"{STEPS} steps, {len(MICRO_BATCHES)} cuts; largest error {worst:.1e}"


WINS, LOSSES = (1, 2, 3, 2), (3, 2, 1, 2)  # of four responses at each of the choices
OPTIMUM = dict(lr=1.0, steps=300, allowed=1e-3)


def optimum(wins, losses, beta):
    """Where `separate` ends: P(tau_k) proportional to (a_k / (1 - a_k))^(1 / beta).  -> (K,)

    With pairs of a success and a failure, of success rates a_k, whatever the choices were drawn
    from, the loss is least where beta (log P(tau_i) - log P(tau_j)) is the log of the odds that of
    one success and one failure the success is i's: a_i (1 - a_j) to a_j (1 - a_i).
    """
    shares = (np.array(wins) / np.array(losses)) ** (1 / beta)
    return shares / shares.sum()


def pairs_of(prompt, wins, losses):
    """Every success beside every failure, one-token responses."""
    sides = [[([word], [k]) for k, count in enumerate(counts) for _ in range(count)]
             for word, counts in ((5, wins), (6, losses))]
    return [dict(prompt=prompt, chosen=a, rejected=b) for a in sides[0] for b in sides[1]]


def check_optimum(theirs, beta, cases):
    """A whole run with a known answer."""
    folder, prompt = KIT / "sequence" / "policy", cases["prompts"][1]
    policy, pairs = gpt2.load(folder), pairs_of(prompt, WINS, LOSSES)
    head = asked(theirs, "train", str(folder), None, pairs, "separate", "sequence", beta,
                 OPTIMUM["lr"], OPTIMUM["steps"], [len(pairs)])
    hidden = gpt2.forward(policy, np.array([prompt]))[1][0, -1]
    head = {name: check.real(w) for name, w in head.items()}
    got = np.exp(gpt2.log_softmax(gpt2.head_logits(head, hidden)))
    want = optimum(WINS, LOSSES, beta)
    error = compare("P(tau)", got, want, OPTIMUM["allowed"])
    return f"{OPTIMUM['steps']} steps; largest error {error:.1e}"


# ---- the run -----------------------------------------------------------------------------------

def load_cases():
    """-> {level: {"prompts", "responses", "pairs"}}"""
    every = json.loads((KIT / "cases.json").read_text(encoding="utf-8"))
    return {level: {**{name: every[name] for name in ("prompts", "responses")}, **every[level]}
            for level in LEVELS}


def questions(dtype, n):
    """Everything that is asked: (function, name, what asks it of `theirs`)."""
    every = load_cases()
    budget = FALSE_ALARM / (2 * len(LEVELS))
    for level, cases in every.items():
        for role in ("policy", "reference"):
            yield ("score", f"{level} {role}",
                   lambda a, b=level, c=role, d=cases: check_score(a, b, c, d, dtype))
        yield "score", f"{level} empty", lambda a, b=level, c=cases: check_empty(a, b, c)
    for level, cases in every.items():
        for select, size in ("sample", n), ("greedy", max(1, n // 4)):
            yield ("generate", f"{level} {select}",
                   lambda a, b=level, c=select, d=cases["prompts"], e=size:
                   check_generate(a, b, c, d, e, budget))
    for how in ("best-worst", "all"):
        for name in REWARDS:
            yield "pairs", f"{how} {name}", lambda a, b=name, c=how: check_pairs(a, b, c)
    for name in TWO_CRITERIA:
        yield "pairs", f"top-2 {name}", lambda a, b=name: check_two_criteria(a, b, 2)
    for how in ("best-worst", "all", "top-2"):
        yield "pairs", f"{how} nan", lambda a, b=how: check_nan(a, b)
    for level, cases in every.items():
        for variant in VARIANTS[level]:
            for frozen in REFERENCES:
                yield ("train", f"{level} {variant} {frozen}",
                       lambda a, b=level, c=variant, d=frozen, e=cases:
                       check_train(a, b, c, d, e, dtype))
    for beta in (1.0, 0.5):
        yield ("train", f"optimum beta {beta:g}",
               lambda a, b=beta: check_optimum(a, b, every["sequence"]))


def verdict(theirs, ask):
    """-> "pass", "MISS" or "skip", and a line"""
    try:
        return "pass", ask(theirs)
    except Skip:
        return "skip", "not implemented"
    except Miss as miss:
        return "MISS", str(miss)
    except (TypeError, ValueError, KeyError, IndexError, AttributeError) as error:
        return "MISS", f"the answer does not fit: {check.words(error)}"


def verdicts(theirs, dtype, n, only):
    """Yields (status, function, name, line)."""
    for function in FUNCTIONS:
        if function in only and function not in theirs.functions:
            yield "skip", function, "", "not supplied"
    for function, name, ask in questions(dtype, n):
        if function in only and function in theirs.functions and not theirs.ended:
            status, line = verdict(theirs, ask)
            yield status, function, name, line


def run(theirs, dtype, n, only):
    """Print a line for each question and a summary.  -> exit status"""
    count, start = Counter(), time.perf_counter()
    for status, function, name, line in verdicts(theirs, dtype, n, only):
        count[status] += 1
        print(f"{status}  {function}  {name + '  ' if name else ''}{line}", flush=True)
    if theirs.ended:
        print(f"stopped here: {theirs.ended}")
    print(f"\n{count['pass']} passed, {count['MISS']} missed, {count['skip']} skipped, in {dtype}, "
          f"{time.perf_counter() - start:.0f} s")
    if "generate" in only and "generate" in theirs.functions:
        print(f"odds that a right sampler misses in such a run: at most {FALSE_ALARM:g}")
    if count["pass"] + count["MISS"] == 0:
        print(f"nothing ran: define at least one of {', '.join(FUNCTIONS)} (see --help)")
        return 2
    return 1 if count["MISS"] else 0


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("module", help="module name, or path of a .py file")
    parser.add_argument("--dtype", choices=TOLERANCES, default="float64")
    parser.add_argument("--n", type=int, default=N,
                        help="responses a prompt (default: %(default)s)")
    parser.add_argument("--only", choices=FUNCTIONS, nargs="+", default=FUNCTIONS)
    parser.add_argument("--timeout", type=float, default=300, metavar="SECONDS",
                        help="that the import and every single call may take (default: 300)")
    args = parser.parse_args(argv)
    if args.n < 2 or not args.timeout > 0:
        parser.error("--n takes a whole number above 1, --timeout a number of seconds above 0")
    theirs = Process(args.module, args.dtype, args.timeout)
    try:
        if theirs.functions is None:
            print(f"cannot import {args.module}: {theirs.ended}")
            return 2
        return run(theirs, args.dtype, args.n, args.only)
    finally:
        theirs.stop()


if __name__ == "__main__":
    if sys.argv[1:] == [ANSWER]:
        check.answer_questions(Here, (*check.OUR_MODULES, "check", "gpt2", "make_model_kit"))
    sys.exit(main())
