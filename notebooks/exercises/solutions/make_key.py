"""Writes key.json: the questions, the solutions' answers, the answers of known mistakes.

    python -m notebooks.exercises.solutions.make_key
"""
import ast
import json
import re
import types
from pathlib import Path

import numpy as np

from notebooks.exercises.runner import answer
from notebooks.exercises.solutions.bug_hunt import BUGS
from notebooks.exercises.solutions.questions import QUESTIONS
from notebooks.exercises.solutions.wrong import WRONG

HERE = Path(__file__).resolve().parent
TITLE = re.compile(r'"""Exercise \d+: (.*)\. About (\d+) minutes, after notebook (\w+)')


def answers(text, function, questions):
    """As runner.answers, of the text of a file, in this process."""
    module = types.ModuleType("checked")
    exec(compile(text, "checked", "exec"), vars(module))
    with np.errstate(all="ignore"):
        return [answer(module, function, given) for given in questions]


def changed(source, right, wrong):
    """A solution with one text replaced, the first where there are several."""
    assert right in source, right
    return source.replace(right, wrong, 1)


def build():
    """-> what key.json holds"""
    exercises, losses = {}, (HERE / "losses.py").read_text(encoding="utf-8")
    hunts = [losses.replace(right, wrong) for right, wrong in BUGS]
    for (number, name), inputs in QUESTIONS.items():
        path, = HERE.glob(f"{number:02}_*.py")
        source = path.read_text(encoding="utf-8")
        if str(number) not in exercises:
            stub = (HERE.parent / path.name).read_text(encoding="utf-8").splitlines()[0]
            title, minutes, after = TITLE.match(stub).groups()
            title = title[0].upper() + title[1:]
            exercises[str(number)] = dict(file=path.name, title=title, minutes=int(minutes),
                                          after=after, functions={})
        questions = [(*hunts[:number == 10], *given) for given in inputs]
        mistakes = {hint: answers(changed(source, right, wrong), name, questions)
                    for right, wrong, hint in WRONG[number, name] if name != "task"}
        exercises[str(number)]["functions"][name] = dict(
            steps=steps(source, name), questions=inputs, mistakes=mistakes,
            answers=answers(source, name, questions))
    return dict(exercises=exercises, hunts=hunts)


def steps(source, name):
    """The paragraphs of a solution's docstring are the hints."""
    doc = next((ast.get_docstring(node) for node in ast.parse(source).body
                if isinstance(node, ast.FunctionDef) and node.name == name), None)
    return [" ".join(paragraph.split()) for paragraph in doc.split("\n\n")] if doc else []


def text():
    def encoded(x):
        return dict(array=x.tolist(), dtype=str(x.dtype))
    return json.dumps(build(), default=encoded, separators=(",", ":")) + "\n"


if __name__ == "__main__":
    (HERE.parent / "key.json").write_text(text(), encoding="utf-8")
