"""check.py and the runner that all checkers share: does what is right pass, does whatever a module
may do give a verdict, is each planted mistake missed and named by its name?

Mistakes are planted in two implementations that share no code with the key: lpo.py's adapter and a
trainer's loss in TRL's layout.
    pytest tests/test_check.py
"""
import json
import math
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

FOLDER = Path(__file__).resolve().parents[1] / "conformance"
sys.path.append(str(FOLDER))
import cases  # noqa: E402
import check  # noqa: E402
import oracle  # noqa: E402
import runner  # noqa: E402

GOLDEN = cases.golden()
PROGRAM, ORACLE = FOLDER / "check.py", str(FOLDER / "oracle.py")
IMPORTED = f"""
import importlib.util, sys
spec = importlib.util.spec_from_file_location("an_oracle", {ORACLE!r})
an_oracle = sys.modules["an_oracle"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(an_oracle)
"""


def written(tmp_path, text, name="theirs.py"):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text(text, encoding="utf-8")
    return str(tmp_path / name)


def command(*arguments, **options):
    """-> exit status, lines printed"""
    done = subprocess.run([sys.executable, str(PROGRAM), *map(str, arguments)], text=True,
                          capture_output=True, **options)
    return done.returncode, done.stdout.splitlines(), done.stderr


def run(capsys, *arguments):
    """As command, in this process except for the module."""
    status = check.main([*map(str, arguments)])
    return status, capsys.readouterr().out.splitlines()


def loaded(path, dtype="float64"):
    module = runner.load_module(str(path))
    module.DTYPE = dtype
    return runner.Here(module)


def judged_here(theirs, some, dtype="float64"):
    """-> misses, causes: every function on some cases, in this process."""
    misses, evidence = [], []
    for case in some:
        before = {}
        for function in check.LOOK_AT:
            if function in theirs.functions and cases.wanted(case, function):
                status, line, more = runner.verdict(lambda theirs: check.judge(
                    theirs, function, case, dtype, before), theirs)
                misses += [(case["name"], line)] * (status == "MISS")
                evidence += [more] * (status == "MISS" and more is not None)
    return misses, check.explain(evidence, dtype) if evidence else []


# ---- what is right -----------------------------------------------------------------------------

@pytest.mark.parametrize("dtype", check.TOLERANCES)
@pytest.mark.parametrize("adapter, padding", [("ours", "right"), ("trl_style", "right"),
                                              ("trl_style", "left")])
def test_adapters_pass(adapter, padding, dtype, monkeypatch):
    monkeypatch.setenv("PADDING_SIDE", padding)
    theirs = loaded(FOLDER / "adapters" / f"{adapter}.py", dtype)
    assert judged_here(theirs, GOLDEN + list(cases.fuzz(0, 40)), dtype)[0] == []


def test_large_cases_pass(capsys):
    status, lines = run(capsys, ORACLE, "--large", "--only", "large-tokens-sep*", "large-words-j*")
    assert status == 0 and len([line for line in lines if line.startswith("pass")]) == 3


# ---- what is no answer, or not all of it -------------------------------------------------------

@pytest.mark.parametrize("text, words", [
    ("", "nothing ran"), ("loss = 3", "nothing ran"),
    ("def loss(case): raise NotImplementedError", "nothing ran"),
    ("import no_such_package", "cannot import"), ("raise SystemExit(0)", "SystemExit: 0"),
    ("import os; os._exit(0)", "the import ended the process"),
    ("import time; time.sleep(60)", "the import gave no answer within 2 s"),
    ("def loss(case) return 1", "cannot import")])
def test_nothing_ran_is_2(text, words, tmp_path, capsys):
    status, lines = run(capsys, written(tmp_path, text), "--timeout", "2")
    assert status == 2 and words in "\n".join(lines)
    assert not any(line.startswith("pass") for line in lines)


@pytest.mark.parametrize("text, words", [
    ("loss = lambda case: 1.0", "loss  has shape (), expected (2,)"),
    ("loss = lambda case: [[0.5, 0.5]]", "has shape (1, 2), expected (2,)"),
    ("loss = lambda case: case['rewards']", "loss raised KeyError: 'rewards'"),
    ("loss = lambda case: {'loss': [1.0, 2.0]}", "real numbers expected, not object"),
    ("loss = lambda case: {1, 2}", "the answer holds set"),
    ("loss = lambda case: [0.7 + 0j, 0.7 + 0j]", "the answer holds complex"),
    ("loss = lambda case: ['0.7', '0.7']", "real numbers expected, not <U3"),
    ("loss = lambda case: [True, False]", "real numbers expected, not bool"),
    ("def loss(case): import sys; sys.exit(0)", "raised SystemExit: 0"),
    ("def loss(case): raise KeyboardInterrupt", "raised KeyboardInterrupt"),
    ("gradients = lambda case: [1]", "the answer does not fit: AttributeError"),
    ("gradients = lambda case: {'chosen': {'lm': [1]}}", "gradients has ['chosen.lm'], expected"),
    (IMPORTED + "def gradients(case):\n    return {'chosen': an_oracle.gradients(case)['chosen']}",
     "gradients has ['chosen.decoder_logits', 'chosen.lm_logits'], expected"),
    (IMPORTED + "def gradients(case):\n    d = an_oracle.gradients(case)\n"
     "    d['chosen']['lm_logits'] = None\n    return d", "is None for one side only")])
def test_wrong_forms_and_partial_answers_are_misses(text, words):
    """Bugs: a wrong shape that broadcasts, an error taken for a skip, half an answer that passes,
    text, true/false and complex numbers read as numbers."""
    module = SimpleNamespace()
    exec(text, module.__dict__)
    misses, _ = judged_here(runner.Here(module), GOLDEN[:2])
    assert len(misses) == 2 and all(words in line for _, line in misses), misses


def test_what_is_missing_is_skipped_and_said_so(tmp_path, capsys):
    path = written(tmp_path, IMPORTED + """
def score(case, side):
    if case["variant"] == "latent":
        raise NotImplementedError
    return an_oracle.score(case, side)
def gradients(case):
    return {side: {**d, "lm_logits": None} for side, d in an_oracle.gradients(case).items()}
""")
    status, lines = run(capsys, path)
    assert status == 0 and "score: 44 right, 0 wrong, 35 skipped" in "\n".join(lines)
    assert "loss: skipped, not supplied" in lines
    assert all("gradients (skipped: lm_logits)" in line for line in lines[:82])


@pytest.mark.parametrize("function", check.LOOK_AT)
@pytest.mark.parametrize("beta, dtype", [(0.25, "float64"), (4.0, "float32"), (4.0, "bfloat16")])
def test_tolerances_are_those_of_the_page(function, beta, dtype):
    """tolerance * scale, times max(1, beta) for losses and gradients; one number is off."""
    case = next(case for case in GOLDEN if case["name"] == "joint-token-ref-warm-moved")
    case = {**case, "beta": beta, "expected": {**case["expected"], "scale": 3}}
    allowed = check.TOLERANCES[dtype] * 3 * (beta if beta > 1 and function in ("loss", "gradients")
                                             else 1)
    for part, passes in ((0.9, True), (-0.9, True), (1.1, False), (-1.1, False)):
        got = {label: x.copy() for label, x in cases.wanted(case, function).items()}
        last = got[list(got)[-1]]
        last[tuple(np.argwhere(~np.isnan(last))[-1])] += part * allowed
        if passes:
            words, error = check.compare(function, case, got, dtype, {})
            assert words == function and error == pytest.approx(0.9 * check.TOLERANCES[dtype])
        else:
            with pytest.raises(runner.Miss, match=f"{function} .* is .*, expected "):
                check.compare(function, case, got, dtype, {})


def test_errors_by_hand():
    """|got - want|, -inf matched by -inf only, NaN never right except where nothing is compared."""
    inf, nan = math.inf, math.nan
    got = np.array([1.0, -3.0, -inf, nan, nan, inf, 0.0, -inf, 1.7e308])
    want = np.array([1.5, -1.0, -inf, nan, 1.0, -inf, -inf, 2.0, -1.7e308])
    with np.errstate(all="raise"):
        assert check.errors(got, want).tolist() == [0.5, 2, 0, 0, inf, inf, inf, inf, inf]


# ---- code that would rather not be checked -----------------------------------------------------

def test_the_end_of_the_process_stops_the_run(tmp_path, capsys):
    path = written(tmp_path, IMPORTED + """
import os
calls = []
def loss(case):
    calls.append(1)
    return os._exit(0) if len(calls) == 3 else an_oracle.loss(case)
""")
    status, lines = run(capsys, path)
    assert status == 1 and [line[:4] for line in lines[:3]] == ["pass", "pass", "MISS"]
    assert lines[3] == "stopped here: loss ended the process"


def alive(pid):
    stat = Path(f"/proc/{pid}/stat")
    return stat.exists() and stat.read_text().rpartition(")")[2].split()[0] != "Z"


@pytest.mark.parametrize("end", ["hangs", "answers", "checker is killed"])
def test_nothing_of_theirs_outlives_the_run(end, tmp_path):
    """Bugs: their child processes go on after a verdict; so does theirs when ours is killed."""
    note = tmp_path / "pid"
    path = written(tmp_path, f"""
import os, subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(99)"])
open({str(note)!r}, "w").write(f"{{os.getpid()}} {{child.pid}}")
def loss(case):
    time.sleep({0 if end == "answers" else 99})
    return [0.0, 0.0]
""")
    timeout = "99" if end == "checker is killed" else "1"
    ours = subprocess.Popen([sys.executable, str(PROGRAM), path, "--timeout", timeout],
                            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    if end == "checker is killed":
        while not note.exists() or len(note.read_text().split()) < 2:
            time.sleep(0.1)
        ours.kill()
    ours.wait(60)
    deadline = time.monotonic() + 20
    pids = note.read_text().split()
    while any(map(alive, pids)) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not any(map(alive, pids))


def test_prints_and_names_and_numpy_of_theirs_change_no_verdict(tmp_path):
    """They print our lines, spoil numpy, write into what they get and have modules of our names."""
    forged = "82 passed, 0 missed, 0 skipped, in float64"
    for name in ("oracle", "cases", "check", "runner", "mistakes"):
        written(tmp_path, "THEIRS = True", f"{name}.py")
    path = written(tmp_path, IMPORTED + f"""
import os
import numpy as np
import oracle, cases, check, runner, mistakes
assert all(x.THEIRS for x in (oracle, cases, check, runner, mistakes))
assert sys.argv == [__file__]
print({forged!r})
def score(case, side):
    os.write(1, b"{forged}")
    answer = an_oracle.score(case, side)
    case[side]["lm_logits"][:] = 0
    return answer
def loss(case):
    np.abs = np.isnan = np.where = lambda *x: np.zeros(2)
    raise ValueError("a\\n{forged}\\n\\x1b[2K\\u00e9")
""")
    status, lines, errors = command(path, env={**os.environ, "PYTHONIOENCODING": "ascii"})
    assert status == 1 and errors.count(forged) > 82
    words = rf"loss raised ValueError: a\n{forged}\n\x1b[2K\xe9"
    assert lines[:82] == [f"MISS  {case['name']}  {words}" for case in GOLDEN]
    assert lines[83] == "0 passed, 82 missed, 0 skipped, in float64"
    assert lines[85].startswith("score: 79 right, 0 wrong")


@pytest.mark.parametrize("name", ["theirs", "package.adapter"])
def test_modules_by_name_from_the_working_directory(name, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    written(tmp_path, IMPORTED + "loss = an_oracle.loss", name.replace(".", "/") + ".py")
    assert run(capsys, name, "--only", "nll")[0] == 0


@pytest.mark.parametrize("program", ["conformance/check.py", "conformance/check_model.py",
                                     "notebooks/exercises/check.py"])
@pytest.mark.parametrize("end", ["interrupted", "unread", "forever"])
def test_every_checker_ends_without_a_traceback(program, end, tmp_path):
    """Ctrl-C, `| head -1`, --timeout inf: bugs of each of the three, now of one runner."""
    slow = "import time\ndef score(*_): time.sleep(60)\ntemperature_logps = word_logps = score\n"
    given = [written(tmp_path, slow)]
    if "exercises" in program:
        given = ["1", "--folder", str(tmp_path)]
        written(tmp_path, slow, "01_temperature_zero.py")
    if end != "interrupted":
        given = {"check.py": [ORACLE, "--only", "nll"], "check_model.py": [
            str(FOLDER / "adapters/model_ours.py"), "--only", "pairs"]}[Path(program).name]
        given = ["1", "--solutions"] if "exercises" in program else given
    given += ["--timeout", "inf"]
    start = subprocess.Popen([sys.executable, str(FOLDER.parent / program), *given], text=True,
                             stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True)
    if end == "interrupted":
        time.sleep(6)
        start.send_signal(signal.SIGINT)
    elif end == "unread":
        start.stdout.readline()
        start.stdout.close()
        start.stdout = None
    errors = start.communicate(timeout=90)[1]
    assert "Traceback" not in errors
    assert start.returncode == {"interrupted": 130, "unread": start.returncode, "forever": 0}[end]


# ---- options -----------------------------------------------------------------------------------

def names(lines):
    return [line.split()[1] for line in lines if line[:4] in ("pass", "MISS", "skip")]


def test_options_choose_the_cases(capsys, tmp_path):
    every = [case["name"] for case in GOLDEN]
    assert names(run(capsys, ORACLE)[1]) == every
    assert len(names(run(capsys, ORACLE, "--no-gaps")[1])) == 17
    lines = run(capsys, ORACLE, "--only", "nll-token", "joint*zero")[1]
    assert names(lines) == [n for n in every if "joint" in n and "zero" in n or
                            n.startswith("nll-token")]
    assert run(capsys, ORACLE, "--only", "no-such-case")[0] == 2
    listed = run(capsys, "--list")[1]
    assert [line.split("  ")[0] for line in listed] == every
    assert listed[0].startswith(f"{every[0]}  [1 2 4 5 6 9] no reference")
    for wrong in (["m", "--timeout", "0"], ["m", "--timeout", "nan"], ["m", "--dtype", "half"], [],
                  ["m", "--skip", "no_such_file"]):
        with pytest.raises(SystemExit) as end:
            check.main(wrong)
        assert end.value.code == 2


def test_a_skip_file_stays_green_with_random_cases(capsys, tmp_path):
    """Bug: known.txt made without --fuzz was red with it. A name that does not exist is refused."""
    path = written(tmp_path, IMPORTED + "def loss(case):\n    return an_oracle.loss(case) + "
                                        "(case['level'] == 'token')\n")
    status, lines = run(capsys, path)
    known = tmp_path / "known.txt"
    known.write_text("\n".join(["# today", *(x for x in lines if x.startswith("MISS"))]) + "\n",
                     encoding="utf-8")
    assert status == 1 and run(capsys, path, "--skip", known, "--fuzz", "60")[0] == 0
    known.write_text("joint-token-nosuch\n", encoding="utf-8")
    with pytest.raises(SystemExit):
        check.main([path, "--skip", str(known)])


def test_json_has_status_marks_causes_and_commit(capsys, tmp_path):
    path = written(tmp_path, IMPORTED + "def loss(case):\n    return 2 * an_oracle.loss(case)\n")
    assert run(capsys, path, "--json", tmp_path / "x.json", "--fuzz", "3")[0] == 1
    report = json.loads((tmp_path / "x.json").read_text(encoding="utf-8"))
    assert (report["status"], report["schema"], report["commit"]) == (1, 1, None)
    assert report["marks"]["loss"]["MISS"] >= 80 and len(report["cases"]) == 85
    assert report["causes"][0]["cause"].startswith("2 times what it should be")
    assert report["kit"] == runner.kit() and runner.VERSION in report["kit"]
    for words in (["init", "-q"], ["add", "."], ["-c", "user.name=x", "-c", "user.email=x@x",
                                                 "commit", "-qm", "x"]):
        subprocess.run(["git", "-C", str(tmp_path), *words], check=True)
    assert re.fullmatch("[0-9a-f]{40}", runner.commit(path))
    Path(path).write_text("changed", encoding="utf-8")
    assert runner.commit(path).endswith("+")


# ---- planted mistakes --------------------------------------------------------------------------

TRL, OURS = "adapters/trl_style.py", "adapters/ours.py"
MASK = 'mask=torch.tensor(x["mask"])'
TAUS = "taus = logits.new_tensor(temperatures)[:, None]"
RESPONSE = 'response = batch["completion_mask"][:, 1:] == 1'
MARGIN = "return -F.logsigmoid(self.beta * (chosen - rejected))"
WARM = "warm = (logits[..., None, :] / torch.where(taus > 0, taus, 1)).log_softmax(-1)"
LATENT = "ratios = log_ratio(safe_logsumexp(text + tau), safe_logsumexp(ref_text + ref_tau))"
PLANTED = {  # name: (implementation, its text, what is planted, words of the cause, or None)
    "padding counted": (OURS, MASK, 'mask=torch.ones(x["mask"].shape, dtype=torch.bool)',
                        "mask ignored"),
    "end of text dropped": (
        OURS, MASK, 'mask=torch.tensor(x["mask"]) & (torch.tensor(x["mask"]).flip(1).cumsum(1)'
        '.flip(1) > 1)', "last response token"),
    "columns from 0 on counted": (
        OURS, MASK, 'mask=torch.tensor(x["mask"]).flip(1).cumsum(1).flip(1) > 0',
        "of the prompt, and the mask's holes"),
    "prompt counted": (TRL, RESPONSE, RESPONSE + '\n        response = response | (torch.arange('
                       'response.shape[1]) < batch["prompt_ends"][:, None])', None),
    "mean over tokens": (TRL, "return total\n", "return total / response.sum(1)\n",
                         "mean over response"),
    "mean over columns": (TRL, "return total\n", "return total / (response.shape[1] - 3)\n",
                          "mean over all columns"),
    "logits one late": (TRL, "outputs.logits[:, :-1]", "outputs.logits.roll(1, 1)[:, :-1]",
                        "logits one position late"),
    "tau labels one late": (
        OURS, 'tau_idx=torch.tensor(x["tau_idx"])', 'tau_idx=torch.tensor(x["tau_idx"]).roll(1, 1)',
        "tau_idx one position late"),
    "temperatures sorted": (TRL, TAUS, TAUS.replace("temperatures)", "sorted(temperatures))"),
                            "temperatures sorted"),
    "vocabulary padded": (
        TRL, "    " + TAUS, "    logits = F.pad(logits, (0, 60))\n    " + TAUS,
        "60 tokens more than the vocabulary has"),
    "label smoothing": (TRL, MARGIN, "x = self.beta * (chosen - rejected)\n        "
                        "return -0.9 * F.logsigmoid(x) - 0.1 * F.logsigmoid(-x)",
                        "label smoothing of 0.1"),
    "pairs shuffled": (TRL, MARGIN, MARGIN.replace("rejected)", "rejected.roll(1))"),
                       "different pairs"),
    "tau in float16": (TRL, TAUS, TAUS.replace("logits.new_tensor(temperatures)", "torch.tensor("
                       "temperatures, dtype=torch.float16).to(logits)"), "in float16"),
    "tau in bfloat16": (TRL, TAUS, TAUS.replace("logits.new_tensor(temperatures)", "torch.tensor("
                        "temperatures, dtype=torch.bfloat16).to(logits)"), "in bfloat16"),
    "softmax + epsilon": (TRL, WARM, WARM.replace("log_softmax(-1)", "softmax(-1).add(1e-8).log()"),
                          "log(softmax + 1e-08) of the tokens"),
    "temperature twice": (TRL, WARM, WARM.replace("taus, 1)", "taus ** 2, 1)"), "applied twice"),
    "temperature forgotten": (TRL, WARM, WARM.replace("taus, 1)", "1., 1)"), "not applied"),
    "temperature multiplied": (TRL, WARM, WARM.replace("/ torch", "* torch"), "multiplied by the"),
    "0 as 1e-5": (TRL, TAUS, TAUS + ".clamp(min=1e-5)", "division by 1e-05"),
    "0 as 3e-7": (TRL, TAUS, TAUS + ".clamp(min=3e-7)", "division by 3e-07"),
    "0 taken as 1": (TRL, TAUS, TAUS + "\n    taus = taus + (taus == 0)", "taken as 1"),
    "-inf as -1e9": (TRL, "torch.where(top, 0.0, -torch.inf)", "torch.where(top, 0.0, -1e9)",
                     "-1e+09 in place of minus infinity"),
    "sides swapped": (TRL, "chosen, rejected = self.scores", "rejected, chosen = self.scores",
                      "swapped"),
    "beta missing": (TRL, "self.beta * (chosen", "(chosen", "beta missing"),
    "beta halved": (TRL, "self.beta * (chosen", "self.beta / 2 * (chosen", "beta 0.5 times"),
    "reference model missing": (
        TRL, "return torch.where(usable, policy, 0) - torch.where(usable, reference, 0)",
        "return torch.where(usable, policy, 0)", "reference language model missing"),
    "decoder reference missing": (TRL, "if ref_model.has_head and", "if False and",
                                  "decoder reference missing"),
    "sequence temperature per token": (
        TRL, "total = tau[:, 0].gather(-1, sampled.max(1).values)[:, 0]",
        "total = response.sum(1) * tau[:, 0].gather(-1, sampled.max(1).values)[:, 0]",
        "once per token"),
    "log K missing": (TRL, "(torch.ones_like(tau) / tau.shape[-1]).log()", "torch.zeros_like(tau)",
                      "log K missing"),
    "exact marginal forgotten": (TRL, 'if self.loss_type == "latent_exact":', "if False:",
                                 "exact marginal confused"),
    "joint without its text": (TRL, 'if self.loss_type == "joint":', "if False:",
                               "computes `separate`"),
    "mean of logs": (TRL, LATENT, "ratios = log_ratio((text * tau.exp()).sum(-1), "
                     "(ref_text * ref_tau.exp()).sum(-1))", "log of the mean"),
    "no gradient of the text": (TRL, "return text, head", "return text.detach(), head",
                                "no gradient reaches lm_logits"),
    "mean of the batch": (TRL, MARGIN, MARGIN + ".mean().expand(len(chosen))", "over the batch"),
    "gradient of the mean": (TRL, "trainer.compute(*inputs).sum()",
                             "trainer.compute(*inputs).mean()", "0.5 times"),
    "IPO": (TRL, MARGIN, "return (chosen - rejected - 0.5 / self.beta) ** 2", "the loss of IPO"),
    "decoder without log-softmax": (TRL, "head.to(text.dtype).log_softmax(-1)",
                                    "head.to(text.dtype)", "without log-softmax"),
    "last of a tie": (TRL, "F.one_hot(logits.argmax(-1),", "F.one_hot(logits.shape[-1] - 1 - "
                      "logits.flip(-1).argmax(-1),", "lowest index"),
    "NaN": (TRL, "usable = policy.isfinite() & reference.isfinite()",
            "usable = torch.ones_like(policy, dtype=torch.bool)", "NaN"),
    "log of a sigmoid": (TRL, MARGIN, "return -torch.sigmoid(self.beta * (chosen - rejected)).log()",
                         "log(sigmoid(x)) overflows"),
    "text counted twice": (TRL, "total + torch.where(response", "total + 2 * torch.where(response",
                           "the text term 2 times"),
    "a target margin": (TRL, MARGIN, MARGIN.replace("rejected)", "rejected) - 0.3"),
                        "a target margin of 0.3"),
    "everything in float32": (TRL, "return -chosen", "return -chosen.float()", None),
    "losses in float32": (TRL, MARGIN, MARGIN.replace("(chosen - rejected)",
                          "(chosen - rejected).float()"), "something computes in float32"),
    "log-softmax in bfloat16": (TRL, WARM, WARM.replace(".log_softmax", ".bfloat16().log_softmax"),
                                "something computes in bfloat16"),
    # not in the list: no cause may be named
    "a KL penalty": (TRL, MARGIN, MARGIN + " + 0.01 * chosen ** 2", None),
    "a cut of the logits": (TRL, WARM, WARM.replace(" / torch.", ".clamp(min=-1) / torch."), None),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", PLANTED)
def test_a_planted_mistake_is_missed_and_named(name, tmp_path):
    implementation, right, wrong, words = PLANTED[name]
    source = (FOLDER / implementation).read_text(encoding="utf-8")
    assert right in source, name
    source = source.replace("Path(__file__).resolve().parents[2]", repr(str(FOLDER.parent)))
    path = written(tmp_path, source.replace(right, wrong), re.sub(r"\W", "_", name) + ".py")
    misses, causes = judged_here(loaded(path), GOLDEN[::3])
    assert misses and not any("raised" in line for _, line in misses[:1]), misses
    assert words in causes[0][0] if words else not causes, causes


def test_a_cause_of_gradients_needs_right_values():
    """Bug: "detached" was said of gradients that are zero because the scores are wrong."""
    theirs = runner.Here(SimpleNamespace(
        loss=lambda case: 0 * oracle.loss(case),
        gradients=lambda case: {side: {name: 0 * x for name, x in d.items()}
                                for side, d in oracle.gradients(case).items()}))
    _, causes = judged_here(theirs, GOLDEN[:12])
    assert not any("gradient" in cause for cause, _ in causes)


@pytest.mark.filterwarnings("ignore")
def test_whatever_is_wrong_is_explained_or_not_but_never_a_crash():
    def loss(case):
        loss.calls += 1
        return np.full(len(case["chosen"]["mask"]), [np.inf, -np.inf, np.nan, 1e300, 0.0, 7.0][
            loss.calls % 6])
    loss.calls = 0
    misses, _ = judged_here(runner.Here(SimpleNamespace(loss=loss)),
                            GOLDEN[::9] + list(cases.fuzz(11, 8)))
    assert len(misses) == 18
