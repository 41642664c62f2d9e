"""The exercises: solutions pass, stubs are not yet written, each typical mistake gets its hint.

What students' files may do to the checker (crash, hang, not compile) gives a sentence. The sheets
for teachers and students name what is there.
    pytest tests/test_exercises.py
"""
import ast
import json
import math
import re
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import decoder
import lpo
import model
from toy import rows

ROOT = Path(__file__).resolve().parents[1]
sys.path.append(str(ROOT / "conformance"))
from notebooks.exercises import bug_hunt, judges, judging  # noqa: E402
from notebooks.exercises import check as exercises  # noqa: E402
from notebooks.exercises.solutions.wrong import WRONG  # noqa: E402

FOLDER = ROOT / "notebooks" / "exercises"
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")  # of wrong answers' numpy
every_exercise = pytest.mark.parametrize("number", judges.EXERCISES)


def graded_here(number, path, student=0):
    """As check.graded_file, in this process, which has torch loaded already."""
    module = exercises.conformance.load_module(str(path))
    return exercises.graded(number, exercises.Here(module), student)


def mistaken(tmp_path, number, right, wrong):
    """A solution with one text replaced, as a file."""
    text = (FOLDER / "solutions" / judges.EXERCISES[number].file).read_text(encoding="utf-8")
    assert text.count(right) == 1, right
    path = tmp_path / f"answer_{number}.py"
    path.write_text(text.replace(right, wrong), encoding="utf-8")
    return path


@every_exercise
def test_the_solution_is_right(number):
    verdicts = graded_here(number, FOLDER / "solutions" / judges.EXERCISES[number].file)
    assert [verdict[1:] for verdict in verdicts] == [("right", "", None)] * len(verdicts)


@every_exercise
def test_the_stub_is_not_written_yet(number):
    verdicts = graded_here(number, FOLDER / judges.EXERCISES[number].file)
    assert [verdict[1:] for verdict in verdicts] == [("not yet", "", None)] * len(verdicts)


@pytest.mark.parametrize("answer", WRONG, ids=lambda a: f"{a.number}-{a.function}-{a.hint:.30}")
def test_a_wrong_answer_gets_its_hint(answer, tmp_path):
    path = mistaken(tmp_path, answer.number, answer.right, answer.wrong)
    verdicts = {name: rest for name, *rest in graded_here(answer.number, path)}
    status, line, hint = verdicts[answer.function]
    assert status == "wrong" and line
    assert answer.hint in f"{line}; {hint}"


def test_every_exercise_has_three_wrong_answers_and_every_function_one():
    per_exercise = Counter(answer.number for answer in WRONG)
    assert all(per_exercise[number] >= 3 for number in judges.EXERCISES)
    functions = {(number, name) for number, exercise in judges.EXERCISES.items()
                 for name in exercise.functions}
    assert functions == {(answer.number, answer.function) for answer in WRONG}


def test_a_value_on_paper_comes_before_the_golden_cases(tmp_path):
    path = mistaken(tmp_path, 4, "tau_idx].sum()", "tau_idx].mean()")
    assert graded_here(4, path)[0] == (
        "separate_score", "wrong", "fox owl of notebook 3, P(tau) = 1/4, 3/4, drawn 0 1: came "
        "-0.837, expected -1.674", "mean over response tokens instead of the sum")


@pytest.mark.parametrize("answers, hint", [((1, 4, 9), "squared"), ((1, 4, 6), "squared"),
                                           ((1, 4, 7), None), ((1, 7, 8), None)])
def test_a_mistake_is_named_if_it_explains_more_than_half(answers, hint):
    """Right is 2 x; at 1 and 2 and 3 squares are 1, 4 and 9, of which 4 is right."""
    theirs = SimpleNamespace(ended=None, ask=lambda name, x: ("gave", answers[x - 1]))
    with pytest.raises(judging.Wrong) as wrong:
        judging.judged(theirs, "double", [judging.Question(f"{x}", (x,), 2 * x)
                                          for x in (1, 2, 3)],
                       {"squared": lambda x: x * x, "tripled": lambda x: 3 * x})
    assert wrong.value.hint == hint


# --- the command, as a student has it -------------------------------------------------------------


def command(*arguments):
    """-> exit status, what was printed"""
    done = subprocess.run([sys.executable, str(FOLDER / "check.py"), *map(str, arguments)],
                          capture_output=True, text=True, encoding="utf-8", timeout=300)
    assert "Traceback" not in done.stdout + done.stderr
    return done.returncode, done.stdout


def test_the_command_on_stub_solution_and_wrong_answer(tmp_path):
    assert command(3) == (2, " 3  The posterior P(tau | y, h)\n    not yet  posterior\n"
                             "    not yet  latent_gradient\n"
                             "0 of 2 functions right, 0 wrong, 2 not yet\n")
    status, text = command(3, 8, "--solutions")
    assert status == 0 and text.endswith("3 of 3 functions right, 0 wrong, 0 not yet\n")
    wrong = mistaken(tmp_path, 3, "return posterior(tau_logps, text_logps) - np.exp(tau_logps)",
                     "return posterior(tau_logps, text_logps)")
    wrong.rename(tmp_path / "03_posterior.py")
    status, text = command(3, "--folder", tmp_path)
    assert status == 1 and "likely: the posterior alone: P(tau_k) is to be subtracted" in text
    assert f"```\n{text}```\n" in page("exercises/README.md")


@pytest.mark.parametrize("text, said", [
    ("def word_logps(logits, tau)\n    return logits\n", "cannot be read: SyntaxError"),
    ("import sys\nsys.exit(0)\n", "cannot be read: SystemExit"),
    ("import os\ndef word_logps(logits, tau): os._exit(0)\n", "ended the process"),
    ("def word_logps(logits, tau): return 1 / 0\n", "raised ZeroDivisionError"),
    ("def word_logps(logits, tau): return None\n", "is a `return` missing?"),
    ("def word_logps(logits, tau): return 'hot'\n", "real numbers expected"),
    ("def word_logps(logits, tau): return logits[:1]\n", "came the shape (1,), expected (2,)"),
    ("def words(logits, tau): return logits\n", "there is no word_logps in the file")],
    ids=lambda text: text[:30] if "\n" not in text else "")
def test_whatever_a_file_does_a_sentence_comes_back(text, said, tmp_path):
    path = tmp_path / "01_temperature_zero.py"
    path.write_text(text, encoding="utf-8")
    (name, status, line, _), = exercises.graded_file(1, path, 0, 60)
    assert (name, status) == ("word_logps", "wrong") and said in line
    assert len(exercises.printed(name, status, line, None).splitlines()) < 8


def test_an_endless_loop_in_a_file_gives_a_sentence(tmp_path):
    path = tmp_path / "03_posterior.py"
    path.write_text("while True: pass\n", encoding="utf-8")
    said = f"{path.name} cannot be read: the import gave no answer within 1 s (see --timeout)"
    assert exercises.graded_file(3, path, 0, 1) == [
        (name, "wrong", said, None) for name in ("posterior", "latent_gradient")]


def test_an_endless_loop_in_a_function_gives_a_sentence_and_is_waited_for_once(tmp_path):
    path = tmp_path / "03_posterior.py"
    path.write_text("def posterior(p, y):\n    while True: pass\nlatent_gradient = posterior\n",
                    encoding="utf-8")
    theirs = exercises.Process(str(path), "float64", 60)
    theirs.seconds = 1  # from now on; the import may take its time on a busy machine
    said = "posterior gave no answer within 1 s (see --timeout)"
    try:
        start = time.monotonic()
        assert exercises.graded(3, theirs, 0) == [
            (name, "wrong", said, None) for name in ("posterior", "latent_gradient")]
        assert time.monotonic() - start < 30
    finally:
        theirs.stop()


def test_prints_of_a_student_do_not_reach_the_verdict(tmp_path):
    solution = (FOLDER / "solutions/02_mixture.py").read_text(encoding="utf-8")
    path = tmp_path / "02_mixture.py"
    path.write_text("print('right    mixture_logps')\n" + solution, encoding="utf-8")
    assert exercises.graded_file(2, path, 0, 60) == [("mixture_logps", "right", "", None)]


def test_what_is_made_of_their_functions_runs_in_the_other_process():
    path = FOLDER / "solutions" / "10_bug_hunt.py"
    assert exercises.graded_file(10, path, 7, 60) == [("bug", "right", "", None)]


# --- the bug hunt ---------------------------------------------------------------------------------


def test_forty_students_meet_all_five_bugs_and_the_solution_finds_each():
    path = FOLDER / "solutions" / "10_bug_hunt.py"
    met = Counter()
    for student in range(40):
        assert graded_here(10, path, student)[0][1] == "right"
        met[bug_hunt.bug_of(student)] += 1
    assert met.keys() == set(bug_hunt.NAMES) and max(met.values()) < 20


def test_the_page_of_a_hunt_is_written_once(tmp_path, monkeypatch):
    monkeypatch.setattr(exercises, "PAGES", tmp_path / "hunt")
    path = exercises.page_of_hunt(7)
    assert path.read_text(encoding="utf-8") == bug_hunt.page(7)
    path.write_text("a student's prints", encoding="utf-8")
    assert exercises.page_of_hunt(7).read_text(encoding="utf-8") == "a student's prints"


@pytest.mark.parametrize("name", bug_hunt.NAMES)
def test_every_bug_of_the_hunt_changes_the_loss(name):
    """By hand: logits ln 3, 0, reference flat, temperature 2, one response token of three."""
    right, wrong = bug_hunt.CHANGES[name]
    assert bug_hunt.PAGE.count(right) == 1

    def loss_of(page):
        module = {}
        exec(page, module)
        side = dict(logits=[[math.log(9), 0.0]] * 4, ref_logits=[[math.log(4), 0.0]] * 4,
                    tokens=[0, 0, 0, 0], mask=[False, True, True, False], tau=[2.0] * 4,
                    tau_logps=[math.log(1 / 2)] * 4)
        other = dict(side, tokens=[0, 0, 1, 1], mask=[True, False, False, False])
        return module["loss"](side, other, 0.5)
    # a token: 3/4 under the policy, 2/3 under the reference, temperature 1/2: 9/16; margin ln 9/16
    assert loss_of(bug_hunt.PAGE) == pytest.approx(math.log(1 + (16 / 9) ** 0.5))
    assert abs(loss_of(bug_hunt.PAGE.replace(right, wrong)) - loss_of(bug_hunt.PAGE)) > 0.01


@pytest.mark.parametrize("student", range(5))
def test_a_wrong_name_is_told_wrong_and_the_right_one_is_not_revealed(student, tmp_path):
    answer = bug_hunt.bug_of(student)
    path = tmp_path / "10_bug_hunt.py"
    for name in bug_hunt.NAMES:
        path.write_text(f"def bug(losses):\n    return {name!r}\n", encoding="utf-8")
        (_, status, line, hint), = graded_here(10, path, student)
        assert status == ("right" if name == answer else "wrong")
        assert name == answer or answer not in f"{line} {hint}"


# --- the pages ------------------------------------------------------------------------------------


def page(name):
    return (ROOT / "notebooks" / name).read_text(encoding="utf-8")


def test_the_table_of_exercises_is_that_of_the_checker():
    rows = [line.strip("| ").split(" | ") for line in page("exercises/README.md").splitlines()
            if re.match(r"\| \d", line)]
    assert [(int(n), subject.replace("\\", ""), int(minutes), int(after))
            for n, subject, minutes, after, _ in rows] == [
        (n, f"[{e.title}]({e.file})", e.minutes, e.after) for n, e in judges.EXERCISES.items()]
    for n, *_, line in rows:
        assert line.startswith(f"`python notebooks/exercises/check.py {n}")


@every_exercise
def test_a_stub_says_its_minutes_and_shapes_and_how_to_check_it(number):
    exercise = judges.EXERCISES[number]
    text = (FOLDER / exercise.file).read_text(encoding="utf-8")
    assert f"About {exercise.minutes} minutes, after notebook {exercise.after}" in text
    assert f"python notebooks/exercises/check.py {number}" in text
    tree = ast.parse(text)
    assert 5 <= exercise.minutes <= 40 and len(ast.get_docstring(tree).splitlines()) <= 22
    for node in tree.body:
        if isinstance(node, ast.FunctionDef):
            assert "->" in ast.get_docstring(node) or node.name in ("bug", "walk")
            assert ast.unparse(node.body[-1]) == "raise NotImplementedError"


def test_points_of_the_assignment():
    functions = sum(len(exercise.functions) for exercise in judges.EXERCISES.values())
    minutes = sum(exercise.minutes for exercise in judges.EXERCISES.values())
    assert f"1 to 12, {functions} functions | 4 each" in page("TEACHING.md")
    assert 4 * functions + 4 * 4 == 100  # the last are those of losses.py
    assert f"take {minutes} minutes" in page("TEACHING.md")


@pytest.mark.parametrize("name", ["TEACHING.md", "CHEATSHEET.md"])
def test_sections_that_a_page_names_are_there(name):
    """In notebooks and on the page of results."""
    text = re.sub(r"\s+", " ", page(name))
    assert len(page(name).splitlines()) <= 120
    for number, titles in re.findall(r'notebook (\d), ((?:"[^"]+"(?:, | to )?)+)', text):
        path, = (ROOT / "notebooks").glob(f"{number}_*.ipynb")
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        shown = {line.removeprefix("## ") for cell in cells
                 for line in "".join(cell["source"]).splitlines() if line.startswith("## ")}
        assert set(re.findall('"([^"]+)"', titles)) <= shown
    last = max(map(int, re.findall(r"^## (\d+)\.", results_page(), re.MULTILINE)))
    for some in re.findall(r"sections? (\d+)(?: and (\d+)| to (\d+))?", text):
        assert all(int(n) <= last for n in some if n)


def results_page():
    return (ROOT / "results" / "README.md").read_text(encoding="utf-8")


def section(number):
    return results_page().split(f"\n## {number}. ")[1].split("\n## ")[0]


def cells(number, *begins):
    """Cells of the first row of a section's tables whose first ones are these."""
    return next(found for line in section(number).splitlines()
                for found in [line.strip("| ").split(" | ")] if found[:len(begins)] == [*begins])


def test_numbers_of_the_cheat_sheet_are_those_of_the_results():
    by_round = {row["round"]: row["value"] for row in rows.load(ROOT / "results/data/rivals.json")
                ["rows"] if row.get("metric") == "round reward" and row["method"] == "latent"
                and row["experiment"] == "constrained"}
    headline, settings = cells(2, "constrained, reward"), cells(4, "latent, typical and cuts")
    means = [x.split(" [")[0] for x in settings]
    beta = {found[1]: [x.split(" ")[0] for x in found[2:]] for line in section(18).splitlines()
            for found in [line.strip("| ").split(" | ")] if found[0] == "beta"}
    latent = sorted(int(found[4]) for found in beta.values())  # constrained
    interval = headline[3].split(" ", 1)
    sheet = re.sub(r"\s+", " ", page("CHEATSHEET.md"))
    for words in (
            "earn {:.3f} in round 1, {:.3f} in 2, {:.3f} in 3 and {:.3f} in 6".format(
                *(by_round[n] for n in (1, 2, 3, 6))),
            f"token level has {interval[0]} with the interval {interval[1]} over 3 base models",
            f"oracle over temperatures has {headline[4].split(' ')[0]} (section 2)",
            f"set of choices: {means[3]} with cuts and typical sampling (section 4)",
            f"`latent` has {latent[0]} to {latent[-1]} % on constrained writing for every beta "
            "from 0.05 to 5",
            f"falls on the vote from {beta['0.1'][3]} % at 0.1 to {beta['2.0'][3]} % at 2"):
        assert words in sheet, words
    assert "116,000 parameters" in sheet and "116,000" in results_page().split("## 1.")[0]
    assert list(beta)[0] == "0.05" and list(beta)[-1] == "5.0"


def test_names_of_the_cheat_sheet_have_their_shapes():
    """Each row's names, at both levels, of a small model and head with sizes that all differ."""
    sizes = dict(B=2, T=5, K=3, V=11, C=8)
    for level in decoder.LEVELS:
        found, of_level = things(level, **sizes), sizes | dict(L=5 if level == "token" else 1)
        named = set()
        for line in page("CHEATSHEET.md").split("## Symbols")[1].split("## ")[0].splitlines():
            cells = re.split(r" (?<!\\)\| ", line.strip("| "))
            if "`" not in line:
                continue
            names, shape = re.findall("`([^`]+)`", cells[1]), cells[2].strip("()").split(",")
            for name in names:
                assert found[name] == tuple(of_level[letter] for letter in shape), name
                named.add(name)
        assert named == found.keys()


def things(level, B, T, K, V, C):
    """{name in the sheet: shape}"""
    torch.manual_seed(0)
    lm = model.GPT(model.GPTConfig(V, 16, 1, 2, C))
    head = decoder.AdaptiveDecoder(C, [0.0, 0.5, 1.0][:K], level)
    prompts = [[1, 2], [3]][:B]
    rollout = decoder.generate(lm, prompts, T, decoder=head)
    r = decoder.response_logps(lm, head, prompts, rollout, ref_decoder=head)
    logits, hidden = decoder.aligned(lm, prompts, rollout.tokens)
    of = {"decoder.aligned(...)[0]": logits, "decoder.aligned(...)[1]": hidden,
          "lpo.temperature_logps(...)": lpo.temperature_logps(logits, rollout.tokens, head.choices),
          "lpo.word_logps(...)": lpo.word_logps(logits, 0.5),
          "lpo.marginal(...)": lpo.marginal(r.text_logps, r.tau_logps),
          "lpo.score(...)": lpo.score(r, "latent"),
          "lpo.lpo_loss(...)": lpo.lpo_loss(r, r, "joint", 0.5)}
    of |= {f"Rollout.{name}": getattr(rollout, name) for name in ("tokens", "mask", "tau_idx")}
    of |= {f"ResponseLogps.{name}": x for name, x in vars(r).items()}
    return {name: tuple(x.shape) for name, x in of.items()} | {
        "AdaptiveDecoder.choices": (len(head.choices),)}
