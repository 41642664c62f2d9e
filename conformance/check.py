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
--dtype; below float64 the arrays come as float32, in which every input is still exact. It runs in
a process of its own, where it may print (that goes to stderr), exit or hang: it only answers.
Exit status: 0 all that ran agrees, 1 a number differs or the module failed, 2 nothing ran.
"""
import argparse
import importlib.util
import json
import os
import pickle
import queue
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path

import numpy as np

import make_golden
from make_golden import SIDES
from mistakes import MISTAKES, relation

ANSWER = "--answer-questions"  # the command line of the other process
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
    """Those of a module, theirs or the oracle's."""
    call = getattr(module, function)
    if function == "temperature_logps":
        answer = {side: call(case[side]["lm_logits"], case[side]["tokens"], case["temperatures"])
                  for side in SIDES}
    elif function == "score":
        answer = {side: call(case, side) for side in SIDES}
    else:
        answer = {"": call(case)} if function == "loss" else flat(call(case))
    return {label: real(x) for label, x in answer.items() if x is not None}


def real(x):
    """Numbers as float64. Of a complex one numpy would drop a part, and it reads "1" and True."""
    x = np.asarray(x)
    if x.dtype == bool or not np.can_cast(x.dtype, float, "same_kind"):
        raise TypeError(f"real numbers expected, not {x.dtype}")
    return x.astype(float)


def flat(gradients):
    return {f"{side}.{name}": x for side, d in gradients.items() for name, x in d.items()}


def tolerance(case, function, dtype):
    """Errors grow with the log-probabilities summed; beta stretches what follows the scores."""
    stretch = max(1.0, case["beta"]) if function in ("loss", "gradients") else 1.0
    return TOLERANCES[dtype] * case["expected"]["scale"] * stretch


def errors(got, want):
    """|got - want|; 0 where want is NaN (not compared) or both are -inf; NaN counts as infinite."""
    with np.errstate(invalid="ignore", over="ignore"):
        error = np.where(np.isnan(want) | (got == want), 0.0, np.abs(got - want))
    return np.where(np.isnan(error), np.inf, error)


# ---- their module, in another process: a verdict never comes from the code under test -----------

class Process:
    """Where their module runs.

    functions: the names of those it has, or None: it could not be loaded
    ended: why it answers no more, or None
    """

    def __init__(self, name, dtype, seconds):
        self.seconds, self.replies, self.ended = seconds, queue.Queue(), None
        self.process = subprocess.Popen([sys.executable, "-u", __file__, ANSWER],
                                        stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        threading.Thread(target=self.listen, daemon=True).start()
        here = Path(__file__).resolve().parent  # where pages of ours could stand in for theirs
        path = [folder for folder in sys.path if Path(folder).resolve() != here]
        kind, what = self.exchange("the import", (name, dtype, path))
        self.functions = what if kind == "gave" else None
        if kind == "raised":
            self.ended = what

    def ask(self, function, case):
        """-> as answer(), or "ended", words"""
        kind, what = self.exchange(function, (function, case))
        if kind == "gave":
            what = {label: np.array(x, dtype=float) for label, x in what.items()}
        return kind, what

    def exchange(self, who, message):
        """Send one message and wait for the reply to it."""
        try:
            pickle.dump(message, self.process.stdin)
            self.process.stdin.flush()
            reply = self.replies.get(timeout=self.seconds)
        except OSError:  # nobody there
            reply = None
        except queue.Empty:
            self.ended = f"{who} gave no answer within {self.seconds:g} s (see --timeout)"
            return "ended", self.ended
        if reply is None:
            self.ended = f"{who} ended the process"
            return "ended", self.ended
        return json.loads(reply)  # not pickle, which could run code of theirs

    def listen(self):
        for line in self.process.stdout:
            self.replies.put(line)
        self.replies.put(None)

    def stop(self):
        self.process.kill()
        self.process.wait()


class Here:
    """Where their module runs in this process: as the other one has it, and for tests of ours."""

    def __init__(self, module):
        self.module, self.ended = module, None
        self.functions = [name for name in FUNCTIONS if callable(getattr(module, name, None))]

    def ask(self, function, case):
        return answer(self.module, function, case)


def answer_questions():
    """What the other process does: load their module, then answer until it is stopped."""
    stdin, replies, questions = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "w"), queue.Queue()
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(2, 1)  # what they print goes to stderr, not between our lines
    threading.Thread(target=receive, args=(stdin, questions), daemon=True).start()
    name, dtype, sys.path[:] = questions.get()
    sys.argv[:] = [name]
    for ours in ("make_golden", "mistakes", "oracle"):  # they may have their own of that name
        del sys.modules[ours]
    try:
        module = load_module(name)
        module.DTYPE = dtype
        theirs = Here(module)
        reply = "gave", theirs.functions
    except BaseException as error:
        reply = "raised", words(error)
    while True:
        print(json.dumps(reply), file=replies, flush=True)
        kind, what = theirs.ask(*questions.get())
        reply = kind, {label: x.tolist() for label, x in what.items()} if kind == "gave" else what


def receive(stdin, questions):
    """In a thread: whoever asks may be killed while they hang."""
    try:
        while True:
            questions.put(pickle.load(stdin))
    finally:
        os._exit(1)


def answer(module, function, case):
    """-> "gave", {label: array}; "raised", words; or "skipped", None"""
    try:
        return "gave", given(module, function, case)
    except NotImplementedError:
        return "skipped", None
    except BaseException as error:  # sys.exit too: whatever their code raises is the result
        return "raised", words(error)


def words(error):
    """On one line, whatever they wrote."""
    return ascii(f"{type(error).__name__}: {error}")[1:-1][:300]


# ---- the run -----------------------------------------------------------------------------------

def question(case, dtype):
    """The case without the answers, its floats as float32 below float64."""
    def cast(x):
        if isinstance(x, dict):
            return {key: cast(value) for key, value in x.items() if key != "expected"}
        if getattr(x, "dtype", None) == float:
            return x.astype(np.float64 if dtype == "float64" else np.float32)
        return x
    return cast(case)


def compare(theirs, function, case, dtype):
    """-> (line, error over tolerance, what came), the error None on a miss; None: nothing ran"""
    want = wanted(case, function)
    kind, got = theirs.ask(function, question(case, dtype))
    if kind == "skipped":
        return None
    if kind == "raised":
        return f"{function} raised {got}", None, {}
    if kind == "ended":
        return got, None, {}
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


def run(theirs, cases, dtype):
    """Print a line for each case and a summary.  -> exit status

    theirs: what has ask(), functions and ended as Process has them.
    """
    count, causes, worst, wrong = Counter(), Counter(), {}, set()
    for case in cases:
        lines, misses = [], []
        for name in (name for name in theirs.functions if wanted(case, name)):
            line, error, got = compare(theirs, name, case, dtype) or (None, None, None)
            if error is not None:
                lines.append(line)
                worst[name] = max(worst.get(name, 0.0), error * TOLERANCES[dtype])
            elif line:
                misses.append((line, name, got))
                wrong.add(name)
            if theirs.ended:
                break
        status = "MISS" if misses else "pass" if lines else "skip"
        count[status] += 1
        if misses:
            hint = next(filter(None, (explain(case, name, got, tolerance(case, name, dtype), causes)
                                      for _, name, got in misses if got)), None)
            causes[hint or "not recognised"] += 1
            lines = [misses[0][0] + (f"; hint: {hint}" if hint else "")]
        print(f"{status}  {case['name']}  {' '.join(lines)}")
        if theirs.ended:
            print(f"stopped here: {theirs.ended}")
            break
    print(f"\n{count['pass']} passed, {count['MISS']} missed, {count['skip']} skipped, in {dtype}")
    for name in FUNCTIONS:
        print(f"{name}: " + (f"largest error where right {worst[name]:.1e} times the case's scale"
                             if name in worst else "never right" if name in wrong else
                             "skipped, not implemented" if name in theirs.functions else
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
        sys.path.insert(0, str(Path.cwd()))
        return importlib.import_module(name)
    sys.path.insert(0, str(path.resolve().parent))
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
    parser.add_argument("--timeout", type=float, default=300, metavar="SECONDS",
                        help="that the import and every single call may take (default: 300)")
    parser.add_argument("--list", action="store_true", help="print the names of the cases")
    args = parser.parse_args(argv)
    cases = make_golden.load()
    if args.list:
        print("\n".join(case["name"] for case in cases))
        return 0
    if args.module is None:
        parser.error("name a module or a .py file, or give --list")
    if not args.timeout > 0:
        parser.error("--timeout takes a number of seconds above 0")
    cases += make_golden.fuzz_cases(args.seed, args.fuzz)
    theirs = Process(args.module, args.dtype, args.timeout)
    try:
        if theirs.functions is None:
            print(f"cannot import {args.module}: {theirs.ended}")
            return 2
        return run(theirs, cases, args.dtype)
    finally:
        theirs.stop()


if __name__ == "__main__":
    if sys.argv[1:] == [ANSWER]:
        answer_questions()
    try:
        status = main()
        sys.stdout.flush()
    except BrokenPipeError:  # whoever read our lines has gone: there is no verdict
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        status = 1
    sys.exit(status)
