"""Runs any implementation of the LPO losses against golden.json. Needs numpy alone.

    python conformance/check.py their_module      or path/to/file.py, e.g. an adapter beside theirs

The module defines up to four functions, numpy in and numpy out; one that is missing is skipped, as
is a case for which one raises NotImplementedError.
    temperature_logps(logits, tokens, temperatures)   (B,T,V), (B,T), K floats -> (B,T,K)
    score(case, side)   side is "chosen" or "rejected" -> (B,)
    loss(case)          -> (B,), one a pair, not their mean
    gradients(case)     of the sum of the losses -> {"chosen": {"decoder_logits": (B,T or 1,K),
                        "lm_logits": (B,T,V)}, "rejected": ...}; what is None is skipped
A case is a dict: variant ("joint", "separate", "latent", "nll"), level ("token", "sequence"),
exact_sequence, beta, temperatures, chosen, rejected; a side is a dict: lm_logits and ref_lm_logits
(B,T,V), decoder_logits (B,T,K) or (B,1,K), ref_decoder_logits (the same, or None), tau_idx (B,T)
or (B,1), tokens and mask (B,T). README.md says more. The module's attribute DTYPE is set to
--dtype; below float64 the arrays come as float32, in which every input is still exact.
Exit status: 0 all that ran agrees, 1 a number differs, 2 nothing ran.
"""
import argparse
import copy
import importlib.util
import sys
from collections import Counter
from pathlib import Path

import numpy as np

import make_golden
from make_golden import SIDES
from mistakes import MISTAKES, relation

FUNCTIONS = ("temperature_logps", "score", "loss", "gradients")
TOLERANCES = {"float64": 1e-12, "float32": 1e-6, "bfloat16": 5e-2}  # README.md: what was measured


# ---- answers: {label: array} -------------------------------------------------------------------

def wanted(case, function):
    """The right ones, empty where the function does not apply."""
    answer = case["expected"]
    if function == "gradients":
        return flat(answer["gradients"])
    return {"temperature_logps": answer["text_logps"], "score": answer["scores"] or {},
            "loss": {"": answer["losses"]}}[function]


def given(module, function, case):
    """Those of a module, theirs or the oracle."""
    call = getattr(module, function)
    if function == "temperature_logps":
        answer = {side: call(case[side]["lm_logits"], case[side]["tokens"], case["temperatures"])
                  for side in SIDES}
    elif function == "score":
        answer = {side: call(case, side) for side in SIDES}
    else:
        answer = {"": call(case)} if function == "loss" else flat(call(case))
    return {label: np.asarray(x, dtype=float) for label, x in answer.items() if x is not None}


def flat(gradients):
    return {f"{side}.{name}": x for side, d in gradients.items() for name, x in d.items()}


def tolerance(case, function, dtype):
    """Errors grow with the log-probabilities summed; beta stretches what follows the scores."""
    stretch = max(1.0, case["beta"]) if function in ("loss", "gradients") else 1.0
    return TOLERANCES[dtype] * case["expected"]["scale"] * stretch


def errors(got, want):
    """|got - want|; 0 where want is NaN (not compared) or both are -inf; NaN counts as infinite."""
    with np.errstate(invalid="ignore"):
        error = np.where(np.isnan(want) | (got == want), 0.0, np.abs(got - want))
    return np.where(np.isnan(error), np.inf, error)


# ---- the run -----------------------------------------------------------------------------------

def question(case, dtype):
    """A copy without the answers, its floats as float32 below float64."""
    def cast(x):
        if isinstance(x, dict):
            return {key: cast(value) for key, value in x.items() if key != "expected"}
        if getattr(x, "dtype", None) == float:
            return x.astype(np.float64 if dtype == "float64" else np.float32)
        return copy.copy(x)
    return cast(case)


def compare(module, function, case, dtype):
    """-> (line, error over tolerance, what came), the error None on a miss; None: nothing ran"""
    want = wanted(case, function)
    try:
        got = given(module, function, question(case, dtype))
    except NotImplementedError:
        return None
    except Exception as error:  # their code: whatever it raises is the result
        return f"{function} raised {type(error).__name__}: {error}", None, {}
    if not set(got) <= set(want):
        return f"{function} has {sorted(got)}, expected {sorted(want)}", None, {}
    if not got:
        return None
    allowed, worst = tolerance(case, function, dtype), 0.0
    for label, x in got.items():
        where = f"{function} {label}".strip()
        if x.shape != want[label].shape:
            return f"{where} has shape {x.shape}, expected {want[label].shape}", None, {}
        error = errors(x, want[label])
        if (error > allowed).any():
            index = tuple(np.argwhere(error > allowed)[0].tolist())
            line = f"{where}{list(index)} is {x[index]:.9g}, expected {want[label][index]:.9g}"
            return line, None, {label: x, **got}  # the wrong one first
        worst = max(worst, error.max() / allowed)
    absent = sorted(set(want) - set(got))
    return function + (f" (skipped: {', '.join(absent)})" if absent else ""), worst, got


def explain(case, function, got, allowed, causes):
    """The known mistake whose numbers are those that came, most frequent so far first; or None."""
    want, label = wanted(case, function), next(iter(got))
    if function == "gradients" and not any(x.any() for x in got.values()):
        return relation(function, got[label], want[label])
    for hint, module, change in sorted(MISTAKES, key=lambda entry: -causes[entry[0]]):
        if hasattr(module, function):
            theirs = given(module, function, change(case))
            if all(agree(x, theirs[label], want[label], allowed) for label, x in got.items()):
                return hint
    return relation(function, got[label], want[label])


def agree(x, y, want, allowed):
    """Whether x is y where want is compared; mistaken numbers may be larger than right ones."""
    if x.shape != y.shape:
        return False
    size = np.maximum(1, np.abs(np.nan_to_num(y, neginf=0)))
    return (errors(x, np.where(np.isnan(want), np.nan, y)) <= allowed * size).all()


def run(module, cases, dtype):
    """Print a line for each case and a summary.  -> exit status"""
    module.DTYPE = dtype
    supplied = [name for name in FUNCTIONS if callable(getattr(module, name, None))]
    count, causes, worst = Counter(), Counter(), {}
    for case in cases:
        lines, misses = [], []
        for name in (name for name in supplied if wanted(case, name)):
            line, error, got = compare(module, name, case, dtype) or (None, None, None)
            if error is not None:
                lines.append(line)
                worst[name] = max(worst.get(name, 0.0), error * TOLERANCES[dtype])
            elif line:
                misses.append((line, name, got))
        status = "MISS" if misses else "pass" if lines else "skip"
        count[status] += 1
        if misses:
            hint = next(filter(None, (explain(case, name, got, tolerance(case, name, dtype), causes)
                                      for _, name, got in misses if got)), None)
            causes[hint or "not recognised"] += 1
            lines = [misses[0][0] + (f"; hint: {hint}" if hint else "")]
        print(f"{status}  {case['name']}  {' '.join(lines)}")
    print(f"\n{count['pass']} passed, {count['MISS']} missed, {count['skip']} skipped, in {dtype}")
    for name in FUNCTIONS:
        print(f"{name}: " + (f"largest error where right {worst[name]:.1e} times the case's scale"
                             if name in worst else "never right" if name in supplied else
                             "skipped, not supplied"))
    for hint, n in causes.most_common(3):
        print(f"likely cause of {n} of {count['MISS']}: {hint}")
    if count["pass"] + count["MISS"] == 0:
        print(f"nothing ran: define at least one of {', '.join(FUNCTIONS)} (see --help)")
        return 2
    return 1 if count["MISS"] else 0


def load_module(name):
    """By module name, the working directory included, or by the path of a .py file."""
    path = Path(name)
    if path.suffix != ".py":
        sys.path.append(str(Path.cwd()))
        return importlib.import_module(name)
    sys.path.append(str(path.resolve().parent))
    spec = importlib.util.spec_from_file_location(f"checked_{path.stem}", path)
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("module", nargs="?", help="module name, or path of a .py file")
    parser.add_argument("--dtype", choices=TOLERANCES, default="float64")
    parser.add_argument("--fuzz", type=int, default=0, metavar="N",
                        help="then N random cases, answered by the oracle")
    parser.add_argument("--seed", type=int, default=0, help="of the random cases")
    parser.add_argument("--list", action="store_true", help="print the names of the cases")
    args = parser.parse_args(argv)
    cases = make_golden.load()
    if args.list:
        print("\n".join(case["name"] for case in cases))
        return 0
    if args.module is None:
        parser.error("name a module or a .py file, or give --list")
    try:
        module = load_module(args.module)
    except (Exception, SystemExit) as error:  # theirs again
        print(f"cannot import {args.module}: {type(error).__name__}: {error}")
        return 2
    return run(module, cases + list(make_golden.fuzz_cases(args.seed, args.fuzz)), args.dtype)


if __name__ == "__main__":
    sys.exit(main())
