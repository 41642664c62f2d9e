"""Checks your exercises and says in words what is wrong. One exercise or all twelve:

    python notebooks/exercises/check.py 3
    python notebooks/exercises/check.py
    python notebooks/exercises/check.py 10 --student 7      your bug hunt
    python notebooks/exercises/check.py --solutions         the solutions instead of your files

A line for each function: right; not yet, while it raises NotImplementedError; or wrong, with what
came, what was expected and the likely mistake. Your file runs in a process of its own with a time
limit: it may crash, hang or print. Exit status: 0 everything is right, 1 something is wrong, 2
nothing is wrong but something is not written yet.
"""
import argparse
import sys
import tempfile
import textwrap
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
for folder in (ROOT / "conformance", ROOT):
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))

import runner  # noqa: E402
from notebooks.exercises import bug_hunt, judges  # noqa: E402
from notebooks.exercises.harness import MADE  # noqa: E402
from notebooks.exercises.judging import verdict  # noqa: E402

PAGES = ROOT / "out" / "bug_hunt"  # a page for each student number


# --- one exercise ---------------------------------------------------------------------------------


def graded(number, theirs, student):
    """-> [(function, "right", "not yet" or "wrong", line, hint)], one for each of its functions"""
    return [(name, *verdict(theirs, name, judge, student))
            for name, judge in judges.EXERCISES[number].functions.items()]


def graded_file(number, path, student, seconds):
    """As graded(); a file that cannot be read is wrong in all of its functions."""
    theirs = runner.Process(__file__, str(path), "float64", seconds)
    try:
        if theirs.functions is None:
            line = f"{path.name} cannot be read: {theirs.ended}"
            return [(name, "wrong", line, None) for name in judges.EXERCISES[number].functions]
        return graded(number, theirs, student)
    finally:
        theirs.stop()


def printed(function, status, line, hint):
    """A verdict as lines of text, folded."""
    text = f"{status:8} {function}" + (f": {line}" if line else "")
    lines = textwrap.wrap(text, 96, subsequent_indent=" " * 9)
    if hint:
        lines += textwrap.wrap(f"likely: {hint}", 96, initial_indent=" " * 9,
                               subsequent_indent=" " * 17)
    return "\n".join(f"    {line}" for line in lines)


def page_of_hunt(student):
    """Write the page in which a student hunts a bug, unless it is there.

    -> its path; in the folder for temporary files if the project's cannot be written.
    """
    for folder in (PAGES, Path(tempfile.gettempdir()) / "bug_hunt"):
        path = folder / f"losses_{student}.py"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            if not path.exists():  # they may have put prints into it
                path.write_text(bug_hunt.page(student), encoding="utf-8")
            return path
        except OSError as error:
            reason = error
    raise SystemExit(f"the page to search cannot be written: {reason}")


# --- the command ----------------------------------------------------------------------------------


def parse(argv):
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("numbers", type=int, nargs="*", metavar="N",
                        help="which exercises, 1 to 12 (default: all)")
    parser.add_argument("--student", type=int, default=0, metavar="N",
                        help="your number, for the bug hunt (default: 0)")
    parser.add_argument("--solutions", action="store_true", help="check the solutions instead")
    parser.add_argument("--folder", type=Path, default=HERE, metavar="FOLDER",
                        help="where the files are, for teachers (default: beside this page)")
    parser.add_argument("--timeout", type=runner.seconds, default=60, metavar="SECONDS",
                        help="that reading a file and every single call may take (default: 60)")
    args = parser.parse_args(argv)
    unknown = [n for n in args.numbers if n not in judges.EXERCISES]
    if unknown:
        parser.error(f"there is no exercise {unknown[0]}; give 1 to {len(judges.EXERCISES)}")
    return args


def main(argv=None):
    args = parse(argv)
    folder = HERE / "solutions" if args.solutions else args.folder
    statuses = []
    for number in args.numbers or judges.EXERCISES:
        exercise = judges.EXERCISES[number]
        print(f"{number:2}  {exercise.title}")
        if number == 10:
            path = page_of_hunt(args.student)
            print(f"    student {args.student}: the page to search is "
                  f"{path.relative_to(ROOT) if path.is_relative_to(ROOT) else path}")
        path = folder / exercise.file
        if not path.exists():
            print(f"    not yet  there is no {path.name} in {folder}")
            statuses += ["not yet"] * len(exercise.functions)
            continue
        for of_function in graded_file(number, path, args.student, args.timeout):
            print(printed(*of_function), flush=True)
            statuses.append(of_function[1])
    counts = {status: statuses.count(status) for status in ("right", "wrong", "not yet")}
    print(f"{counts['right']} of {len(statuses)} functions right, {counts['wrong']} wrong, "
          f"{counts['not yet']} not yet")
    return 1 if counts["wrong"] else 2 if counts["not yet"] else 0


if __name__ == "__main__":
    runner.program(main, MADE)
