"""Checks your exercises. One exercise or all twelve:

    python notebooks/exercises/check.py 3
    python notebooks/exercises/check.py 3 --hint 2          more help with what is wrong
    python notebooks/exercises/check.py 10 --student 7      your bug hunt
    python notebooks/exercises/check.py --solutions         the solutions instead of your files

One line per function: right; not yet, while it raises NotImplementedError; or wrong, with the call,
what it gave and what was expected. key.json has the questions, the right answers, and those of
known mistakes. Your file runs in a process of its own with a time limit. Exit status: 0 everything
is right, 1 something is wrong, 2 nothing is wrong but something is not written yet.
"""
import argparse
import json
import sys
import textwrap
from collections import Counter
from pathlib import Path

import numpy as np

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path.insert(0, str(ROOT))
from notebooks.exercises import runner  # noqa: E402
from toy.files import program, write  # noqa: E402

HUNTS = ROOT / "out" / "bug_hunt"  # a module for each student number


def decoded(x):
    return np.array(x["array"], dtype=x["dtype"]) if "dtype" in x else x


KEY = json.loads((HERE / "key.json").read_text(encoding="utf-8"), object_hook=decoded)


# --- answers --------------------------------------------------------------------------------------


def agrees(came, want):
    """Whether two answers are the same: numbers within 1e-9, exceptions by their kind."""
    if isinstance(came, dict) and isinstance(want, dict):
        return came["raises"].split(":")[0] == want["raises"].split(":")[0]
    try:
        came, want = np.asarray(came, dtype=float), np.asarray(want, dtype=float)
    except (TypeError, ValueError):
        return came == want
    return came.shape == want.shape and np.allclose(came, want, 1e-9, 1e-9, equal_nan=True)


def shown(x):
    """A value as text, with four digits of each number."""
    if isinstance(x, dict) and "raises" in x:
        return f"raises {x['raises']}"
    if isinstance(x, dict):
        return "{" + ", ".join(f"{name}: {shown(value)}" for name, value in x.items()) + "}"
    if isinstance(x, (list, tuple, np.ndarray)):
        return f"[{', '.join(map(shown, x))}]"
    return f"{x:.4g}" if isinstance(x, (float, np.floating)) else repr(x)


def verdict(came, entry):
    """-> "right", "not yet" or "wrong", a line, hints.  came: what runner.answers gives"""
    if isinstance(came, str):
        return "wrong", f": {came}", []
    if None in came:
        return "not yet", "", []
    wrong = [i for i, want in enumerate(entry["answers"]) if not agrees(came[i], want)]
    if not wrong:
        return "right", "", []
    given, first, want = (x[wrong[0]] for x in (entry["questions"], came, entry["answers"]))
    line = f": {first}"  # of a task: a sentence on the rule that it breaks
    if want != "" or isinstance(first, dict):
        line = f"({', '.join(map(shown, given))}) -> {shown(first)}; expected {shown(want)}"
    alike = {hint: sum(map(agrees, came, of)) for hint, of in entry["mistakes"].items()
             if all(agrees(came[i], of[i]) for i in wrong)}  # it gives all that is wrong here
    return "wrong", line, entry["steps"] + sorted(alike, key=alike.get)[-1:]


# --- the command ----------------------------------------------------------------------------------


def module_of_hunt(student):
    """The module in which a student hunts a bug; written to a file, unless there is one."""
    text = KEY["hunts"][student % len(KEY["hunts"])]
    path = HUNTS / f"losses_{student}.py"
    try:
        if not path.exists():  # they may have put prints into it
            write(path, text)
        print(f"    student {student}: the module to search is {path}")
    except ValueError as error:
        print(f"    {error}")
    return text


def graded(number, path, args):
    """Check one file, and print the verdict on each function.  -> list of "right", ..."""
    statuses, start = [], [module_of_hunt(args.student)] if number == "10" else []
    for name, entry in KEY["exercises"][number]["functions"].items():
        status, line, hints = "not yet", f": there is no {path.name} in {path.parent}", []
        if path.exists():
            questions = [[*start, *given] for given in entry["questions"]]
            came = runner.answers(path, name, questions, args.timeout)
            status, line, hints = verdict(came, entry)
        statuses.append(status)
        lines = [f"    {status:8} {name}{line}"]
        lines += [f"{'':13}hint {i} of {len(hints)}: {hint}" for i, hint in enumerate(hints, 1)]
        for text in lines[:max(args.hint, 0) + 1]:
            print(textwrap.fill(text, 100, subsequent_indent=" " * 13), flush=True)
    return statuses


def parse(argv):
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("numbers", nargs="*", metavar="N", help="which exercises (default: all)")
    parser.add_argument("--hint", type=int, default=1, metavar="N", help="how many hints to print")
    parser.add_argument("--student", type=int, default=0, metavar="N",
                        help="your number, for the bug hunt (default: 0)")
    parser.add_argument("--solutions", action="store_true", help="check the solutions instead")
    parser.add_argument("--folder", type=Path, default=HERE, metavar="FOLDER",
                        help="where the files are, for teachers (default: beside this one)")
    parser.add_argument("--timeout", type=float, default=60, metavar="SECONDS",
                        help="that a function may take for all its questions (default: 60)")
    args = parser.parse_args(argv)
    unknown = [n for n in args.numbers if n not in KEY["exercises"]]
    if unknown:
        parser.error(f"there is no exercise {unknown[0]}; give 1 to {len(KEY['exercises'])}")
    if not args.timeout > 0:
        parser.error("--timeout takes a number of seconds above 0")
    return args


def main(argv=None):
    args = parse(argv)
    folder = HERE / "solutions" if args.solutions else args.folder
    statuses = Counter()
    for number in args.numbers or KEY["exercises"]:
        exercise = KEY["exercises"][number]
        print(f"{number:>2}  {exercise['title']}", flush=True)
        statuses.update(graded(number, folder / exercise["file"], args))
    print(f"{statuses['right']} of {statuses.total()} functions right, {statuses['wrong']} wrong, "
          f"{statuses['not yet']} not yet")
    return 1 if statuses["wrong"] else 2 if statuses["not yet"] else 0


if __name__ == "__main__":
    with program():
        status = main()
    sys.exit(status)
