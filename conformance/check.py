"""Runs any implementation of the LPO losses against golden.json. Needs numpy only.

    python conformance/check.py their_module      or path/to/file.py, e.g. an adapter beside theirs

The module defines up to four functions, numpy in and numpy out; one that is missing is skipped, as
is a case for which one raises NotImplementedError.
    temperature_logps(logits, tokens, temperatures)   (B,T,V), (B,T), K floats -> (B,T,K)
    score(case, side)   side is "chosen" or "rejected" -> (B,)
    loss(case)          -> (B,), one per pair, not their mean
    gradients(case)     of the sum of the losses -> {"chosen": {"decoder_logits": (B,T or 1,K),
                        "lm_logits": (B,T,V)}, "rejected": ...}; what is None for both is skipped
A case is a dict: variant ("joint", "separate", "latent", "nll"), level ("token", "sequence"),
exact_sequence, beta, temperatures, chosen, rejected; a side is a dict: lm_logits and ref_lm_logits
(B,T,V), decoder_logits (B,T,K) or (B,1,K), ref_decoder_logits (the same, or None), tau_idx (B,T)
or (B,1), tokens and mask (B,T). FORMAT.md says more; numbers in brackets are its equations. The
module's attribute DTYPE is set to --dtype; below float64 the arrays come as float32, in which every
input is still exact. It runs in a process of its own, where it may print (that goes to stderr),
exit or hang: it only answers.
Exit status: 0 all that ran agrees, 1 a number differs or the module failed, 2 nothing ran.
"""
import itertools
from functools import partial

import numpy as np

import cases
import mistakes
import runner
from cases import wanted
from mistakes import Wrong
from runner import Skip, asked, require

TOLERANCES = {"float64": 1e-12, "float32": 1e-6, "bfloat16": 5e-2}  # README.md: what was measured
LOOK_AT = {  # where the first function that is wrong may be wrong, those before it being right
    "temperature_logps": "the division by the temperature, the softmax, the gather [1]",
    "score": "the mask, the shift, the sum over tokens, the decoder's term, the reference [2-8]",
    "loss": "beta, the sign, which score is subtracted, the log-sigmoid [9]",
    "gradients": "what is detached, what the reference shares, what divides the sum"}


def question(x, dtype):
    """A case without the answers, its floats as float32 below float64."""
    if isinstance(x, dict):
        return {key: question(value, dtype) for key, value in x.items() if key != "expected"}
    if isinstance(x, np.ndarray) and x.dtype.kind == "f":
        return x.astype(np.float64 if dtype == "float64" else np.float32)
    return x


def judge(theirs, function, case, dtype):
    """Asks and compares, as `compare`."""
    answer = cases.answer(partial(asked, theirs, function), function, question(case, dtype))
    return compare(function, case, answer, dtype)


def compare(function, case, answer, dtype):
    """-> words, the largest error per `scale`"""
    want = wanted(case, function)
    require(set(answer) == set(want), f"{function} has {sorted(answer)}, expected {sorted(want)}")
    got = {label: runner.real(x) for label, x in answer.items() if x is not None}
    if not got:
        require(function == "gradients", f"{function} returned None")
        raise Skip
    absent = {label.split(".")[1] for label in want if label not in got}
    require(len(got) + 2 * len(absent) == len(want),
            f"{function} is None for one side only; give both, or None for both")
    # errors grow with the log-probabilities summed; beta stretches what follows the scores
    stretch = max(1.0, case["beta"]) if function in ("loss", "gradients") else 1.0
    allowed = TOLERANCES[dtype] * case["expected"]["scale"] * stretch

    def again(key):
        return cases.answer(getattr(key.oracle, function), function, case)
    worst = mistakes.compare(Wrong(function, again, got, want, allowed, cases.is_large(case),
                                   function != "score", mistakes.remark), f"{function} ")
    return function + f" (skipped: {', '.join(absent)})" * bool(absent), worst * TOLERANCES[dtype]


def explain(wrongs, dtype):
    """-> [(cause, how many misses it explains)]"""
    few = 3 if any(wrong.large for wrong in wrongs) else 12
    return mistakes.causes(wrongs, TOLERANCES, dtype, few)


def questions(args):
    """(name, [(function, judge)]) of golden, random and large cases that no option leaves out.

    The oracle answers each when it is due.
    """
    every = itertools.chain(cases.golden(), cases.fuzz(args.seed, args.fuzz),
                            cases.large(args.dtype) if args.large else ())
    for case in every:
        if runner.wanted(case["name"], args) and not (args.no_gaps and cases.has_gaps(case)):
            case = case if "expected" in case else cases.answered(case)
            yield case["name"], [
                (function, partial(judge, function=function, case=case, dtype=args.dtype))
                for function in LOOK_AT if wanted(case, function)]


def main(argv=None):
    options = runner.parser(__doc__, TOLERANCES)
    options.add_argument("--fuzz", type=int, default=0, metavar="N", help="then N random cases")
    options.add_argument("--seed", type=int, default=0, help="of the random cases")
    options.add_argument("--large", action="store_true", help="then cases of 16 temperatures, "
                         "50,257 tokens in the vocabulary or 300 in a response")
    options.add_argument("--no-gaps", action="store_true", help="without cases whose responses do "
                         "not fill their rows from column 0 on, without a hole")
    args = runner.parse(options, argv, [case["name"] for case in cases.golden()] + cases.LARGE)
    if args.fuzz < 0 or not 0 <= args.seed < 2 ** 32:
        options.error(f"--fuzz {args.fuzz} --seed {args.seed}: give 0 or more, seeds below 2 ** 32")
    return runner.check(__file__, args, questions(args), LOOK_AT,
                        partial(explain, dtype=args.dtype))


if __name__ == "__main__":
    runner.program(main)
