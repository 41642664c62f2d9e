"""The correctness baseline itself: is the oracle right, is golden.json the oracle's, does check.py
pass what is right and explain what is wrong?

The oracle's gradients stand against central differences, its values against our lpo.py and an
independent implementation; the mistakes are planted in the oracle's own source text.
    pytest tests/test_conformance.py
"""
import json
import math
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

FOLDER = Path(__file__).resolve().parents[1] / "conformance"
sys.path.append(str(FOLDER))
import check  # noqa: E402
import check_model  # noqa: E402
import make_golden  # noqa: E402
import oracle  # noqa: E402

CASES = make_golden.load()
SIDES = ("chosen", "rejected")


def close(a, b):
    """Equal but for the last digits of exp and log, which differ between machines."""
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(close(a[key], b[key]) for key in a)
    if isinstance(a, list):
        return len(a) == len(b) and all(map(close, a, b))
    if isinstance(a, float) and isinstance(b, (int, float)):
        return math.isclose(a, b, rel_tol=1e-11, abs_tol=1e-13)
    return a == b or isinstance(b, float) and close(b, a)


class Answers:
    """What check.run takes, without a module. Its answer is (kind, what), or a function
    (function, case) -> (kind, what); asked: the questions it got."""

    def __init__(self, answer, functions=check.FUNCTIONS):
        self.answer, self.functions, self.ended, self.asked = answer, functions, None, []

    def ask(self, function, case):
        self.asked.append((function, case))
        return self.answer(function, case) if callable(self.answer) else self.answer


def loaded(path, dtype, monkeypatch):
    """A module of functions, in this process."""
    monkeypatch.setattr(sys, "path", sys.path[:])
    module = check.load_module(str(path))
    module.DTYPE = dtype
    return check.Here(module)


def script(*arguments, **options):
    """check.py from the command line."""
    return subprocess.run([sys.executable, str(FOLDER / "check.py"), *map(str, arguments)],
                          capture_output=True, text=True, **options)


def right(case, function):
    return {label: np.array(x, dtype=float) for label, x in check.wanted(case, function).items()}


# ---- golden.json -------------------------------------------------------------------------------

def test_golden_is_what_the_oracle_gives():
    committed = json.loads(make_golden.GOLDEN.read_text(encoding="utf-8"))
    made = json.loads(make_golden.text())
    assert committed["schema"] == made["schema"] == make_golden.SCHEMA
    assert [c["name"] for c in committed["cases"]] == [c["name"] for c in made["cases"]]
    for ours, theirs in zip(committed["cases"], made["cases"]):
        inputs = [{key: x for key, x in c.items() if key != "expected"} for c in (ours, theirs)]
        assert inputs[0] == inputs[1], ours["name"]
        assert close(ours["expected"], theirs["expected"]), ours["name"]


def test_golden_is_small_plain_json_with_distinct_names():
    text = make_golden.GOLDEN.read_text(encoding="utf-8")
    assert len(text.encode()) <= 300_000
    for word in ("NaN", "Infinity"):  # Python's own, which other languages do not read
        assert word not in text
    assert '"-inf"' in text
    assert len({case["name"] for case in CASES}) == len(CASES)


def test_golden_covers_every_axis():
    def axes(case):
        lm_moved = any((case[s]["lm_logits"] != case[s]["ref_lm_logits"]).any() for s in SIDES)
        return (case["variant"], case["level"], case["exact_sequence"],
                case["chosen"]["ref_decoder_logits"] is not None, 0 in case["temperatures"],
                lm_moved)
    seen = {axes(case) for case in CASES}
    for form in make_golden.FORMS:
        for bits in range(8):
            assert (*form, bool(bits & 4), bool(bits & 2), bool(bits & 1)) in seen
    lengths = [case[s]["mask"].sum(-1) for case in CASES for s in SIDES]
    assert {1, 2, 3} == set(np.concatenate(lengths))
    assert any((np.diff(case[s]["mask"].astype(int)) > 0).any() for case in CASES for s in SIDES)
    losses = np.concatenate([case["expected"]["losses"] for case in CASES])
    assert losses.min() < 1e-60 and losses.max() > 1000  # both ends of the sigmoid


def test_inputs_are_exact_in_bfloat16():
    """A bfloat16 is the upper half of a float32."""
    for case in CASES:
        for side in SIDES:
            for name, x in case[side].items():
                if name.endswith("logits") and x is not None:
                    bits = x.astype(np.float32)
                    assert (bits == x).all() and not (bits.view(np.uint32) & 0xFFFF).any()


def test_golden_holds_what_makes_it_hard():
    """Tokens of probability 0, possible ones at temperature 0, and ties, under the mask's true."""
    impossible = possible = ties = 0
    for case in CASES:
        for x in (case[s] for s in SIDES):
            for r_b, l_b, mask, tokens in zip(x["tau_idx"], x["lm_logits"], x["mask"], x["tokens"]):
                for t in np.flatnonzero(mask):
                    if case["temperatures"][r_b[t % len(r_b)]] == 0:
                        impossible += l_b[t].argmax() != tokens[t]
                        possible += l_b[t].argmax() == tokens[t]
                        ties += (l_b[t] == l_b[t].max()).sum() > 1
    assert min(impossible, possible, ties) >= 3


# ---- the oracle --------------------------------------------------------------------------------

def differences(case, side, name, step):
    """d (sum of the losses) / d x by central differences."""
    x, result = case[side][name], np.zeros_like(case[side][name])
    for index in np.ndindex(x.shape):
        ends = []
        for sign in (1, -1):
            moved = x.copy()
            moved[index] += sign * step
            # the row's loss alone: a huge neighbour would drown the difference
            ends.append(oracle.loss({**case, side: {**case[side], name: moved}})[index[0]])
        result[index] = (ends[0] - ends[1]) / (2 * step)
    return result


@pytest.mark.parametrize("case", [case for case in CASES if "ties" not in case["name"]],
                         ids=lambda case: case["name"])
def test_gradients_against_finite_differences(case):
    """Everywhere but at ties, where a step of the arg-max's logit moves all the mass."""
    step = 1e-5 * min(1, *(tau for tau in [1, *case["temperatures"]] if tau)) / max(1, case["beta"])
    bound = 1e-6 * case["expected"]["scale"] * max(1, case["beta"])
    if case["expected"]["scale"] < 100 and case["beta"] < 100:
        bound = 1e-7
    for side in SIDES:
        for name, x in oracle.gradients(case)[side].items():
            assert np.abs(x - differences(case, side, name, step)).max() < bound, (side, name)


def test_gradients_against_finite_differences_at_random():
    for case in make_golden.fuzz_cases(seed=1, count=25):
        for side in SIDES:
            for name, x in oracle.gradients(case)[side].items():
                assert np.abs(x - differences(case, side, name, 1e-5)).max() < 1e-6, case["name"]


def test_padding_changes_nothing():
    for case in CASES[::3]:
        other = {**case, **{side: dict(case[side]) for side in SIDES}}
        for x in (other[side] for side in SIDES):
            for name in ("lm_logits", "ref_lm_logits"):
                x[name] = np.where(x["mask"][..., None], x[name], 5.0)
            x["tokens"] = np.where(x["mask"], x["tokens"], 0)
        assert np.array_equal(oracle.loss(case), oracle.loss(other)), case["name"]
        for side in SIDES:
            for d in oracle.gradients(other)[side].values():
                if d.shape[1] == case[side]["mask"].shape[1]:
                    assert not d[~case[side]["mask"]].any(), case["name"]


def test_joint_is_separate_while_the_language_model_is_its_reference():
    for case in (c for c in CASES if c["variant"] == "joint" and "frozen" in c["name"]):
        assert np.array_equal(oracle.loss(case), oracle.loss({**case, "variant": "separate"}))


# ---- check.py on what is right -----------------------------------------------------------------

@pytest.mark.parametrize("dtype", check.TOLERANCES)
@pytest.mark.parametrize("adapter, padding", [("ours", None), ("trl_style", "right"),
                                              ("trl_style", "left")])
def test_adapters_pass(adapter, padding, dtype, capsys, monkeypatch):
    pytest.importorskip("torch").set_num_threads(1)
    if adapter == "trl_style":
        pytest.importorskip("transformers")
        monkeypatch.setenv("PADDING_SIDE", padding)
    theirs = loaded(FOLDER / "adapters" / f"{adapter}.py", dtype, monkeypatch)
    assert check.run(theirs, CASES + list(make_golden.fuzz_cases(0, 60)), dtype) == 0
    lines = capsys.readouterr().out.splitlines()
    assert sum(line.startswith("pass  ") for line in lines) == len(CASES) + 60
    assert not any("skipped:" in line or "not supplied" in line for line in lines)


def test_trl_style_is_independent():
    text = (FOLDER / "adapters" / "trl_style.py").read_text(encoding="utf-8")
    assert "import lpo" not in text and "from lpo" not in text


def test_command_line_from_another_folder(tmp_path):
    run = script(FOLDER / "adapters" / "ours.py", cwd=tmp_path,
                 env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert run.returncode == 0 and f"{len(CASES)} passed, 0 missed" in run.stdout, run.stderr


def test_the_kit_runs_with_numpy_alone(tmp_path):
    """Where torch, transformers and lpo cannot be imported: neither process may need them."""
    (tmp_path / "sitecustomize.py").write_text("""
import sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "transformers", "trl", "lpo", "scipy"):
            raise ImportError(name + " is blocked")
sys.meta_path.insert(0, Blocked())
""", encoding="utf-8")
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    run = script(FOLDER / "oracle.py", "--fuzz", 20, cwd=tmp_path, env=environment)
    assert run.returncode == 0, run.stdout[-500:] + run.stderr
    assert f"{len(CASES) + 20} passed, 0 missed, 0 skipped, in float64" in run.stdout
    blocked = script(FOLDER / "adapters" / "ours.py", env=environment)
    assert blocked.returncode == 2 and "torch is blocked" in blocked.stdout
    make = "import sys, make_golden; sys.exit(not make_golden.text())"
    environment["PYTHONPATH"] += os.pathsep + str(FOLDER)
    assert subprocess.run([sys.executable, "-c", make], env=environment).returncode == 0


def test_readme_states_the_tolerances_in_use():
    page = (FOLDER / "README.md").read_text(encoding="utf-8")
    of_losses, of_models = page.split("## Model kit")

    def stated(page, column):
        rows = [line.split("|") for line in page.splitlines()]
        return {row[1].strip(): float(row[column]) for row in rows if row[1:2] and
                row[1].strip() in check.TOLERANCES}
    assert stated(of_losses, -2) == check.TOLERANCES
    assert stated(of_models, 2) == check_model.TOLERANCES


def test_list_names_every_case(capsys):
    assert check.main(["--list"]) == 0
    lines = [line.split("  ") for line in capsys.readouterr().out.splitlines()]
    assert [name for name, _ in lines] == [case["name"] for case in CASES]


# ---- check.py on what is missing ---------------------------------------------------------------

@pytest.mark.parametrize("text, words", [
    ("", "nothing ran"), ("loss = 3", "nothing ran"),
    ("def loss(case): raise NotImplementedError", "nothing ran"),
    ("def gradients(case): return {}", "nothing ran"),
    ("import no_such_package", "cannot import"), ("raise SystemExit(0)", "SystemExit: 0"),
    ("import os; os._exit(0)", "the import ended the process"),
    ("raise NotImplementedError", "cannot import"),
    ("def loss(case) return 1", "cannot import")])
def test_nothing_ran_is_2(text, words, tmp_path, capsys):
    (tmp_path / "theirs.py").write_text(text, encoding="utf-8")
    assert check.main([str(tmp_path / "theirs.py")]) == 2
    out = capsys.readouterr().out
    assert words in out and "pass  " not in out


def test_a_module_that_is_not_there_is_2(capsys):
    assert check.main(["no_such_module"]) == 2
    assert capsys.readouterr().out.splitlines() == [
        "cannot import no_such_module: ModuleNotFoundError: No module named 'no_such_module'"]


def test_what_is_missing_is_skipped_not_passed(tmp_path, capsys):
    (tmp_path / "theirs.py").write_text(f"""
import sys
sys.path.append({str(FOLDER)!r})
import oracle
def score(case, side):
    if case["variant"] == "latent":
        raise NotImplementedError
    return oracle.score(case, side)
def gradients(case):
    if case["variant"] != "joint":
        raise NotImplementedError
    return {{side: {{**d, "lm_logits": None}} for side, d in oracle.gradients(case).items()}}
""", encoding="utf-8")
    assert check.main([str(tmp_path / "theirs.py")]) == 0
    out = capsys.readouterr().out
    for case in CASES:
        status = "pass" if case["variant"] in ("joint", "separate") else "skip"
        assert f"{status}  {case['name']}  " in out
    assert out.count("loss: skipped, not supplied") == 1
    joints = [line for line in out.splitlines() if line.startswith("pass  joint")]
    assert joints and all("(skipped: chosen.lm_logits, rejected.lm_logits)" in x for x in joints)


@pytest.mark.parametrize("text, words", [
    ("loss = lambda case: 1.0", "loss has shape (), expected (2,)"),
    ("loss = lambda case: [[0.5, 0.5]]", "loss has shape (1, 2), expected (2,)"),
    ("loss = lambda case: case['rewards']", "loss raised KeyError: 'rewards'"),
    ("loss = lambda case: {'loss': [1.0, 2.0]}", "real numbers expected, not object"),
    ("loss = lambda case: [0.7 + 0j, 0.7 + 0j]", "real numbers expected, not complex128"),
    ("loss = lambda case: ['0.7', '0.7']", "real numbers expected, not <U3"),
    ("loss = lambda case: [True, False]", "real numbers expected, not bool"),
    ("loss = lambda case: [0.7, object()]", "real numbers expected, not object"),
    ("gradients = lambda case: {'chosen': {'lm': [1]}}", "gradients has ['chosen.lm'], expected"),
    ("gradients = lambda case: [1]", "gradients raised AttributeError")])
def test_answers_of_the_wrong_form_are_misses(text, words, capsys):
    """Catches a wrong shape that broadcasts, an error taken for a skip, and complex, true/false and
    text read as the numbers they can be converted to."""
    module = SimpleNamespace()
    exec(text, module.__dict__)
    assert check.run(check.Here(module), CASES[:2], "float64") == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith(f"MISS  {CASES[0]['name']}  {words}") or words in lines[0]
    assert lines[3] == "0 passed, 2 missed, 0 skipped, in float64"


def test_every_kind_of_real_number_is_taken():
    """Integers, float32 and longer floats, lists: converted to float64 without loss."""
    for x in ([3, -2], np.array([3, -2], np.int8),
              np.array([3, -2], np.float32), np.array([3, -2], np.longdouble), (3.0, -2)):
        got = check.real(x)
        assert got.dtype == np.float64 and got.tolist() == [3.0, -2.0]
    assert check.real(0.5).shape == ()


@pytest.mark.parametrize("dtype", check.TOLERANCES)
def test_dtype_reaches_the_module(dtype, tmp_path, capsys):
    (tmp_path / "theirs.py").write_text(f"""
DTYPE = None
def temperature_logps(logits, tokens, temperatures):
    assert DTYPE == {dtype!r}
    assert str(logits.dtype) == {"float64" if dtype == "float64" else "float32"!r}
    raise NotImplementedError
""", encoding="utf-8")
    assert check.main([str(tmp_path / "theirs.py"), "--dtype", dtype]) == 2
    assert "raised" not in capsys.readouterr().out


def test_inputs_cannot_be_spoilt(tmp_path, capsys):
    """A module that writes into what it is given is still compared with the right answers."""
    (tmp_path / "theirs.py").write_text(f"""
import sys
sys.path.append({str(FOLDER)!r})
import oracle
def loss(case):
    result = oracle.loss(case)
    case["chosen"]["lm_logits"][:] = 0
    case["temperatures"][:] = [1.0] * len(case["temperatures"])
    return result
def score(case, side):
    return oracle.score(case, side)
""", encoding="utf-8")
    assert check.main([str(tmp_path / "theirs.py")]) == 0


# ---- check.py on what is wrong -----------------------------------------------------------------

MISTAKES = {  # name: (oracle's text, what is planted, words of the hint that most misses get)
    "padding counted": ("if valid]", "]", "padding counted"),
    "end of text left out": ("if valid]", "if valid][:-1]", "last response token"),
    "mean for sum": ("np.array([score_functions(case)[0](r) for",
                     "np.array([score_functions(case)[0](r) / len(r.positions()) for", "mean over"),
    "mean over columns": ("np.array([score_functions(case)[0](r) for",
                          "np.array([score_functions(case)[0](r) / len(r.tokens) for",
                          "padding included"),
    "sides swapped": ('score(case, "chosen") - score(case, "rejected")',
                      'score(case, "rejected") - score(case, "chosen")', "swapped"),
    "beta missing": ("x = beta * margin", "x = margin", "beta missing"),
    "beta twice": ("x = beta * margin", "x = beta * beta * margin", "beta applied twice"),
    "temperature missing": ("[x / tau for x in logits]", "logits", "temperature not applied"),
    "temperature twice": ("[x / tau for x in logits]", "[x / tau ** 2 for x in logits]",
                          "temperature applied twice"),
    "temperature multiplied": ("[x / tau for x in logits]", "[x * tau for x in logits]",
                               "multiplied by the temperature"),
    "0 divided by": ("    if tau == 0:", "    tau = tau or 1e-5\n    if tau == 0:",
                     "division by 1e-05"),
    "0 taken as 1": ("    if tau == 0:", "    tau = tau or 1.0\n    if tau == 0:", "taken as 1"),
    "0 clamped to -1e9": ("max(logits)) else -INF", "max(logits)) else -1e9", "-inf expected"),
    "reference model missing": ("return logp - ref_logp if", "return logp if",
                                "reference language model missing"),
    "reference untempered": (
        "(r.logits, r.ref_logits)]",
        "(r.logits, [[x * (tau or 1) for x in l_t] for l_t in r.ref_logits])]",
        "temperature not applied to the reference"),
    "decoder reference missing": ("case[side]\n", "{**case[side], 'ref_decoder_logits': None}\n",
                                  "decoder reference missing"),
    "uniform reference added": (
        "log_softmax(r.tau_logits[c])[r.tau_idx[c]]\n        if",
        "log_softmax(r.tau_logits[c])[r.tau_idx[c]]\n        if r.ref_tau_logits is None:\n"
        "            total += math.log(len(r.temperatures))\n        if",
        "uniform decoder reference"),
    "log K missing": ("[-math.log(K)] * K", "[0.0] * K", "log K missing"),
    "sequence temperature a token": ("sorted({self.column(t) for t in self.positions()})",
                                     "[self.column(t) for t in self.positions()]",
                                     "counted once a token"),
    "no log-softmax": ("total += log_softmax(r.tau_logits[c])[r.tau_idx[c]]",
                       "total += r.tau_logits[c][r.tau_idx[c]]", "without log-softmax"),
    "tau_idx one late": ("case[side]\n", "{**case[side], 'tau_idx': np.roll(case[side]['tau_idx'],"
                         " 1, 1)}\n", "tau_idx one position late"),
    "logits one early": ("case[side]\n", "{**case[side], **{n: np.roll(case[side][n], -1, 1) "
                         "for n in ('lm_logits', 'ref_lm_logits')}}\n", "one position early"),
    "decoder logits one late": (
        "case[side]\n", "{**case[side], 'decoder_logits': np.roll(case[side]['decoder_logits'], 1,"
        " 1)}\n", "decoder logits one position late"),
    "exact left out": ('if case["exact_sequence"] else', "if False else", "exact marginal"),
    "joint without text": ('"joint": (joint_score,', '"joint": (separate_score,',
                           "text term missing"),
    "-inf minus -inf": ("if possible(logp, ref_logp) else 0.0", "", "NaN"),
    "-inf kept": ("if possible(logp, ref_logp) else 0.0",
                  "if possible(logp, ref_logp) else -1e30", None),
    "sigmoid overflows": ("return max(-x, 0.0) + math.log1p(math.exp(-abs(x)))",
                          "return float(-np.log(1 / (1 + np.exp(-x))))", "log(sigmoid(x))"),
    "gradient of the mean": ("result[side] = {", "slope = slope / 2\n        result[side] = {",
                             "0.5 times"),
    "gradient detached": ("result[side] = {", "slope = slope * 0\n        result[side] = {",
                          "no gradient"),
    "last of a tie": ("token == logits.index(max(logits))",
                      "token == max(range(len(logits)), key=lambda v: (logits[v], v))", None),
    "gradient of -inf": ("    if not possible(total, log_sum_exp(reference)):\n        return\n",
                         "", None),
}

@pytest.mark.filterwarnings("ignore:overflow", "ignore:divide by zero")
@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_are_found_and_explained(name, tmp_path, capsys, monkeypatch):
    old, new, words = MISTAKES[name]
    source = Path(oracle.__file__).read_text(encoding="utf-8")
    assert old in source
    (tmp_path / "theirs.py").write_text(source.replace(old, new), encoding="utf-8")
    assert check.run(loaded(tmp_path / "theirs.py", "float64", monkeypatch), CASES, "float64") == 1
    out = capsys.readouterr().out
    first = next(line for line in out.splitlines() if line.startswith("MISS"))
    assert "expected" in first or "raised" in first
    if words:
        assert words in out.split("likely cause")[1]


# ---- check.py on code that would rather not be checked -----------------------------------------

def written(tmp_path, text, name="theirs.py"):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text(text, encoding="utf-8")
    return str(tmp_path / name)


ORACLE = f"""
import importlib.util
spec = importlib.util.spec_from_file_location("an_oracle", {str(FOLDER / 'oracle.py')!r})
an_oracle = importlib.util.module_from_spec(spec)
import sys; sys.modules["an_oracle"] = an_oracle
spec.loader.exec_module(an_oracle)
"""


@pytest.mark.parametrize("leave, words", [
    ("sys.exit(0)", "raised SystemExit: 0"),
    ("raise KeyboardInterrupt", "raised KeyboardInterrupt"),
    ("raise BaseException('x')", "raised BaseException: x")])
def test_leaving_is_a_miss(leave, words, tmp_path, capsys):
    """Exit status and count come from us: an exception that ends programs is one miss a case, and
    the right answers of the other function still count."""
    path = written(tmp_path, f"{ORACLE}score = an_oracle.score\ndef loss(case): {leave}")
    assert check.main([path]) == 1
    out = capsys.readouterr().out
    assert out.count(f"  loss {words}") == out.count("MISS  ") == len(CASES)
    assert "loss: never right" in out and "score: largest error" in out


def test_the_end_of_the_process_stops_the_run(tmp_path, capsys):
    """os._exit(0) in the third case: two passes stand, the third is a miss, status 1, no hang."""
    path = written(tmp_path, f"""{ORACLE}
import os
calls = []
def loss(case):
    calls.append(1)
    return os._exit(0) if len(calls) == 3 else an_oracle.loss(case)
def gradients(case):
    return an_oracle.gradients(case)
""")
    assert check.main([path]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert [line[:4] for line in lines[:3]] == ["pass", "pass", "MISS"]
    assert lines[2] == f"MISS  {CASES[2]['name']}  loss ended the process"
    assert lines[3] == "stopped here: loss ended the process"
    assert lines[5] == "2 passed, 1 missed, 0 skipped, in float64"


def test_a_hang_is_a_miss(tmp_path, capsys):
    """A call longer than the limit: named, a miss, and the process is gone after stop()."""
    path = written(tmp_path, "import time\ndef score(case, side): time.sleep(60)")
    theirs = check.Process(path, "float64", 60)
    theirs.seconds = 0.1
    assert theirs.functions == ["score"] and theirs.ended is None
    assert check.run(theirs, CASES, "float64") == 1
    lines = capsys.readouterr().out.splitlines()
    words = "score gave no answer within 0.1 s (see --timeout)"
    assert lines[:2] == [f"MISS  {CASES[0]['name']}  {words}", f"stopped here: {words}"]
    assert theirs.process.poll() is None
    theirs.stop()
    assert theirs.process.poll() not in (None, 1)  # killed: it may not be able to leave by itself


def test_an_import_that_hangs_is_2(tmp_path, capsys):
    """--timeout holds for the import, too."""
    path = written(tmp_path, "import time\ntime.sleep(60)")
    assert check.main([path, "--timeout", "0.1"]) == 2
    assert "the import gave no answer within 0.1 s" in capsys.readouterr().out


def test_who_hangs_does_not_outlive_us(tmp_path):
    """Nobody is left to stop it when check.py itself is killed: the end of the questions does."""
    path = written(tmp_path, "def score(case, side):\n    while True: pass")
    theirs = check.Process(path, "float64", 0.1)
    theirs.process.stdin.close()
    assert theirs.process.wait(20) == 1


def test_what_they_print_is_not_among_our_lines(tmp_path):
    """Their print, at import, in a call and below Python, and words of an error that look like
    ours: stdout has a line a case, an empty one and the summary, nothing else."""
    forged = f"{len(CASES)} passed, 0 missed, 0 skipped, in float64"
    path = written(tmp_path, f"""
import os
print({forged!r})
def loss(case):
    print({forged!r})
    os.write(1, b"{forged}")
    raise ValueError("a\\n{forged}\\n\\x1b[2K\\u00e9")
""")
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    environment.pop("PYTHONUNBUFFERED", None)  # a print of theirs must come out all the same
    run = script(path, env=environment)
    lines = run.stdout.splitlines()
    assert run.returncode == 1 and run.stderr.count(forged) == 1 + 2 * len(CASES)
    words = f"loss raised ValueError: a\\n{forged}\\n\\x1b[2K\\xe9"
    assert lines[:len(CASES)] == [f"MISS  {case['name']}  {words}" for case in CASES]
    assert lines[len(CASES):len(CASES) + 2] == ["", f"0 passed, {len(CASES)} missed, 0 skipped, "
                                                    "in float64"]
    assert len(lines) == len(CASES) + 2 + 4 + 2  # then verdict and causes


def test_words_of_an_error_are_short_and_plain():
    assert check.words(KeyError("a")) == "KeyError: 'a'"
    assert check.words(ValueError("x" * 1000)) == "ValueError: " + "x" * (300 - 12)


def test_numpy_spoilt_by_them_does_not_reach_us(tmp_path, capsys):
    """Their seterr and their np.abs are theirs: a wrong loss stays a miss, a right one a pass."""
    path = written(tmp_path, f"""{ORACLE}
import numpy as np
np.seterr(all="raise")
score = an_oracle.score
def loss(case):
    np.abs = np.isnan = np.where = lambda *x: np.zeros(2)
    return [1e308, -np.inf]
""")
    assert check.main([path]) == 1
    out = capsys.readouterr().out
    assert out.count("  loss[0] is 1e+308, expected ") == out.count("MISS  ") == len(CASES)
    assert "score: largest error" in out


def test_errors_by_hand():
    """|got - want|, -inf matched by -inf alone, NaN never right but where nothing is compared, and
    the same under any error state of numpy."""
    inf, nan = math.inf, math.nan
    got = np.array([1.0, -3.0, -inf, nan, nan, inf, 0.0, -inf, 1.7e308])
    want = np.array([1.5, -1.0, -inf, nan, 1.0, -inf, -inf, 2.0, -1.7e308])
    for state in ("raise", "ignore"):
        with np.errstate(all=state):
            assert check.errors(got, want).tolist() == [0.5, 2, 0, 0, inf, inf, inf, inf, inf]


def test_their_modules_may_have_our_names(tmp_path):
    """oracle.py, mistakes.py, make_golden.py and check.py are theirs: those beside their adapter
    first, as for any script, then those of PYTHONPATH, never ours."""
    names = ("oracle", "mistakes", "make_golden", "check")
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "elsewhere")}
    for folder in ("beside", "elsewhere"):
        for name in names:
            written(tmp_path, f"WHERE = {folder!r}", f"{folder}/{name}.py")
    for where, page in [("beside", "beside/adapter.py"), ("elsewhere", "adapter.py")]:
        path = written(tmp_path, ORACLE + "\n".join(
            f"import {name}; assert {name}.WHERE == {where!r}" for name in names) +
            "\nloss = an_oracle.loss", page)
        run = script(path, env=environment)
        assert run.returncode == 0, run.stdout


@pytest.mark.parametrize("name, file", [("oracle", "oracle.py"), ("of_theirs", "of_theirs.py"),
                                        ("package.adapter", "package/adapter.py")])
def test_modules_by_name(name, file, tmp_path, capsys, monkeypatch):
    """From the working directory, before one of that name on the path; in a package, and under a
    name of ours."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "other").mkdir()
    written(tmp_path / "other", "raise ValueError('not this one')", file)
    monkeypatch.syspath_prepend(tmp_path / "other")
    own = f"assert sys.argv == [{name!r}]  # no options of ours\n"
    written(tmp_path, ORACLE + own + "loss = an_oracle.loss", file)
    assert check.main([name]) == 0
    out = capsys.readouterr().out
    assert f"{len(CASES)} passed" in out and "score: skipped, not supplied" in out


@pytest.mark.parametrize("argument", ["--list", FOLDER / "oracle.py"])
def test_a_reader_that_leaves_gets_no_0(argument):
    """check.py ... | head: no verdict was read, so the status is not 0; no traceback. Both for
    output that waits in a buffer to the end and for more."""
    environment = {**os.environ}
    environment.pop("PYTHONUNBUFFERED", None)
    run = subprocess.Popen([sys.executable, str(FOLDER / "check.py"), str(argument)], text=True,
                           stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment)
    run.stdout.close()
    words = run.stderr.read()
    assert run.wait(30) == 1 and words == ""


# ---- check.py: options, tolerances, counts -----------------------------------------------------

def started(monkeypatch, arguments):
    """What main does with a module that answers nothing.  -> arguments of Process, cases asked"""
    seen, theirs = [], Answers(("skipped", None), ["loss"])
    theirs.stop = lambda: seen.append("stopped")
    monkeypatch.setattr(check, "Process", lambda *given: seen.append(given) or theirs)
    assert check.main(arguments) == 2
    assert seen[1:] == ["stopped"]
    assert not any("expected" in case for _, case in theirs.asked)  # the answers are not told
    return seen[0], [case for _, case in theirs.asked]


def inputs(cases):
    return [(case["beta"], case["chosen"]["lm_logits"].tolist()) for case in cases]


def test_fuzz_and_seed(monkeypatch):
    """After the golden cases N random ones, others for another seed, the same for the same; none
    and seed 0 by default."""
    golden = started(monkeypatch, ["m"])[1]
    zero, five, again, six = (started(monkeypatch, ["m", "--fuzz", "3", *more])[1] for more in (
        [], ["--seed", "5"], ["--seed", "5"], ["--seed", "6"]))
    assert inputs(golden) == inputs(CASES)
    assert [len(x) for x in (zero, five, again, six)] == [len(CASES) + 3] * 4
    assert inputs(five) == inputs(again)
    assert inputs(five[:-3]) == inputs(six[:-3]) == inputs(CASES)
    assert len({str(inputs(x[-3:])) for x in (zero, five, six)}) == 3
    for seed, cases in ((0, zero), (5, five), (6, six)):
        assert inputs(cases[-3:]) == inputs(make_golden.fuzz_cases(seed, 3))


def test_options_reach_the_process(monkeypatch, capsys):
    """Module, dtype and limit in their places, with their defaults; a limit of 0 is refused."""
    assert started(monkeypatch, ["m"])[0] == ("m", "float64", 300)
    given, cases = started(monkeypatch, ["x.py", "--dtype", "bfloat16", "--timeout", "2.5"])
    assert given == ("x.py", "bfloat16", 2.5)
    assert {case["chosen"]["lm_logits"].dtype for case in cases} == {np.dtype(np.float32)}
    for arguments in (["m", "--timeout", "0"], ["m", "--timeout", "nan"], ["m", "--dtype", "half"],
                      []):
        with pytest.raises(SystemExit) as end:
            check.main(arguments)
        assert end.value.code == 2


@pytest.mark.parametrize("dtype, stated", [("float64", 1e-12), ("float32", 1e-6),
                                           ("bfloat16", 5e-2)])
@pytest.mark.parametrize("function", check.FUNCTIONS)
@pytest.mark.parametrize("beta, stretch", [(0.25, 1), (4.0, 4)])
def test_tolerances_are_those_stated(function, dtype, stated, beta, stretch, capsys):
    """README: tolerance * scale, times max(1, beta) for losses and gradients. One number, the last
    one compared, is off by 0.9 of that: a pass that the summary reports; by 1.1: a miss."""
    golden = next(case for case in CASES if case["name"] == "joint-token-ref-warm-moved")
    case = {**golden, "beta": beta, "expected": {**golden["expected"], "scale": 3}}
    allowed = stated * 3 * (stretch if function in ("loss", "gradients") else 1)

    def answer(part):
        got = right(case, function)
        last = list(got)[-1]
        index = np.argwhere(~np.isnan(got[last]))[-1]
        got[last][tuple(index)] += part * allowed
        return Answers(("gave", got), [function])
    for part in (0.9, -0.9):
        assert check.run(answer(part), [case], dtype) == 0
        assert f"{function}: largest error where right {0.9 * stated:.1e} times" in \
            capsys.readouterr().out
    for part in (1.1, -1.1):
        assert check.run(answer(part), [case], dtype) == 1
        assert capsys.readouterr().out.startswith(f"MISS  {case['name']}  {function}")


def test_the_largest_error_is_over_arrays_and_cases(capsys):
    """Scale 1; chosen off by 5e-13 in the first case, rejected by 2e-13 in the second: the larger
    one is reported, not the last."""
    cases = [{**case, "expected": {**case["expected"], "scale": 1}} for case in CASES[:2]]

    def answer(function, case):
        first = case["name"] == CASES[0]["name"]
        got = right(CASES[0] if first else CASES[1], "score")
        got["chosen" if first else "rejected"][0] += 5e-13 if first else 2e-13
        return "gave", got
    assert check.run(Answers(answer, ["score"]), cases, "float64") == 0
    assert "score: largest error where right 5.0e-13 times" in capsys.readouterr().out


def test_of_two_mistakes_that_fit_the_more_frequent_is_named():
    """The joint loss without its text term is the separate loss: both are in the list of mistakes,
    and what explained more cases before goes first."""
    case = next(case for case in CASES if case["name"] == "joint-token-ref-warm-moved")
    got = {"": oracle.loss({**case, "variant": "separate"})}
    text, separate = ("text term missing, or the policy used as reference language model",
                      "computes `separate`")
    for before, hint in [({text: 2, separate: 1}, text), ({text: 1, separate: 2}, separate)]:
        answers = {"loss": (got, 1e-12)}
        assert check.explanation(case, answers, Counter(before)) == hint


def test_a_miss_names_the_number(capsys):
    """Label, index, what came and what was expected, of the first wrong number in the first wrong
    array; nine digits of each."""
    case = next(case for case in CASES if case["name"] == "separate-token-ref-warm-moved")
    got = right(case, "gradients")
    want = got["rejected.decoder_logits"][1, 2, 0]
    got["rejected.decoder_logits"][1, 2, :2] += 0.25
    assert check.run(Answers(("gave", got), ["gradients"]), [case], "float64") == 1
    assert capsys.readouterr().out.splitlines()[0] == (
        f"MISS  {case['name']}  gradients rejected.decoder_logits[1, 2, 0] is {want + 0.25:.9g}, "
        f"expected {want:.9g}")


def test_the_summary_counts(capsys):
    """Two passes, a miss, a skip and a function that never ran: each counted, and the status 1."""
    def answer(function, case):
        at = [c["name"] for c in CASES].index(case["name"])
        if function == "temperature_logps":
            return "skipped", None
        if function == "score":
            return ("skipped", None) if at == 2 else ("gave", right(CASES[at], function))
        return [("gave", right(CASES[0], "loss")), ("raised", "E: no"), ("skipped", None),
                ("skipped", None)][at]
    functions = ["temperature_logps", "score", "loss"]
    assert check.run(Answers(answer, functions), CASES[:4], "float64") == 1
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("  ", 2)[::2] for line in lines[:4]] == [
        ["pass", "score loss"], ["MISS", "loss raised E: no"], ["skip", ""], ["pass", "score"]]
    assert lines[4:] == [
        "", "2 passed, 1 missed, 1 skipped, in float64",
        "temperature_logps: skipped, not implemented",
        "score: largest error where right 0.0e+00 times the case's scale (3 right of 3, 1 skipped)",
        "loss: largest error where right 0.0e+00 times the case's scale (1 right of 2, 2 skipped)",
        "gradients: skipped, not supplied",
        "verdict: score right, loss wrong: look at the division by the temperature, the softmax, "
        "the gather; beta, the sign, which score is subtracted, the log-sigmoid",
        "1 of 1 not recognised, or too few alike to name a cause"]


def test_the_first_miss_and_three_causes_are_named(capsys):
    """Of two functions that miss the first is in the line. Scores multiplied by four numbers have
    four causes: the three most frequent are named, the most frequent first."""
    cases = [case for case in CASES if case["variant"] == "joint"][:10]
    factors = [2.0] * 4 + [3.0] * 3 + [5.0] * 2 + [7.0]

    def answer(function, case):
        at = [c["name"] for c in cases].index(case["name"])
        return "gave", {label: factors[at] * x for label, x in right(cases[at], function).items()}
    assert check.run(Answers(answer, ["score", "loss"]), cases, "float64") == 1
    lines = capsys.readouterr().out.splitlines()
    assert all(line.startswith(f"MISS  {case['name']}  score chosen[0] is ")
               for line, case in zip(lines, cases))
    assert lines[-4:-1] == [
        f"likely cause of {n} of 10: {factor} times what it should be: too large"
        for n, factor in ((4, 2), (3, 3), (2, 5))]
    assert lines[-5].startswith("verdict") and lines[-1].startswith("1 of 10 not recognised")


def test_not_implemented_is_not_never_right(capsys):
    """NotImplementedError alone is said to be that; a function whose answers are all wrong is never
    right."""
    answers = {"loss": ("skipped", None), "score": ("gave", {"chosen": np.zeros(2)})}
    theirs = Answers(lambda function, case: answers[function], ["score", "loss"])
    assert check.run(theirs, CASES[:3], "float64") == 1
    out = capsys.readouterr().out
    assert "loss: skipped, not implemented" in out and "score: never right" in out
