"""Is a sampler right? Exact binomial tests of its frequencies against enumerated odds.

Every response of up to T tokens is enumerated by gpt2.py, so the odds of each event are known. A
test misses where twice the binomial tail is below its share of the odds of a false alarm; the
tests are fixed before anything is sampled, and their shares add up (Bonferroni).

P prompts, n responses per prompt, T tokens at most, K choices, V tokens in the vocabulary.
"""
import itertools
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from runner import Miss, require

SHARES = (0.1, 0.02, 0.01)  # of the probability at a token: would a nucleus cut it?
TOP_K = 50  # what many samplers cut to unless they are told otherwise


class Trial(NamedTuple):
    what: str     # was counted
    hits: int
    n: int
    odds: float
    cause: str = ""  # of too many or too few hits, if the frequencies of single rows are right

    def p_value(self):
        """Twice the tail of Binomial(n, odds) from hits outward: below x with odds of at most x."""
        odds = min(max(self.odds, 0.0), 1.0)
        if odds in (0.0, 1.0):
            return float(self.hits == self.n * odds)
        below = self.hits < self.n * odds
        k = np.arange(self.hits + 1) if below else np.arange(self.hits, self.n + 1)
        logs = log_factorials(self.n)
        ways = logs[self.n] - logs[k] - logs[self.n - k]
        logps = ways + k * np.log(odds) + (self.n - k) * np.log1p(-odds)
        return min(1.0, 2 * float(np.exp(logps).sum()))


@lru_cache
def log_factorials(n):
    return np.append(0, np.log(np.arange(1, n + 1)).cumsum())


def codes_of(policy, answer, P, n, T):
    """What was sampled: choice * V + token, -1 after the end of a response.  -> (P,n,T)

    Miss unless each response ends with its first end of text or has T tokens, and has as many
    choices as its level has decisions.
    """
    V, K, eos = policy.config["vocab_size"], len(policy.choices), policy.eos
    require(len(answer) == P, f"answers to {len(answer)} prompts, expected {P}")
    codes = np.full((P, n, T), -1)
    for p, responses in enumerate(answer):
        require(len(responses) == n, f"prompt {p}: {len(responses)} responses, expected {n}")
        for i, (ids, tau_idx, *_) in enumerate(responses):
            where = f"prompt {p}, response {i}: ids {ids!r:.60}, tau_idx {tau_idx!r:.60}"
            fits = all(type(x) is int and 0 <= x < size
                       for column, size in ((ids, V), (tau_idx, K)) for x in column)
            require(fits, f"{where}; expected ids below {V}, tau_idx below {K}")
            end = ids.index(eos) + 1 if eos in ids else T
            require(len(ids) <= end, f"{where}; it goes on after its end of text, {eos}")
            require(len(ids) >= end, f"{where}; it stops before {T} ids without its end of text, "
                                     f"{eos}: was that dropped?")
            decisions = end if policy.level == "token" else 1
            require(len(tau_idx) == decisions, f"{where}; expected {decisions} of tau_idx")
            codes[p, i, :end] = np.array(tau_idx) * V + ids
    return codes


def histories(codes, V, eos):
    """Which of a token's enumerated histories each response has; -1 once ended.  (n,T) -> (n,T)"""
    child = np.cumsum(np.arange(V) != eos) - 1  # of a token: which of a history's continuations
    found = np.zeros(codes.shape, int)
    for t in range(1, codes.shape[1]):
        found[:, t] = found[:, t - 1] * (V - 1) + child[codes[:, t - 1] % V]
    return np.where(codes < 0, -1, found)


def events(policy, codes, places):
    """Each token of each prompt: its odds, and what was sampled.

    codes: (P,n,T); places: for each prompt what gpt2.enumerated gave. Yields p, t, P(history,
    choice, id), P(id | history, choice), the numbers of the responses that go on, and of these
    (history, choice, id), which is an index of the odds.
    """
    V = policy.config["vocab_size"]
    for p, of_prompt in enumerate(places):
        rows = histories(codes[p], V, policy.eos)
        for t, (joint, given) in enumerate(of_prompt):
            i = np.flatnonzero(rows[:, t] >= 0)
            yield p, t, joint, given, i, (rows[i, t], *np.divmod(codes[p, i, t], V))


def ranks(odds):
    """0 for the largest of the last axis, 1 for the next ...; ties in their order."""
    return (-odds).argsort(-1, kind="stable").argsort(-1)


def counted(codes, odds):
    """How often each (choice, token) was sampled.  (n,), (K,V) -> (K,V)"""
    return np.bincount(codes + 1, minlength=1 + odds.size)[1:].reshape(odds.shape)


def frequencies(policy, codes, places):
    """Each (choice, token), and at each choice its least likely tokens together; then tokens that
    are unlikely where they are written, whatever came before: is anything cut?

    The tokens that a top_k would cut are so few that the prompts are taken together. Their odds
    differ; beyond 1 from its mean such a sum has no heavier tails than a binomial of the mean odds
    (Hoeffding 1956, theorem 4), so the p-value still holds.

    Arguments as in `events`. Yields Trials.
    """
    V, (P, n, T) = policy.config["vocab_size"], codes.shape
    late = np.zeros((T, 2))  # of each token, over the prompts: how many rank late, and their odds
    for p, t, joint, given, _, sampled in events(policy, codes, places):
        odds = joint.sum(0)  # (K,V)
        counts = counted(codes[p, :, t], odds)
        for k, choice in enumerate(policy.choices):
            where = f"prompt {p}, token {t}, choice {choice}"
            rising = odds[k].argsort(kind="stable")
            sums = zip(rising, counts[k, rising].cumsum(), odds[k, rising].cumsum())
            for m, (v, some, share) in enumerate(sums, start=1):
                what = f"its {m} least likely ids" if m < V else "any id"
                yield Trial(f"{where}, id {v}", counts[k, v], n, odds[k, v])
                yield Trial(f"{where}, {what}", some, n, share)
        for share in SHARES:
            unlikely = cut_by_nucleus(given, 1 - share)
            yield Trial(f"prompt {p}, token {t}, an id of the unlikeliest {share:.0%}",
                        unlikely[sampled].sum(), n, (joint * unlikely).sum())
        is_late = ranks(given) >= TOP_K
        late[t] += is_late[sampled].sum(), joint[is_late].sum()
    for t, (hits, odds) in enumerate(late):
        yield Trial(f"all prompts, token {t}, an id behind the {TOP_K} likeliest", int(hits), P * n,
                    odds / P)


def choices(policy, codes, places):
    """How often the likeliest choice, the second ... are sampled, the prompts together: few tests,
    so fine ones. As in `frequencies`. Yields Trials."""
    (P, n, T), K = codes.shape, len(policy.choices)
    hits, odds = np.zeros((T, K), int), np.zeros((T, K))  # of each rank
    for _, t, joint, _, _, (h, k, _) in events(policy, codes, places):
        of_choices = joint.sum(2)  # (H,K)
        rank = ranks(of_choices)
        hits[t] += np.bincount(rank[h, k], minlength=K)
        odds[t] += np.bincount(rank.ravel(), of_choices.ravel())
    for t, r in np.ndindex(T, K):
        yield Trial(f"all prompts, token {t}, the choice of rank {r}", hits[t, r], P * n,
                    odds[t, r] / P)


def cut_by_nucleus(given, share):
    """Tokens ahead of which there is so much probability already.  (...,V) -> bool"""
    order = np.argsort(-given, axis=-1, kind="stable")
    falling = np.take_along_axis(given, order, -1)
    cut = falling.cumsum(-1) - falling >= share
    return np.take_along_axis(cut, order.argsort(-1, kind="stable"), -1)


def lags(n):
    """How far apart a batch may repeat its noise: all up to 64, divisors and powers of two."""
    some = {*range(1, 65), *(2 ** i for i in range(20)), *(x for x in range(1, n) if n % x == 0)}
    return sorted(lag for lag in some if 2 * lag <= n)


def independence(policy, codes, again, places):
    """Are two rows, two prompts, two seeds independent? Shared noise leaves single rows right.

    codes: (P,n,T), of one seed; again: (P,m,T), of the next. Yields Trials.
    """
    V = policy.config["vocab_size"]
    (P, n, T), m = codes.shape, again.shape[1]
    ids, ids_again = (np.where(x < 0, -1, x % V) for x in (codes, again))
    events = np.array([[joint.sum(0) for joint, _ in prompt] for prompt in places])  # (P,T,K,V)
    choices, tokens = events.sum(3), events.sum(2)  # (P,T,K), (P,T,V)
    for p, t in np.ndindex(P, T):
        odds = (events[p, t] ** 2).sum()
        for lag in lags(n):
            first = np.flatnonzero(np.arange(n) // lag % 2 == 0)  # pairs that share no row
            first = first[first + lag < n]
            yield agreement(f"prompt {p}, responses {lag} apart, the same token {t}",
                            codes[p, first, t], codes[p, first + lag, t], odds,
                            f"responses {lag} apart depend on each other: is noise shared?")
        yield agreement(f"prompt {p}, two seeds, the same token {t}", codes[p, :m, t],
                        again[p, :, t], odds,
                        "responses of two seeds depend on each other: is the seed used?")
        if t:
            yield agreement(f"prompt {p}, token {t} of a seed as token {t - 1} of the next",
                            ids[p, :m, t], ids_again[p, :, t - 1], tokens[p, t] @ tokens[p, t - 1],
                            "the next seed repeats the noise one token earlier: "
                            "is it seeded by seed + token?")
    for q, p in itertools.combinations_with_replacement(range(P), 2):
        a, b, what = (0, n, 1), (0, n, 1), f"prompts {q} and {p}, the same row"
        if q == p:
            a, b, what = (0, n - 1, 2), (1, n, 2), f"prompt {p}, two responses side by side"
        a, b = slice(*a), slice(*b)
        cause = ("neighbouring responses" if q == p else "responses of two prompts"
                 ) + " depend on each other: is noise shared?"
        yield agreement(f"{what}, the same id", ids[q, a, 0], ids[p, b, 0],
                        tokens[q, 0] @ tokens[p, 0], cause)
        for (i, j), odds in np.ndenumerate(np.outer(choices[q, 0], choices[p, 0])):
            hits = (codes[q, a, 0] // V == i) & (codes[p, b, 0] // V == j)
            yield Trial(f"{what}, choices {i} and {j}", hits.sum(), len(hits), odds, cause)


def agreement(what, a, b, odds, cause):
    """How often two rows have the same; -1 is nothing."""
    return Trial(what, int(((a == b) & (a >= 0)).sum()), len(a), odds, cause)


def logged(policy, answer, codes, places):
    """Their log-probabilities of what they sampled, and the key's.  -> {label: (n,T)} twice"""
    got, want = {}, {}
    for p, rows in enumerate(answer):
        label = f"prompt {p} logps"
        got[label], want[label] = (np.full(codes[p].shape, np.nan) for _ in range(2))
        for i, (ids, _, *logps) in enumerate(rows):
            require(logps and len(logps[0]) == len(ids),
                    f"prompt {p}, response {i}: {logps!r:.40}, expected {len(ids)} logps")
            got[label][i, :len(ids)] = logps[0]
    for p, t, _, given, i, sampled in events(policy, codes, places):
        want[f"prompt {p} logps"][i, t] = np.log(given[sampled])
    return got, want


def judged(trials, budget):
    """Miss if a trial is less likely than its share of the budget.  -> words"""
    trials = list(trials)
    limit = budget / len(trials)
    values = [trial.p_value() for trial in trials]
    least = min(range(len(trials)), key=values.__getitem__)
    trial, missed = trials[least], sum(value <= limit for value in values)
    if missed:
        raise Miss(f"{trial.what}: {trial.hits} of {trial.n}, expected "
                   f"{trial.n * trial.odds:.1f}, p-value {values[least]:.1e}; {missed} of "
                   f"{len(trials)} tests miss, each at {limit:.1e}", trial.cause)
    return f"{len(trials)} tests, smallest p-value {values[least]:.1e}, limit {limit:.1e}"


def log_likelihood(codes, places):
    """Of all events, each by itself.  (P,n,T) -> number"""
    total = 0.0
    for p, of_prompt in enumerate(places):
        for t, (joint, _) in enumerate(of_prompt):
            odds = joint.sum(0)
            counts = counted(codes[p, :, t], odds)
            total += counts[counts > 0] @ np.log(odds[counts > 0])
    return total


def repeated(policy, codes):
    """What is the same in rows that are to be independent, in words; or None."""
    choices = codes[..., :1] // policy.config["vocab_size"]
    for what, x in ("responses", codes), ("first choices", choices):
        for lag in lags(codes.shape[1]):
            if (x[:, lag:] == x[:, :-lag]).all():
                return f"{what} {lag} apart are the same: noise is shared"
    return None
