"""The correctness baseline itself: is the oracle right, is golden.json the oracle's, does check.py
pass what is right and explain what is wrong?

The oracle's gradients stand against central differences, its values against our lpo.py and an
independent implementation; the mistakes are planted in the oracle's own source text.
    pytest tests/test_conformance.py
"""
import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

FOLDER = Path(__file__).resolve().parents[1] / "conformance"
sys.path.append(str(FOLDER))
import check  # noqa: E402
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
@pytest.mark.parametrize("adapter", ["ours", "trl_style"])
def test_adapters_pass(adapter, dtype, capsys):
    pytest.importorskip("torch").set_num_threads(1)
    if adapter == "trl_style":
        pytest.importorskip("transformers")
    path = str(FOLDER / "adapters" / f"{adapter}.py")
    assert check.main([path, "--dtype", dtype, "--fuzz", "60"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert sum(line.startswith("pass  ") for line in lines) == len(CASES) + 60
    assert not any("skipped:" in line or "not supplied" in line for line in lines)


def test_trl_style_is_independent():
    text = (FOLDER / "adapters" / "trl_style.py").read_text(encoding="utf-8")
    assert "import lpo" not in text and "from lpo" not in text


def test_command_line_from_another_folder(tmp_path):
    run = subprocess.run([sys.executable, str(FOLDER / "check.py"),
                          str(FOLDER / "adapters" / "ours.py")], cwd=tmp_path,
                         capture_output=True, text=True)
    assert run.returncode == 0 and f"{len(CASES)} passed, 0 missed" in run.stdout, run.stderr


def test_the_kit_runs_with_numpy_alone(tmp_path):
    """On a machine where torch, transformers and lpo cannot be imported."""
    program = f"""
import sys
sys.path.insert(0, {str(FOLDER)!r})
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "transformers", "trl", "lpo", "scipy"):
            raise ImportError(name + " is blocked")
sys.meta_path.insert(0, Blocked())
import check, make_golden
assert make_golden.text()
sys.exit(check.main([{str(FOLDER / "oracle.py")!r}, "--fuzz", "20"]))
"""
    run = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True,
                         text=True)
    assert run.returncode == 0, run.stdout[-500:] + run.stderr


def test_readme_states_the_tolerances_in_use():
    page = (FOLDER / "README.md").read_text(encoding="utf-8")
    rows = [line.split("|") for line in page.splitlines()]
    stated = {row[1].strip(): float(row[-2]) for row in rows if row[1:2] and
              row[1].strip() in check.TOLERANCES}
    assert stated == check.TOLERANCES


def test_list_names_every_case(capsys):
    assert check.main(["--list"]) == 0
    assert capsys.readouterr().out.split() == [case["name"] for case in CASES]


# ---- check.py on what is missing ---------------------------------------------------------------

@pytest.mark.parametrize("text, words", [
    ("", "nothing ran"), ("loss = 3", "nothing ran"),
    ("def loss(case): raise NotImplementedError", "nothing ran"),
    ("def gradients(case): return {}", "nothing ran"),
    ("import no_such_package", "cannot import"), ("raise SystemExit(0)", "cannot import"),
    ("def loss(case) return 1", "cannot import")])
def test_nothing_ran_is_2(text, words, tmp_path, capsys):
    (tmp_path / "theirs.py").write_text(text, encoding="utf-8")
    assert check.main([str(tmp_path / "theirs.py")]) == 2
    out = capsys.readouterr().out
    assert words in out and "pass  " not in out
    assert check.main(["no_such_module"]) == 2
    assert len(capsys.readouterr().out.splitlines()) == 1


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


def test_answers_of_the_wrong_form_are_misses(tmp_path, capsys):
    for text, words in [("def loss(case): return 1.0", "has shape ()"),
                        ("def loss(case): return case['rewards']", "raised KeyError"),
                        ("def gradients(case): return {'chosen': {'lm': [1]}}", "chosen.lm")]:
        (tmp_path / "theirs.py").write_text(text, encoding="utf-8")
        assert check.main([str(tmp_path / "theirs.py")]) == 1
        assert words in capsys.readouterr().out


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
def test_mistakes_are_found_and_explained(name, tmp_path, capsys):
    old, new, words = MISTAKES[name]
    source = Path(oracle.__file__).read_text(encoding="utf-8")
    assert old in source
    (tmp_path / "theirs.py").write_text(source.replace(old, new), encoding="utf-8")
    assert check.main([str(tmp_path / "theirs.py")]) == 1
    out = capsys.readouterr().out
    first = next(line for line in out.splitlines() if line.startswith("MISS"))
    assert "expected" in first or "raised" in first
    if words:
        assert words in out.split("likely cause")[1]
