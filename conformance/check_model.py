"""Runs any implementation of LPO, model and sampler included, against model_kit/. Needs numpy only.

    python conformance/check_model.py their_module      or path/to/file.py

The module defines up to four functions; one that is missing is skipped, as is a question for which
one raises NotImplementedError. Token ids are lists of whole numbers, of unequal lengths; arrays are
numpy's or nested lists. Padding, packing, shards and caches are the module's own business.
    score(policy, prompts, responses)   -> per row {"tau_logps": (T,K), at the sequence level (1,K),
        "text_logps": (T,K), "mixture_logps": (T,)}; what every row leaves out is skipped
    generate(policy, prompts, max_new_tokens, n, seed, select)   n responses per prompt ->
        answer[prompt][i] = (ids, tau_idx), the end of text included; or (ids, tau_idx, logps), with
        the log-probability of each id at the choice under which it was sampled
    pairs(rewards, how)   (P,N) array, "best-worst" or "all"; (2,P,N), "top-2" -> [(prompt, chosen,
        rejected)], indices
    train(policy, reference, pairs, variant, level, beta, lr, steps, micro_batches)   -> {name:
        array}, the decoder's weights after plain SGD
`policy` and `reference` are folders. FORMAT.md specifies everything; numbers in brackets are its
equations. The attribute DTYPE of the module is set to --dtype. The module runs in a process of its
own, where it may print (that goes to stderr), exit or hang.
Exit status: 0 all that ran agrees, 1 a number differs or the module failed, 2 nothing ran.
"""
import itertools
import json
import math
from collections import Counter
from functools import partial
from pathlib import Path

import numpy as np

import gpt2
import mistakes
import runner
import sampling
from mistakes import Wrong, errors
from runner import Miss, Skip, asked, require

KIT = Path(__file__).with_name("model_kit")
KINDS = json.loads((KIT / "cases.json").read_text(encoding="utf-8"))
REWARDS = KINDS.pop("rewards")
TOLERANCES = {"float64": 1e-9, "float32": 1e-5, "bfloat16": 1e-1}  # README.md: what was measured
FALSE_ALARM = 1e-6  # odds that a right sampler misses anywhere in a run
N, T = 4000, 3      # responses per prompt, tokens per response
LOOK_AT = {
    "score": "the shift by one, the state that decides, masks and position ids, the temperature",
    "generate": "the choice, the temperature, cuts of the distribution, seeds and shared noise",
    "pairs": "ties, unsigned and half-precision rewards, NaN",
    "train": "the reference, the mean over pairs, micro-batches, the optimizer"}


def largest_error(wrong):
    """Miss if it is more than `allowed` times max(1, |want|)."""
    return mistakes.compare(wrong, relative=True) * wrong.allowed


# ---- score -------------------------------------------------------------------------------------

def scores(key, policy, prompts, responses):
    """{"row 0 tau_logps": array, ...}"""
    sizes, rows = [*map(len, map(list.__add__, prompts, responses))], {}
    for row, size in enumerate(sizes):
        key.PAD = max(sizes) - size  # mistakes read it
        scored = key.score(policy, prompts[row], responses[row])
        rows |= {f"row {row} {name}": x for name, x in scored.items()}
    return rows


def ask_score(theirs, policy, rows):
    answer = asked(theirs, "score", str(KIT / policy), *rows)
    n, s = len(answer), "s" * (len(answer) != 1)
    require(n == len(rows[0]), f"the answer has {n} row{s}, expected {len(rows[0])}")
    return answer


def check_score(theirs, policy, rows, dtype):
    """Rows of unequal lengths in one call, each as the key has it by itself."""
    answer = ask_score(theirs, policy, rows)
    names = [sorted(name for name, x in row.items() if x is not None) for row in answer]
    for row, given in enumerate(names):
        require(given == names[0], f"row {row} has {given}, row 0 {names[0]}: answer every row")
    if not names[0]:
        raise Skip
    loaded = gpt2.load(KIT / policy)
    got = {f"row {i} {name}": runner.real(row[name]) for i, row in enumerate(answer)
           for name in names[0]}
    want = scores(gpt2, loaded, *rows)
    require(got.keys() <= want.keys(), f"{names[0]}; expected tau_logps, text_logps, mixture_logps")
    if dtype == "bfloat16":  # rounding may decide the arg-max: nothing is compared there
        cold = [0 in (choice.values() if isinstance(choice, dict) else [choice])
                for choice in loaded.choices]
        for label, x in want.items():
            if "tau" not in label:
                x[..., cold if "text" in label else slice(None)] = np.nan
    wrong = Wrong("score", lambda key: scores(key.gpt2, loaded, *rows), got, want,
                  TOLERANCES[dtype])
    try:
        worst = largest_error(wrong)
    except Miss as miss:
        if ask_score(theirs, policy, rows) != answer:
            miss.evidence = "the answer changes from call to call: is dropout on?"
        raise
    return f"{len(answer)} rows of {', '.join(names[0])}; largest error {worst:.1e}", worst


def check_empty(theirs, policy, rows, dtype):
    """A response without a token: refused by an exception, or answered by arrays without one."""
    rows = rows[0][:2], [rows[1][0], []]
    kind, what = theirs.ask("score", str(KIT / policy), *rows)
    if kind == "raised":
        return f"refused: {what}", None
    answer = ask_score(theirs, policy, rows)
    given = {name: x for name, x in answer[1].items() if x is not None}
    for name, x in given.items():
        require(name == "tau_logps" or len(x) == 0,
                f"{name} of an empty response has {x!r:.40}, expected no token")
    if not given:
        raise Skip
    return "answered without a token", None


# ---- generate ----------------------------------------------------------------------------------

def ask_generate(theirs, kind, select, n, seed, prompts):
    """-> the Policy, their answer, and what it holds as sampling.codes_of has it"""
    folder = KIT / kind / "policy"
    policy = gpt2.load(folder)
    answer = asked(theirs, "generate", str(folder), prompts, T, n, seed, select)
    return policy, answer, sampling.codes_of(policy, answer, len(prompts), n, T)


def check_generate(theirs, kind, select, n, dtype):
    """Frequencies against enumeration, and of another seed whether it changes anything."""
    if dtype == "bfloat16":
        raise Skip("not checked in bfloat16")
    prompts, budget = KINDS[kind]["prompts"], FALSE_ALARM / 18  # six questions, three parts each
    policy, answer, codes = ask_generate(theirs, kind, select, n, 1, prompts)
    _, _, again = ask_generate(theirs, kind, select, max(1, n // 8), 2, prompts)
    places = [gpt2.enumerated(policy, prompt, T, select) for prompt in prompts]
    try:
        words = sampling.judged(sampling.frequencies(policy, codes, places), budget)
        words += "; of choices " + sampling.judged(sampling.choices(policy, codes, places), budget)
    except Miss as miss:
        raise Miss(str(miss), partial(sampler_cause, policy, prompts, select, codes)) from None
    if select == "sample":  # greedy choices and one id agree by themselves
        more = sampling.judged(sampling.independence(policy, codes, again, places), budget)
        words = f"{words}; of independence {more}"
    worst = None
    if any(len(row) > 2 for rows in answer for row in rows):
        got, want = sampling.logged(policy, answer, codes, places)
        worst = largest_error(Wrong("generate", lambda key: {}, got, want, TOLERANCES[dtype]))
        words += f"; largest error of their log-probabilities {worst:.1e}"
    return f"{codes[..., 0].size} responses, {words}", worst


def sampler_cause(policy, prompts, select, codes):
    """The known mistake that the first two tokens fit best, clearly and better than no mistake."""
    codes, fitting = codes[:, :, :2], []

    def attempt(cause, places):
        if all(trial.p_value() > FALSE_ALARM / 1e4
               for trial in sampling.frequencies(policy, codes, places)):
            fitting.append((sampling.log_likelihood(codes, places), cause))

    nothing = mistakes.Mistake("", ())
    for mistake in [nothing, *(m for m in mistakes.known() if m.samples())]:
        key, places = mistake.key().gpt2, []
        for prompt in prompts:
            key.PAD = max(map(len, prompts)) - len(prompt)  # mistakes read it
            try:
                places.append(key.enumerated(policy, prompt, 2, select))
            except mistakes.IMPOSSIBLE:  # as to sort choices of which some are dictionaries
                break
        else:
            attempt(str(mistake), places)
        if mistake == nothing:
            for order in [*itertools.permutations(places)][1:]:
                attempt("the answers are not in the order of the prompts", order)
    best, second = sorted([(-np.inf, ""), (-np.inf, ""), *fitting])[-1:-3:-1]
    if best[1] and best[0] > second[0] + 10:
        return best[1]
    return sampling.repeated(policy, codes) if select == "sample" else None


def check_seed(theirs, kind, select, n, dtype):
    """A seed determines the responses; one response alone has the same form."""
    first, second = (ask_generate(theirs, kind, select, n, 2, KINDS[kind]["prompts"])[1]
                     for _ in range(2))
    require(first == second, "the same seed gives other responses the second time: use a generator "
                             "that the seed starts, not a global one")
    ask_generate(theirs, kind, select, 1, 1, KINDS[kind]["prompts"][:1])
    return f"{n} responses per prompt twice, then one by itself", None


# ---- pairs -------------------------------------------------------------------------------------

def check_pairs(theirs, how, name, dtype):
    """Ties leave several right answers: any of them will do."""
    rewards = np.array(REWARDS[how][name], "uint8" if name == "uint8" else float)
    if np.isnan(rewards).any():
        kind, what = theirs.ask("pairs", rewards, how)
        if kind == "skipped":
            raise Skip
        require(kind == "raised", f"a NaN among the rewards gives {what!r:.60}; raise an exception")
        return f"refused: {what}", None
    answer = [tuple(pair) for pair in asked(theirs, "pairs", rewards, how)]
    criteria = rewards if how == "top-2" else rewards[None]
    _, P, N = criteria.shape
    for pair in answer:
        fits = len(pair) == 3 and all(type(i) is int and 0 <= i < size
                                      for i, size in zip(pair, (P, N, N)))
        require(fits, f"{pair!r:.60} is no (prompt, chosen, rejected) of {P} x {N} rewards")
    missed, causes = None, []
    for p in range(P):
        got = [(i, j) for prompt, i, j in answer if prompt == p]
        of_prompt = criteria[:, p].tolist()
        right = admissible(how, *of_prompt)
        causes.append(pairs_causes(how, got, right, *of_prompt))
        if missed is None and (set(got) not in right or len(set(got)) < len(got)):
            expected = {str(sorted(pairs)) if pairs else "no pair" for pairs in right}
            missed = (f"rewards {of_prompt}: {got!r:.80}, expected "
                      f"{' or '.join(sorted(expected))}")
    if missed:
        fitting = set.intersection(*causes)  # what gives the pairs of every prompt
        if len(set(answer)) < len(answer):
            fitting = {"a pair comes twice"}
        elif any(criteria[0, p, i] == criteria[0, p, j] for p, i, j in answer):
            fitting = {"a tie makes a pair"}
        raise Miss(missed, fitting.pop() if len(fitting) == 1 else None)
    return f"{len(answer)} pairs", None


def pairs_causes(how, got, right, first, second=()):
    """The known mistakes that give these pairs of one prompt."""
    wrapped = [[-(-x % 256) for x in column] for column in (first, second)]
    known = {"chosen and rejected are swapped": [{(j, i) for i, j in pairs} for pairs in right],
             "order by -x: of unsigned numbers it wraps around": admissible(how, *wrapped)}
    if how == "all":
        known["one pair per prompt, where all are expected"] = admissible("best-worst", first)
    if second:
        known |= {"the second criterion is ignored": admissible("best-worst", first),
                  "the first criterion is ignored": admissible("best-worst", second),
                  "the criteria are swapped": admissible(how, second, first)}
    return {cause for cause, sets in known.items() if set(got) in sets}


def admissible(how, first, second=()):
    """The sets of pairs that are right for one prompt, by FORMAT.md's rules of pairs."""
    N = range(len(first))
    better = {(i, j) for i in N for j in N if first[i] > first[j]}
    if how == "all":
        return [better]
    if how == "best-worst":
        ends = max(first), min(first)
        return [{(i, j)} for i, j in better if (first[i], first[j]) == ends] or [set()]
    right = []
    for ranked in itertools.permutations(N):
        if all(first[i] >= first[j] for i, j in zip(ranked, ranked[1:])):
            top, bottom = ranked[:2], ranked[-2:]
            for i, j in itertools.product(top, bottom):
                if second[i] == max(second[k] for k in top) and second[j] == min(
                        second[k] for k in bottom):
                    if first[i] == first[j]:
                        right.append(set())
                    if first[i] > first[j] or second[i] > second[j]:
                        right.append({(i, j)})
    return right


# ---- train -------------------------------------------------------------------------------------

VARIANTS = ("separate", "joint", "latent", "nll")  # latent_exact at the sequence level, too
REFERENCES = {"none": None, "policy": "policy", "kept": "reference"}
CUTS = ([5], [1, 1, 1, 1, 1], [2, 2, 1], [1, 4])  # into micro-batches


def check_train(theirs, kind, variant, role, dtype, beta=0.5, lr=0.4, steps=3, cuts=CUTS):
    """The decoder's weights, however the pairs are cut into micro-batches.

    role: no reference; the policy itself, as at the start of a round; one kept from before.
    """
    folder, pairs = KIT / kind, KINDS[kind]["pairs"]
    policy = gpt2.load(folder / "policy")
    reference = role and gpt2.load(folder / role)

    def wrong_if(steps, sizes):
        arguments = policy, reference, pairs, variant, beta, lr, steps, sizes
        answer = asked(theirs, "train", str(folder / "policy"), role and str(folder / role), pairs,
                       variant, policy.level, *arguments[4:])
        want = gpt2.trained(*arguments)
        require(set(answer) == set(want), f"weights {sorted(answer)}, expected {sorted(want)}")
        return Wrong("train", lambda key: key.gpt2.trained(*arguments),
                     {name: runner.real(x) for name, x in answer.items()}, want, TOLERANCES[dtype],
                     remark=partial(of_update, policy.decoder, lr))
    worst = 0.0
    for sizes in cuts:
        wrong = wrong_if(steps, sizes)
        try:
            worst = max(worst, largest_error(wrong))
        except Miss as miss:
            once = wrong_if(1, cuts[0])  # if one step is wrong, it says more
            off = any((errors(x, once.want[name]) > TOLERANCES[dtype]).any()
                      for name, x in once.got.items())
            raise Miss(f"micro-batches {sizes}: {miss}", once if off else wrong) from None
    return f"{steps} steps, {len(cuts)} cuts; largest error {worst:.1e}", worst


def of_update(start, lr, wrong):
    """What arithmetic says about wrong weights, or None."""
    came, right, before = (np.concatenate([x.ravel() for x in xs]) for xs in zip(*(
        (start[name] - wrong.got[name], start[name] - wrong.want[name], start[name])
        for name in start)))
    if not came.any():
        return "the weights do not move"
    if np.allclose(abs(came), lr, rtol=0.02):
        return "every weight moves by the learning rate: Adam, where plain SGD is expected"
    decay = (came - right) / before / lr
    if np.allclose(decay, decay[0], rtol=1e-3):
        return f"weight decay of {decay[0]:.3g}"
    norm, ratio = np.linalg.norm(came) / lr, mistakes.multiple(came, right)
    if ratio and math.isclose(norm, float(f"{norm:.1g}"), rel_tol=1e-3):
        return f"the gradient is clipped to a norm of {norm:.1g}"
    return ratio and f"the update is {ratio}"


# ---- the run -----------------------------------------------------------------------------------

def questions(n):
    """(name, function that judges, its arguments)"""
    for kind, cases in KINDS.items():
        rows = [*zip(cases["prompts"], cases["responses"])]
        rows += [(pair["prompt"], pair[side][0]) for pair in cases["pairs"]
                 for side in ("chosen", "rejected")]
        rows = [list(column) for column in zip(*rows)]
        for role in ("policy", "reference"):
            if (KIT / kind / role).exists():
                yield f"score {kind} {role}", check_score, (f"{kind}/{role}", rows)
        yield f"score {kind} one row", check_score, (f"{kind}/policy", [x[:1] for x in rows])
        yield f"score {kind} empty", check_empty, (f"{kind}/policy", rows)
    for kind in KINDS:
        yield f"generate {kind} sample", check_generate, (kind, "sample", n)
        yield f"generate {kind} greedy", check_generate, (kind, "greedy", n // 4)
    yield "generate token seed", check_seed, ("token", "sample", n // 8)
    for how in REWARDS:
        for name in REWARDS[how]:
            yield f"pairs {how} {name}", check_pairs, (how, name)
    for kind, exact in (("token", ()), ("sequence", ("latent_exact",))):
        for variant, (name, role) in itertools.product(VARIANTS + exact, REFERENCES.items()):
            yield f"train {kind} {variant} {name}", check_train, (kind, variant, role)
    yield "train sequence separate long", partial(check_train, steps=100, cuts=CUTS[:1]), (
        "sequence", "separate", None)
    yield "train token separate steep", partial(check_train, beta=64.0, lr=0.005, cuts=CUTS[:1]), (
        "token", "separate", None)


def explain(evidence, dtype):
    """-> [(cause, how many misses it explains)]"""
    found = []
    for function in ("score", "train"):
        wrongs = [x for x in evidence if isinstance(x, Wrong) and x.function == function]
        found += mistakes.causes(wrongs, TOLERANCES, dtype)
    words = [x() if callable(x) else x for x in evidence if not isinstance(x, Wrong)]
    found += [(cause, n) for cause, n in Counter(words).items() if cause and 3 * n >= len(words)]
    total = Counter()
    for cause, n in found:
        total[cause] += n
    return total.most_common()


def main(argv=None):
    options = runner.parser(__doc__, TOLERANCES)
    options.add_argument("--n", type=int, default=N,
                         help="responses per prompt (default: %(default)s)")
    args = runner.parse(options, argv, [name for name, *_ in questions(N)])
    if args.n < 8:
        options.error(f"--n is {args.n}; give a whole number of at least 8")
    chosen = [(name, [(name.split()[0], lambda theirs, check=check, given=given:
                       check(theirs, *given, args.dtype))])
              for name, check, given in questions(args.n) if runner.wanted(name, args)]
    return runner.check(__file__, args, chosen, LOOK_AT, partial(explain, dtype=args.dtype))


if __name__ == "__main__":
    runner.program(main)
