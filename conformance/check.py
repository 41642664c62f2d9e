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
import fnmatch
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

import large
import make_golden
from make_golden import SIDES
from marks import has_gaps, marks
from mistakes import LARGE_MISTAKES, MISTAKES, missing_gradient, relation

ANSWER = "--answer-questions"  # the command line of the other process
OUR_MODULES = ("make_golden", "mistakes", "oracle", "large", "marks")
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
    page = __file__  # what the other process runs

    def __init__(self, name, dtype, seconds):
        self.seconds, self.replies, self.ended = seconds, queue.Queue(), None
        self.process = subprocess.Popen([sys.executable, "-u", self.page, ANSWER],
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
    names = FUNCTIONS

    def __init__(self, module):
        self.module, self.ended = module, None
        self.functions = [name for name in self.names if callable(getattr(module, name, None))]

    def ask(self, function, case):
        return answer(self.module, function, case)


def answer_questions(here=Here, our_modules=OUR_MODULES):
    """What the other process does: load their module, then answer until it is stopped."""
    stdin, replies, questions = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "w"), queue.Queue()
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(2, 1)  # what they print goes to stderr, not between our lines
    threading.Thread(target=receive, args=(stdin, questions), daemon=True).start()
    name, dtype, sys.path[:] = questions.get()
    sys.argv[:] = [name]
    for ours in our_modules:  # they may have their own of that name
        del sys.modules[ours]
    try:
        module = load_module(name)
        module.DTYPE = dtype
        theirs = here(module)
        reply = "gave", theirs.functions
    except BaseException as error:
        reply = "raised", words(error)
    while True:
        print(json.dumps(reply, default=np.ndarray.tolist), file=replies, flush=True)
        reply = theirs.ask(*questions.get())


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
            return line, None, {k: y for k, y in got.items() if y.shape == want[k].shape}
        worst = max(worst, error.max() / allowed)
    absent = sorted(set(want) - set(got))
    return function + (f" (skipped: {', '.join(absent)})" if absent else ""), worst, got


def explanation(case, answers, causes):
    """Why the wrong answers of a case are wrong, or None.

    answers: {function: (arrays that came, tolerance)}; causes: how often each hint was given so far
    """
    if "gradients" in answers:
        got, allowed = answers["gradients"]
        hint = missing_gradient(got, wanted(case, "gradients"), allowed)
        if hint:
            return hint
    hints = [arithmetic(case, function, *answer) for function, answer in answers.items()]
    hints.sort(key=lambda hint: hint is not None and hint.startswith("-inf"))  # it says least
    return next(filter(None, [known_mistake(case, answers, causes), *hints]), None)


def arithmetic(case, function, got, allowed):
    """What plain arithmetic says about all arrays of one answer that are wrong, or None."""
    want = wanted(case, function)
    wrong = [label for label, x in got.items() if (errors(x, want[label]) > allowed).any()]
    x, y = (np.concatenate([d[label].ravel() for label in wrong]) for d in (got, want))
    with np.errstate(all="ignore"):  # whatever they gave
        return relation(function, x, y, allowed, len(case["temperatures"]))


def known_mistake(case, answers, causes):
    """The known mistake that gives the wrong numbers of all functions that missed; else of one.

    Of several that do, the most frequent so far.
    """
    of_one = None
    if large.is_large(case):
        answers = dict([*answers.items()][:1])  # the first one says enough, and takes long enough
    for entry in by_frequency(case, causes):
        able = [function for function in answers if hasattr(entry[1], function)]
        fit = [function for function in able if fits(entry, case, function, *answers[function])]
        if fit and fit == able:
            return entry[0]
        of_one = of_one or (entry[0] if fit else None)
    return of_one


def by_frequency(case, causes):
    """The known mistakes, those first that explained most misses so far."""
    entries = LARGE_MISTAKES if large.is_large(case) else MISTAKES
    return sorted(entries, key=lambda entry: -causes[entry[0]])


def fits(entry, case, function, got, allowed):
    """Whether a mistake (hint, module, change) gives the very numbers that came."""
    _, module, change = entry
    want, theirs = wanted(case, function), given(module, function, change(case))
    if function != "temperature_logps" and not any(
            (np.isfinite(x) & (x != 0) & (errors(x, want[label]) > allowed)).any()
            for label, x in got.items()):
        return False  # zeros and infinities are too easily the same
    return all(agree(x, theirs[label], want[label], allowed) for label, x in got.items())


def agree(x, y, want, allowed):
    """Whether x is y where want is compared; mistaken numbers may be larger than right ones."""
    if x.shape != y.shape and x.shape == want.shape:
        y = y[..., :x.shape[-1]]  # of a padded vocabulary
    if x.shape != y.shape:
        return False
    size = np.maximum(1, np.abs(np.nan_to_num(y, neginf=0)))
    return (errors(x, np.where(np.isnan(want), np.nan, y)) <= allowed * size).all()


def run(theirs, cases, dtype, left_out=None):
    """Print a line for each case and a summary.  -> exit status

    theirs: what has ask(), functions and ended as Process has them; left_out: a
    Counter that is filled while cases are taken, option: how many it leaves out
    """
    count, causes, worst, records = Counter(), Counter(), {}, []
    right, wrong, skipped = Counter(), Counter(), Counter()  # by function
    for case in cases:
        lines, misses = [], []
        for name in (name for name in theirs.functions if wanted(case, name)):
            line, error, got = compare(theirs, name, case, dtype) or (None, None, None)
            if error is not None:
                lines.append(line)
                right[name] += 1
                worst[name] = max(worst.get(name, 0.0), error * TOLERANCES[dtype])
            elif line:
                misses.append((line, name, got))
                wrong[name] += 1
            else:
                skipped[name] += 1
            if theirs.ended:
                break
        status = "MISS" if misses else "pass" if lines else "skip"
        count[status] += 1
        if misses:
            answers = {name: (got, tolerance(case, name, dtype)) for _, name, got in misses if got}
            hint = explanation(case, answers, causes)
            causes[hint] += 1
            kept = (None, {}) if large.is_large(case) else (case, answers)
            records.append((*kept, hint))
            lines = [misses[0][0] + (f"; hint: {hint}" if hint else "")]
        print(f"{status}  {case['name']}  {' '.join(lines)}")
        if theirs.ended:
            print(f"stopped here: {theirs.ended}")
            break
    print(f"\n{count['pass']} passed, {count['MISS']} missed, {count['skip']} skipped, in {dtype}")
    if left_out:
        print("left out: " + ", ".join(f"{n} by {option}" for option, n in left_out.items()))
    for name in FUNCTIONS:
        print(f"{name}: {mark(name, theirs.functions, right, wrong, skipped, worst)}")
    for words in verdict(theirs.functions, right, wrong):
        print(words)
    likely = likely_causes(records)[:3]
    for hint, n in likely:
        print(f"likely cause of {n} of {count['MISS']}: {hint}")
    others = count["MISS"] - sum(n for _, n in likely)
    if others:
        print(f"{others} of {count['MISS']} not recognised, or too few alike to name a cause")
    if count["pass"] + count["MISS"] == 0:
        print(f"nothing ran: define at least one of {', '.join(FUNCTIONS)} (see --help)")
        return 2
    return 1 if count["MISS"] else 0


def mark(name, functions, right, wrong, skipped, worst):
    """What a function has earned, in words."""
    ran = right[name] + wrong[name]
    if name not in functions:
        return "skipped, not supplied"
    if ran == 0:
        return "skipped, not implemented"
    of_all = f"{ran}, {skipped[name]} skipped" if skipped[name] else f"{ran}"
    if not right[name]:
        return f"never right (0 of {of_all})"
    return (f"largest error where right {worst[name]:.1e} times the case's scale "
            f"({right[name]} right of {of_all})")


LOOK_AT = {  # where the first function that is wrong goes wrong, those before it being right
    "temperature_logps": "the division by the temperature, the softmax, the gather",
    "score": "the mask, the shift, the sum over tokens, the decoder's term, the reference",
    "loss": "beta, the sign, which score is subtracted, the log-sigmoid",
    "gradients": "what is detached, what the reference shares, what divides the sum"}


def verdict(functions, right, wrong):
    """One line on where the fault lies, by which functions are right and which are wrong."""
    bad = [name for name in FUNCTIONS if wrong[name]]
    if not bad:
        return []
    before = FUNCTIONS[:FUNCTIONS.index(bad[0])]
    good, unseen = ([name for name in before if bool(right[name]) == ran] for ran in (True, False))
    words = f"{', '.join(good)} right, {bad[0]} wrong" if good else f"{bad[0]} wrong"
    look = "; ".join(LOOK_AT[name] for name in [*unseen, bad[0]])
    return [f"verdict: {words}: look at {look}"]


def likely_causes(records):
    """[(hint, how many misses it explains)], the one that explains most first.

    A case small enough may be explained by several mistakes. Each hint that was given is tried on
    all misses, and the fewest hints that explain most are kept.
    """
    entries = {entry[0]: entry for entry in MISTAKES}
    explained = {hint: set() for _, _, hint in records if hint}
    for hint, own in explained.items():
        for i, (case, answers, given_hint) in enumerate(records):
            if hint == given_hint or hint in entries and explains(entries[hint], case, answers):
                own.add(i)
    left, result = set(range(len(records))), []
    while explained:
        hint = max(explained, key=lambda hint: len(explained[hint] & left))
        new = explained.pop(hint) & left
        if 10 * len(new) < len(records) or not new:  # fewer may be chance
            break
        result.append((hint, len(new)))
        left -= new
    return result


def explains(entry, case, answers):
    """Whether the mistake gives all wrong numbers of a case."""
    able = [function for function in answers if hasattr(entry[1], function)]
    return bool(able) and all(fits(entry, case, name, *answers[name]) for name in able)


# ---- which cases -------------------------------------------------------------------------------

def parse(argv):
    """-> arguments, checked"""
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("module", nargs="?", help="module name, or path of a .py file")
    parser.add_argument("--dtype", choices=TOLERANCES, default="float64")
    parser.add_argument("--fuzz", type=int, default=0, metavar="N",
                        help="then N random cases, answered by the oracle")
    parser.add_argument("--seed", type=int, default=0, help="of the random cases")
    parser.add_argument("--large", action="store_true",
                        help="then cases of 16 temperatures, 50,257 words or 300 tokens")
    parser.add_argument("--no-gaps", action="store_true",
                        help="without the cases whose responses do not fill their rows from "
                             "column 0 on, without a hole")
    parser.add_argument("--only", metavar="PATTERN",
                        help="cases with this in their name; * stands for anything")
    parser.add_argument("--skip", metavar="FILE",
                        help="without the cases named in the file, one a line; lines of ours that "
                             "begin with MISS will do")
    parser.add_argument("--timeout", type=float, default=300, metavar="SECONDS",
                        help="that the import and every single call may take (default: 300)")
    parser.add_argument("--list", action="store_true",
                        help="print the names of the cases, and what each holds")
    args = parser.parse_args(argv)
    if args.module is None and not args.list:
        parser.error("name a module or a .py file, or give --list")
    if not args.timeout > 0:
        parser.error("--timeout takes a number of seconds above 0")
    try:
        args.skip = skipped_names(args.skip) if args.skip else set()
    except (OSError, ValueError) as error:
        parser.error(f"--skip: {error}")
    return args


def skipped_names(path):
    """The names in a file: the first word of a line, MISS before it and # behind it aside."""
    lines = Path(path).read_text(encoding="utf-8").splitlines()
    lines = [line.split("#")[0].removeprefix("MISS").split() for line in lines]
    names = {words[0] for words in lines if words}
    known = {case["name"] for case in make_golden.load()} | set(large.names())
    unknown = sorted(x for x in names - known if not x.startswith("fuzz-"))
    if unknown:
        raise ValueError(f"no case is named {unknown[0]!r}; see --list")
    return names


def all_cases(args):
    """Golden, random and large ones; each is made when its turn comes."""
    yield from make_golden.load()
    yield from make_golden.fuzz_cases(args.seed, args.fuzz)
    if args.large:
        yield from large.large_cases(args.dtype)


def selected(cases, args, left_out):
    """Those that no option leaves out; left_out counts the others by option."""
    for case in cases:
        if args.only and not fnmatch.fnmatchcase(case["name"], f"*{args.only}*"):
            left_out["--only"] += 1
        elif case["name"] in args.skip:
            left_out["--skip"] += 1
        elif args.no_gaps and has_gaps(case):
            left_out["--no-gaps"] += 1
        else:
            yield case


def main(argv=None):
    args, left_out = parse(argv), Counter()
    cases = selected(all_cases(args), args, left_out)
    if args.list:
        for case in cases:
            print(f"{case['name']}  {marks(case)}")
        return 0
    theirs = Process(args.module, args.dtype, args.timeout)
    try:
        if theirs.functions is None:
            print(f"cannot import {args.module}: {theirs.ended}")
            return 2
        return run(theirs, cases, args.dtype, left_out)
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
