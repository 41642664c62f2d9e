"""The exercises: solutions agree with independent sources, known mistakes get their hints, stubs
are not yet written, and whatever a student's file does, a sentence comes back.

The pages for teachers and students name what exists.
"""
import ast
import itertools
import json
import math
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import decoder
import lpo
import model
from notebooks.exercises import check, runner
from notebooks.exercises.solutions import make_key
from notebooks.exercises.solutions.bug_hunt import BUGS
from notebooks.exercises.solutions.questions import QUESTIONS
from notebooks.exercises.solutions.wrong import WRONG

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "notebooks" / "exercises"
KEY = check.KEY["exercises"]
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")  # of wrong answers' numpy
every_function = pytest.mark.parametrize("number, name", QUESTIONS, ids=lambda x: str(x))


def verdict(number, name, source, hunt=0):
    """As check.graded, of the text of a file, in this process.  -> status, line, hints"""
    entry = KEY[str(number)]["functions"][name]
    start = check.KEY["hunts"][hunt:hunt + 1] if number == 10 else []
    questions = [[*start, *given] for given in entry["questions"]]
    return check.verdict(make_key.answers(source, name, questions), entry)


def solution(number):
    return (FOLDER / "solutions" / KEY[str(number)]["file"]).read_text(encoding="utf-8")


@every_function
def test_solutions_are_right_and_stubs_are_not_written_yet(number, name):
    stub = (FOLDER / KEY[str(number)]["file"]).read_text(encoding="utf-8")
    assert verdict(number, name, solution(number)) == ("right", "", [])
    assert verdict(number, name, stub) == ("not yet", "", [])


@pytest.mark.parametrize("number, name, right, wrong, hint", [
    (*of, *row) for of, rows in WRONG.items() for row in rows], ids=lambda x: str(x)[:30])
def test_a_known_mistake_is_wrong_and_recognised(number, name, right, wrong, hint):
    status, line, hints = verdict(number, name, make_key.changed(solution(number), right, wrong))
    assert status == "wrong" and len(line) < 1500
    assert hint in line if name == "task" else hints[-1] == hint


def test_the_key_is_that_of_the_solutions():
    """python -m notebooks.exercises.solutions.make_key writes it; last digits may differ."""
    def numbers(x):
        if isinstance(x, dict):
            return [y for name in x for y in [name, *numbers(x[name])]]
        return [y for z in x for y in numbers(z)] if isinstance(x, list) else [x]
    ours, kept = (numbers(json.loads(text)) for text in (
        make_key.text(), (FOLDER / "key.json").read_text(encoding="utf-8")))
    assert len(ours) == len(kept)
    for x, y in zip(ours, kept):
        near = pytest.approx(x, rel=1e-9, abs=1e-12, nan_ok=True) if type(x) is float else x
        assert y == near


# --- independent sources --------------------------------------------------------------------------


def functions(number):
    module = {}
    exec(compile(solution(number), "solution", "exec"), module)
    return module


def softmax(x):
    return np.exp(x) / np.exp(x).sum(-1, keepdims=True)


def differences(f, x):
    """Central differences of a function of a vector."""
    return np.array([(f(x + e) - f(x - e)) / 2e-6 for e in 1e-6 * np.eye(len(x))])


def test_temperature_mixture_and_posterior_agree_with_loops_and_differences():
    rng = np.random.default_rng(0)
    x, z, taus = rng.normal(size=5), rng.normal(size=3), [0.0, 0.7, 1.5]
    at = np.stack([decoder.choice_logps(torch.tensor(x), tau) for tau in taus])
    assert np.allclose([functions(1)["choice_logps"](x, tau) for tau in taus], at)
    wanted = np.log(sum(p * np.exp(row) for p, row in zip(softmax(z), at)))
    assert np.allclose(functions(2)["mixture_logps"](x, np.log(softmax(z)), taus), wanted)
    gradient = functions(3)["latent_gradient"](np.log(softmax(z))[None], at.T[:1])
    assert np.allclose(gradient[0], differences(
        lambda z: np.log(softmax(z) @ np.exp(at.T[0])), z), atol=1e-8)


@pytest.mark.parametrize("seed", range(20))
def test_the_losses_agree_with_those_of_the_project(seed):
    """lpo.py agrees with the answer key. Temperature 0 makes some of these tokens impossible."""
    random = torch.Generator().manual_seed(seed)
    z, ref_z, logits, ref_logits = (torch.randn(1, 4, n, generator=random, dtype=torch.float64)
                                    for n in (3, 3, 2, 2))
    tokens, idx = (torch.randint(n, (1, 4), generator=random) for n in (2, 3))
    r = lpo.ResponseLogps(
        z.log_softmax(-1), idx, torch.ones(1, 4).bool(),
        *(decoder.temperature_logps(x, tokens, [0.0, 0.7, 1.5]) for x in (logits, ref_logits)))
    with_reference = replace(r, ref_tau_logps=ref_z.log_softmax(-1))
    tau, text, ref_text, ref_tau = (x[0].numpy() for x in (
        r.tau_logps, r.text_logps, r.ref_text_logps, with_reference.ref_tau_logps))
    f, k = functions(4), idx[0].numpy()
    assert f["separate_score"](tau, k) == pytest.approx(lpo.separate(r).item())
    assert f["joint_score"](tau, k, text, ref_text) == pytest.approx(lpo.joint(r).item())
    wanted = lpo.latent(with_reference).item()
    assert f["latent_score"](tau, text, ref_tau, ref_text) == pytest.approx(wanted)
    loss, = f["preference_loss"](np.array([wanted]), np.array([0.3]), 0.7)
    assert loss == pytest.approx(math.log1p(math.exp(-0.7 * (wanted - 0.3))))


def test_the_mask_by_hand():
    f = functions(5)
    assert f["response_mask"](np.array([[9, 5, 9], [4, 9, 9]]), 9).tolist() == [
        [True, False, False], [True, True, False]]
    logps = np.log([[[1 / 2, 1 / 2], [1 / 4, 3 / 4]]])
    token = f["masked_score"](logps, np.array([[0, 1]]), np.array([[True, False]]))
    response = f["masked_score"](logps[:, 1:], np.array([[1]]), np.ones((1, 3), dtype=bool))
    assert [*token, *response] == pytest.approx([math.log(1 / 2), math.log(3 / 4)])


def test_rounds_agree_with_autograd():
    pairs, beta = [[(0, 1), (2, 1)], [(0, 2)], [(1, 2), (0, 1)]], 0.5
    for reference in ("none", "initial", "round"):
        z, initial, after = torch.zeros(3, dtype=torch.float64), torch.zeros(3).double(), []
        for of_round in pairs:
            ref = dict(none=None, initial=initial, round=z)[reference]
            side = [torch.tensor(k)[:, None] for k in zip(*of_round)]
            for _ in range(5):
                x = z.clone().requires_grad_()
                both = [lpo.ResponseLogps(
                    x.log_softmax(-1).expand(len(k), 1, 3), k, torch.ones_like(k).bool(),
                    ref_tau_logps=None if ref is None else ref.log_softmax(-1).expand(len(k), 1, 3))
                    for k in side]
                gradient, = torch.autograd.grad(lpo.lpo_loss(*both, "separate", beta).mean(), x)
                z = z - 0.7 * gradient
            after.append(z.softmax(-1).tolist())
        assert np.allclose(functions(6)["rounds"](pairs, 3, beta, 0.7, 5, reference), after)


def test_the_sampler_has_the_frequencies_and_stops():
    f = functions(7)
    logps = np.log([0.2, 1e-300, 0.5, 0.3])
    hits = np.bincount([f["sample"](logps, (i + 0.5) / 1000) for i in range(1000)], minlength=4)
    assert hits.tolist() == [200, 0, 500, 300]
    ids, k = f["respond"](lambda ids: (np.array([1.0, 0.0]), np.log([0.9, 0.1])), [0.0, 1.0],
                          "token", "sample", 1, 9, iter([0.95, 0.5, 0.2, 0.9, 0.95, 0.8]).__next__)
    assert (ids, k) == ([0, 0, 1], [1, 0, 1])  # softmax(1, 0) exceeds 0.5 and not 0.8


def test_pairs_eta_and_gradients_agree_with_enumeration():
    rewards = np.array([[3, 1, 1, 2]], dtype=np.uint8)
    wanted = [(0, i, j) for i in range(4) for j in range(4) if rewards[0, i] > rewards[0, j]]
    assert sorted(functions(8)["pairs"](rewards, "all")) == wanted
    p = np.array([0.5, 0.3, 0.15, 0.05])
    bound = min(0.3, math.sqrt(0.3) * math.exp((p * np.log(p)).sum()))
    left = np.where(p >= bound, p, 0) ** 0.5
    out = functions(11)["eta"](0.3, 2.0)(torch.tensor(p).log())
    assert 0 < (left > 0).sum() < 4 and np.allclose(out.exp(), left / left.sum())

    f, x = functions(12), np.array([0.3, -0.7])
    text, r = np.array([[0.8, 0.2], [0.3, 0.7]]), np.array([0.5, 2.0])
    assert np.allclose(f["log_gradient"](x, 1), differences(lambda x: np.log(softmax(x))[1], x))
    exact = differences(lambda x: softmax(x) @ text @ r, x)
    assert np.allclose(f["exact_gradient"](x, text, r), exact)
    every = [(k, y, softmax(x)[k] * text[k, y]) for k in (0, 1) for y in (0, 1)]
    mean, loss = 0, np.zeros(2)
    for (i, y, a), (j, z, b) in itertools.product(every, every):
        mean = mean + a * b * f["reinforce"](x, np.array([i, j]), r[[y, z]])
        if r[y] > r[z]:
            loss += a * b * differences(lambda x: np.log1p(np.exp(-0.7 * (
                np.log(softmax(x))[i] - np.log(softmax(x))[j]))), np.zeros(2))
    assert np.allclose(mean, exact) and np.allclose(f["lpo_gradient"](x, text, r, 0.7), loss)


@pytest.mark.parametrize("hunt", range(len(BUGS)))
def test_the_right_line_mends_a_bug_and_no_other_line_does(hunt):
    """Returning a line unchanged is the cheapest guess: 40 lines, and none passes."""
    right, wrong = BUGS[hunt]
    lines = check.KEY["hunts"][hunt].splitlines()
    passed = []
    for number, line in enumerate(lines, 1):
        if line.startswith(" ") and '"' not in line[:8]:
            for text in {line, line.replace(wrong, right)}:
                source = f"def fix():\n    return {number}, {text!r}\n"
                passed += [text] * (verdict(10, "fix", source, hunt)[0] == "right")
    assert len(passed) == 1 and right in passed[0]


# --- the command, as a student has it -------------------------------------------------------------


def command(*arguments):
    """-> exit status, what was printed"""
    done = subprocess.run([sys.executable, FOLDER / "check.py", *map(str, arguments)],
                          capture_output=True, text=True, encoding="utf-8", timeout=300)
    assert "Traceback" not in done.stdout + done.stderr
    return done.returncode, done.stdout


def test_the_command_on_stub_solution_and_wrong_answer(tmp_path):
    status, text = command(3)
    assert status == 2 and "    not yet  posterior\n    not yet  latent_gradient\n" in text
    assert command(8, 10, "--solutions")[0] == 0
    wrong = make_key.changed(solution(3), " - np.exp(tau_logps)\n", "\n")
    (tmp_path / "03_posterior.py").write_text("print('right')\n" + wrong, encoding="utf-8")
    status, text = command(3, "--folder", tmp_path)
    assert status == 1 and "-> [[0.5714, 0.4286], [0, 1]]; expected [[0.07143" in text, text
    assert f"```\n{text}```\n" in page("exercises/README.md")
    assert "P(tau_k) is not subtracted" in command(3, "--folder", tmp_path, "--hint", 3)[1]


@pytest.mark.parametrize("text, said", [
    ("def choice_logps(logits, tau)\n    return logits\n", "cannot be read: SyntaxError"),
    ("import sys\nsys.exit(0)\n", "cannot be read: SystemExit"),
    ("import os\ndef choice_logps(logits, tau): os._exit(0)\n", "ended the process"),
    ("def choice_logps(logits, tau): return 1 / 0\n", "raises ZeroDivisionError"),
    ("def choice_logps(logits, tau): return None\n", "is a `return` missing?"),
    ("def choice_logps(logits, tau): return 'hot'\n", "([1.099, 0], 1) -> 'hot'; expected"),
    ("def other(logits, tau): return logits\n", "no attribute 'choice_logps'"),
    ("while True: pass\n", "no answer within 1 s")], ids=lambda text: text[-25:])
def test_whatever_a_file_does_a_sentence_comes_back(text, said, tmp_path):
    path = tmp_path / "01_temperature_zero.py"
    path.write_text(text, encoding="utf-8")
    entry = KEY["1"]["functions"]["choice_logps"]
    came = runner.answers(path, "choice_logps", entry["questions"], 1 if "while" in text else 60)
    status, line, _ = check.verdict(came, entry)
    assert said in line and status == "wrong"


@pytest.mark.skipif(not Path("/proc").exists(), reason="looks into /proc")
def test_nothing_that_a_file_started_runs_on(tmp_path):
    note, path = tmp_path / "pid", tmp_path / "01_temperature_zero.py"
    path.write_text("import subprocess, sys\nchild = subprocess.Popen([sys.executable, '-c', "
                    "'import time; time.sleep(60)'])\n"
                    f"open({str(note)!r}, 'w').write(str(child.pid))\n", encoding="utf-8")
    runner.answers(path, "choice_logps", [], 60)
    time.sleep(0.5)
    pid = note.read_text(encoding="utf-8")
    status = Path(f"/proc/{pid}/stat")  # Z: it only waits to be reaped
    assert not status.exists() or ") Z " in status.read_text(encoding="utf-8")


def test_unwritable_folders_endless_limits_and_interrupts_end_in_sentences(monkeypatch, capsys):
    monkeypatch.setattr(check, "HUNTS", Path(os.devnull) / "bug_hunt")
    assert check.main(["--solutions", "10", "1", "--timeout", "inf"]) == 0
    assert "cannot write" in capsys.readouterr().out
    process = subprocess.Popen([sys.executable, str(FOLDER / "check.py"), "--solutions"],
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    process.stdout.readline()
    process.send_signal(signal.SIGINT)
    assert "Traceback" not in process.communicate(timeout=60)[1]


# --- the pages ------------------------------------------------------------------------------------


def page(name):
    return (ROOT / "notebooks" / name).read_text(encoding="utf-8")


def test_the_pages_agree_with_the_key():
    rows = re.findall(r"^\| (\d+) \| \[(.*)\]\((.*)\) \| (\d+) \| (\w+) \|",
                      page("exercises/README.md"), re.MULTILINE)
    assert [(n, title.replace("\\", ""), file, int(minutes), after)
            for n, title, file, minutes, after in rows] == [
        (n, e["title"], e["file"], e["minutes"], e["after"]) for n, e in KEY.items()]
    assert f"1 to 12, {len(QUESTIONS)} functions" in page("TEACHING.md")
    assert f"take {sum(e['minutes'] for e in KEY.values())} minutes" in page("TEACHING.md")
    for number, exercise in KEY.items():
        tree = ast.parse((FOLDER / exercise["file"]).read_text(encoding="utf-8"))
        assert f"check.py {number}" in ast.get_docstring(tree)
        assert "The question:" in " ".join(solution(number).split())


@pytest.mark.parametrize("name", ["TEACHING.md", "ANSWERS.md", "CHEATSHEET.md", "README.md"])
def test_sections_that_a_page_names_exist(name):
    text = re.sub(r"\s+", " ", page(name))
    for number, titles in re.findall(r'notebook (\d\w?), ((?:"[^"]+"(?:, | to )?)+)', text):
        path, = (ROOT / "notebooks").glob(f"{number}_*.ipynb")
        shown = re.findall(r'"## (.*?)(?:\\n)?"', path.read_text(encoding="utf-8"))
        assert set(re.findall('"([^"]+)"', titles)) <= set(shown)


@pytest.mark.parametrize("level", decoder.LEVELS)
def test_names_of_the_cheat_sheet_have_their_shapes(level):
    """Of a small model and decoder whose sizes all differ."""
    sizes = dict(B=2, T=5, K=3, V=11, C=8, L=5 if level == "token" else 1)
    lm = model.GPT(model.GPTConfig(11, 16, 1, 2, 8))
    policy = decoder.AdaptiveDecoder(8, [0.0, 0.5, 1.0], level)
    prompts = [[1, 2], [3]]
    rollout = decoder.generate(lm, prompts, 5, decoder=policy)
    r = decoder.response_logps(lm, policy, prompts, rollout, ref_decoder=policy)
    logits, hidden = decoder.aligned(lm, prompts, rollout.tokens)
    of = {"aligned(...)[0]": logits, "aligned(...)[1]": hidden,
          "choice_logps(...)": decoder.choice_logps(logits, 0.5),
          "temperature_logps(...)": decoder.temperature_logps(logits, rollout.tokens,
                                                              policy.choices),
          "lpo.marginal(...)": lpo.marginal(r.text_logps, r.tau_logps),
          "lpo.SCORES": lpo.SCORES["latent"](r),
          "lpo.lpo_loss(...)": lpo.lpo_loss(r, r, "joint", 0.5)}
    of |= {f"Rollout.{name}": getattr(rollout, name) for name in ("tokens", "mask", "tau_idx")}
    of |= {f"ResponseLogps.{name}": x for name, x in vars(r).items()}
    named = re.findall(r"`([^`|]+)`(?: of a variant)? \| \(([\w,]+)\) \|", page("CHEATSHEET.md"))
    assert {name for name, _ in named} == of.keys()
    for name, shape in named:
        assert tuple(of[name].shape) == tuple(sizes[letter] for letter in shape.split(",")), name
