"""A student's file in a process of its own, by conformance/runner.py; see its `Process`.

    answers(path, "posterior", questions, seconds)

gives one answer per question, or a sentence on why there is none. An answer is plain numbers, lists
and texts; {"raises": words}; or None, if the function is not written yet.
"""
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "conformance")]
from runner import Here, Process, serve  # noqa: E402


def answers(path, function, questions, seconds):
    theirs = Process(__file__, str(path), "float64", seconds)
    try:
        if theirs.functions is None:
            return f"the file cannot be read: {theirs.ended}"
        came = [said(*theirs.ask(function, *given)) for given in questions if not theirs.ended]
        return theirs.ended or came
    finally:
        theirs.stop()


def answer(module, function, given):
    """One answer of a module in this process."""
    from notebooks.exercises.harness import MADE
    return said(*Here(module, MADE).ask(function, *given))


def said(kind, what):
    if kind == "gave" and what is None:
        return {"raises": "TypeError: it returned None; is a `return` missing?"}
    return {"raises": what} if kind == "raised" else what


if __name__ == "__main__":
    from notebooks.exercises.harness import MADE
    serve(MADE)
