"""The answer key of conformance/, check.py, and the runner that all checkers share.

The oracle is compared with central differences and values worked out by hand, the list of known
mistakes with the text that it changes. What is right passes, whatever a module does ends in a
verdict, and planted mistakes are missed and named: planted_in_adapters.txt, of which every
24th is tried here. All of them take a quarter of an hour:

    PLANTED=all pytest tests/test_conformance.py tests/test_model_kit.py -k planted
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

import cases
import check
import mistakes
import oracle
import runner

FOLDER = Path(check.__file__).resolve().parent
GOLDEN, SIDES = cases.golden(), cases.SIDES
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
        of_case = []
        for function in check.LOOK_AT:
            if function in theirs.functions and cases.wanted(case, function):
                status, line, more = runner.verdict(lambda theirs: check.judge(
                    theirs, function, case, dtype), theirs)
                misses += [(case["name"], line)] * (status == "MISS")
                of_case += [more] * (status == "MISS" and more is not None)
        evidence += of_case[:1]  # as runner.run does
    return misses, check.explain(evidence, dtype) if evidence else []


# --- the answer key -------------------------------------------------------------------------------


def differences(case, side, name, step):
    """d (sum of the losses) / d x by central differences."""
    x, result = case[side][name], np.zeros_like(case[side][name])
    for index in np.ndindex(x.shape):
        ends = []
        for sign in (1, -1):
            moved = x.copy()
            moved[index] += sign * step
            # the row's loss only: a huge neighbour would drown the difference
            ends.append(oracle.loss({**case, side: {**case[side], name: moved}})[index[0]])
        result[index] = (ends[0] - ends[1]) / (2 * step)
    return result


@pytest.mark.parametrize("case", [case for case in GOLDEN[::8] if "ties" not in case["name"]]
                         + [*map(cases.answered, cases.fuzz(1, 3))], ids=lambda case: case["name"])
def test_gradients_against_central_differences(case):
    """Everywhere except at ties, where a step of the arg-max's logit moves all the mass."""
    step = 1e-5 * min(1, *(tau for tau in [1, *case["temperatures"]] if tau)) / max(1, case["beta"])
    bound = 1e-6 * case["expected"]["scale"] * max(1, case["beta"])
    for side in SIDES:
        for name, x in oracle.gradients(case)[side].items():
            assert np.abs(x - differences(case, side, name, step)).max() < bound, (side, name)


def test_equations_by_hand():
    """Two tokens, logits ln 3, 0 and a reference of 0, 0; choices 0 and 1 with P = 1/4, 3/4."""
    r = oracle.Response([0.0, 1.0], np.log([[3, 1], [3, 1.0]]), np.zeros((2, 2)), np.array([0, 1]),
                        np.array([True, True]), np.log([[1, 3], [1, 3.0]]), None, np.array([0, 1]))
    assert oracle.separate(r)[0] == pytest.approx(math.log(3 / 16))
    # token 0 at temperature 0: possible under both; token 1 at 1: 1/4 against 1/2
    assert oracle.joint(r)[0] == pytest.approx(math.log(3 / 16 * 1 / 2))
    mixtures = (1 / 4 + 3 / 4 * 3 / 4) / (1 / 2 + 1 / 4), (3 / 4 * 1 / 4) / (1 / 2 * 1 / 2)
    assert oracle.latent(r)[0] == pytest.approx(math.log(mixtures[0] * mixtures[1]))
    assert oracle.preference_loss(math.log(3), 1.0) == pytest.approx(math.log(4 / 3))


def test_golden_is_what_the_oracle_gives():
    """Bug: an edited answer. Equal except in the last digits of a machine's exp and log."""
    for case in GOLDEN:
        made, committed = cases.answered(case)["expected"], case["expected"]
        assert made["scale"] == committed["scale"], case["name"]
        for function in check.LOOK_AT:
            for label, want in cases.wanted(case, function).items():
                got = cases.wanted({**case, "expected": made}, function)[label]
                assert np.allclose(got, want, rtol=1e-11, atol=1e-13, equal_nan=True), case["name"]


def test_golden_fits_the_schema_and_spoilt_ones_do_not():
    jsonschema = pytest.importorskip("jsonschema")
    text = cases.GOLDEN.read_text(encoding="utf-8")
    assert len(text) < 300_000 and "NaN" not in text and "Infinity" not in text
    schema = json.loads((FOLDER / "golden.schema.json").read_text(encoding="utf-8"))
    validator = jsonschema.Draft202012Validator(schema)
    validator.validate(json.loads(text))
    first = json.dumps(json.loads(text)["cases"][0])
    for old, new in [('"level": "token"', '"level": "word"'), ('"beta": 0.25', '"beta": 0'),
                     ('"exact_sequence": false', '"exact_sequence": true'), ('"name"', '"nom"'),
                     ('"mask": [[1, 0, 0]', '"mask": [[0, 0, 0]'), ("[[-2, 0,", '[["-inf", 0,'),
                     ('"variant": "joint"', '"variant": "nll"')]:
        assert old in first, old
        spoilt = {"schema": 1, "cases": [json.loads(first.replace(old, new, 1))]}
        assert not validator.is_valid(spoilt), old


def test_fuzz_is_repeatable_of_one_shape_and_named_after_golden_cases():
    """Bugs: 214 shapes to compile; ties, for which no golden case of the kind stands."""
    some, again, other = (list(cases.fuzz(seed, 30)) for seed in (0, 0, 1))
    assert str(some) == str(again) != str(other)
    shapes = {case[s]["lm_logits"].shape for case in some for s in SIDES}
    assert shapes == {(3, 5, 6)}
    assert {case["name"].split("-fuzz-")[0] for case in some} <= {c["name"] for c in GOLDEN}
    for logits in (case[s][name] for case in some for s in SIDES for name in cases.LM):
        assert (np.diff(np.sort(logits)) > 0).all()
        assert (logits == logits.astype(np.float32)).all()


def test_numbers_are_the_rule_of_the_page():
    """Row-major, entry i being mixed(i + mixed(stream)), with Python's own integers."""
    def mixed(x):
        x %= 2 ** 32
        x ^= x >> 16
        x = x * 2654435761 % 2 ** 32
        x ^= x >> 15
        x = x * 1640531527 % 2 ** 32
        return x ^ x >> 16
    for stream in (0, 77):
        assert cases.numbers(stream, 3, 4).tolist() == [
            [mixed(4 * i + j + mixed(stream)) for j in range(4)] for i in range(3)]
    counts = np.bincount(cases.numbers(1, 65536) % 64, minlength=64)
    assert ((counts - 1024) ** 2 / 1024).sum() < 150  # chi-square, 63 degrees of freedom


def test_every_known_mistake_changes_text_that_is_there():
    """Bug: a line of the key is rewritten and its mistakes silently never fit again."""
    text = mistakes.source("oracle") + mistakes.source("gpt2")
    assert len(mistakes.known()) > 100
    for mistake in mistakes.known():
        for right, wrong in mistake.changes:
            assert right in text and right != wrong, mistake.cause
        filled = mistake._replace(x=mistake.x or (mistake.bounds or (None,))[-1])
        assert filled.key().gpt2.forward  # it compiles


def test_the_pages_state_tolerances_and_version():
    import check_model
    page = (FOLDER / "README.md").read_text(encoding="utf-8")
    rows = [line.split("|") for line in page.splitlines() if line.startswith(("| float", "| bfl"))]
    stated = [(row[1].strip(), float(row[2])) for row in rows]
    assert stated == [*check.TOLERANCES.items(), *check_model.TOLERANCES.items()]
    text = (FOLDER / "pyproject.toml").read_text(encoding="utf-8")
    assert f'version = "{runner.VERSION}"' in text and 'dependencies = ["numpy' in text
    form = (FOLDER / "FORMAT.md").read_text(encoding="utf-8")
    assert all(f"**[{n}] " in form for n in range(1, 11))


def test_the_kit_runs_with_numpy_only_from_any_folder(tmp_path):
    """Where torch and lpo cannot be imported: neither process may need them."""
    (tmp_path / "sitecustomize.py").write_text("""
import sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "transformers", "jax", "lpo", "scipy"):
            raise ImportError(name + " is blocked")
sys.meta_path.insert(0, Blocked())
""", encoding="utf-8")
    for adapter, status, said in (("oracle.py", 0, "82 passed, 0 missed, 0 skipped"),
                                  ("adapters/ours.py", 2, "torch is blocked")):
        done = subprocess.run([sys.executable, str(FOLDER / "check.py"), str(FOLDER / adapter)],
                              cwd=tmp_path, env={"PYTHONPATH": str(tmp_path)}, text=True,
                              capture_output=True)
        assert done.returncode == status and said in done.stdout, done.stdout + done.stderr


# --- check.py -------------------------------------------------------------------------------------


@pytest.mark.parametrize("adapter, padding, dtype", [
    ("ours", "right", "float32"), ("ours", "right", "bfloat16"), ("trl_style", "right", "float32"),
    ("trl_style", "left", "float64")])
def test_adapters_pass(adapter, padding, dtype, monkeypatch):
    monkeypatch.setenv("PADDING_SIDE", padding)
    theirs = loaded(FOLDER / "adapters" / f"{adapter}.py", dtype)
    assert judged_here(theirs, GOLDEN + [*map(cases.answered, cases.fuzz(0, 20))], dtype)[0] == []


def test_large_cases_pass(capsys):
    status, lines = run(capsys, ORACLE, "--large", "--only", "large-words-j*")
    assert status == 0 and len([line for line in lines if line.startswith("pass")]) == 1


@pytest.mark.parametrize("text, words", [
    ("loss = 3", "nothing ran"),
    ("def loss(case): raise NotImplementedError", "nothing ran"),
    ("raise SystemExit(0)", "SystemExit: 0"),
    ("import time; time.sleep(60)", "the import gave no answer within 2 s"),
    ("def loss(case) return 1", "cannot import")])
def test_nothing_ran_is_2(text, words, tmp_path, capsys):
    status, lines = run(capsys, written(tmp_path, text), "--timeout", "2")
    assert status == 2 and words in "\n".join(lines)
    assert not any(line.startswith("pass") for line in lines)


@pytest.mark.parametrize("text, words", [
    ("loss = lambda case: None", "loss returned None"),
    ("loss = lambda case: 1.0", "loss has shape (), expected (2,)"),
    ("loss = lambda case: [[0.5, 0.5]]", "has shape (1, 2), expected (2,)"),
    ("loss = lambda case: {'loss': [1.0, 2.0]}", "real numbers expected, not object"),
    ("loss = lambda case: {1, 2}", "the answer holds set"),
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
    assert status == 0 and "score: 43 right, 0 wrong, 36 skipped" in "\n".join(lines)
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
            words, error = check.compare(function, case, got, dtype)
            assert words == function and error == pytest.approx(0.9 * check.TOLERANCES[dtype])
        else:
            with pytest.raises(runner.Miss, match=f"{function} .* is .*, expected "):
                check.compare(function, case, got, dtype)


def test_errors_by_hand():
    """|got - want|, -inf matched by -inf only, NaN never right except where nothing is compared."""
    inf, nan = math.inf, math.nan
    got = np.array([1.0, -3.0, -inf, nan, nan, inf, 0.0, -inf, 1.7e308])
    want = np.array([1.5, -1.0, -inf, nan, 1.0, -inf, -inf, 2.0, -1.7e308])
    with np.errstate(all="raise"):
        assert mistakes.errors(got, want).tolist() == [0.5, 2, 0, 0, inf, inf, inf, inf, inf]


# --- code that would rather not be checked --------------------------------------------------------


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
    return stat.exists() and stat.read_text(encoding="utf-8").rpartition(")")[2].split()[0] != "Z"


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
        while not note.exists() or len(note.read_text(encoding="utf-8").split()) < 2:
            time.sleep(0.1)
        ours.kill()
    ours.wait(60)
    deadline = time.monotonic() + 20
    pids = note.read_text(encoding="utf-8").split()
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
    np.abs = np.isnan = lambda *x: np.zeros(2)
    raise ValueError("a\\n{forged}\\n\\x1b[2K\\u00e9")
""")
    status, lines, errors = command(path, env={**os.environ, "PYTHONIOENCODING": "ascii"})
    assert status == 1 and errors.count(forged) > 82
    words = rf"loss raised ValueError: a\n{forged}\n\x1b[2K\xe9"
    assert lines[:82] == [f"MISS  {case['name']}  {words}" for case in GOLDEN]
    assert lines[83] == "0 passed, 82 missed, 0 skipped, in float64"
    assert lines[85].startswith("score: 79 right, 0 wrong")


@pytest.mark.parametrize("program", ["conformance/check.py", "conformance/check_model.py",
                                     "notebooks/exercises/check.py"])
@pytest.mark.parametrize("end", ["interrupted", "unread", "forever"])
def test_every_checker_ends_without_a_traceback(program, end, tmp_path):
    """Ctrl-C, `| head -1`, --timeout inf: bugs of each of the three, now of one runner."""
    imported = tmp_path / "imported"
    slow = (f"import time\nopen({str(imported)!r}, 'w').close()\n"
            "def score(*_): time.sleep(60)\ntemperature_logps = choice_logps = score\n")
    given = [written(tmp_path, slow)]
    if "exercises" in program:
        given = ["1", "--folder", str(tmp_path)]
        written(tmp_path, slow, "01_temperature_zero.py")
    if end != "interrupted":
        given = {"check.py": [ORACLE, "--only", "nll"], "check_model.py": [
            str(FOLDER / "adapters/model_ours.py"), "--only", "pairs all"]}[Path(program).name]
        given = ["1", "--solutions"] if "exercises" in program else given
    given += ["--timeout", "inf"]
    start = subprocess.Popen([sys.executable, str(FOLDER.parent / program), *given], text=True,
                             stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True)
    if end == "interrupted":
        while not imported.exists():  # on a busy machine that takes seconds
            assert start.poll() is None
            time.sleep(0.1)
        start.send_signal(signal.SIGINT)
    elif end == "unread":
        start.stdout.readline()
        start.stdout.close()
        start.stdout = None
    errors = start.communicate(timeout=90)[1]
    assert "Traceback" not in errors
    fits = dict(interrupted=(130, 1), unread=(0, 1, 2), forever=(0,))
    assert start.returncode in fits[end]


# --- options --------------------------------------------------------------------------------------


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
    assert listed == every
    for wrong in (["m", "--timeout", "0"], ["m", "--timeout", "nan"], ["m", "--dtype", "half"], [],
                  ["m", "--skip", "no_such_file"], ["m", "--fuzz", "-3"], ["m", "--seed", "-1"]):
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
    assert status == 1 and run(capsys, path, "--skip", known, "--fuzz", "20")[0] == 0
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
    with pytest.raises(SystemExit):
        run(capsys, path, "--json", tmp_path)
    assert run(capsys, "no_such_module", "--json", tmp_path / "x.json")[0] == 2  # none of before
    assert json.loads((tmp_path / "x.json").read_text(encoding="utf-8"))["status"] == 2


# --- planted mistakes -----------------------------------------------------------------------------


def planted(of_losses):
    """Every 24th entry and a sampler's default, or all.

    -> [(name, files, question, words, changes)]
    """
    entries = []
    for mistake in mistakes.known(Path(__file__).with_name("planted_in_adapters.txt")):
        name, files, question, words = mistake.cause.split(" | ")
        if (question == "losses") == of_losses:
            entries.append((name, files.split(), question, words, mistake.changes))
    if os.environ.get("PLANTED") == "all":
        return entries
    return entries[4::24] + [entry for entry in entries if entry[0] == "top_k of 50"]


def planted_module(files, changes, folder):
    """The last of some adapters, changed, as it would be asked.  -> runner.Here"""
    left = dict(changes)
    for file in files[::-1]:
        place = FOLDER / "adapters" / file
        text = place.read_text(encoding="utf-8")
        left = {right: wrong for right, wrong in left.items() if right not in text}
        for right, wrong in changes:
            text = text.replace(right, wrong)
        text = text.replace("Path(__file__).resolve()", f"Path({str(place)!r})")
        text = text.replace("Path(__file__).parents[1]", repr(str(FOLDER)))
        path = written(folder, text, file)
    assert not left, f"{left} is no longer there"
    sys.modules.pop("trl_style", None)
    return loaded(path)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name, files, question, words, changes", planted(True),
                         ids=lambda x: x if isinstance(x, str) else "")
def test_a_planted_mistake_is_missed_and_named(name, files, question, words, changes, tmp_path):
    some = GOLDEN if "PLANTED" in os.environ else GOLDEN[::3]
    misses, causes = judged_here(planted_module(files, changes, tmp_path), some)
    assert misses and not any("raised" in line for _, line in misses[:1]), misses
    assert words in causes[0][0] if words != "not named" else not causes, causes


def test_a_cause_of_gradients_needs_right_values():
    """Bug: "detached" was said of gradients that are zero because the scores are wrong."""
    theirs = runner.Here(SimpleNamespace(
        loss=lambda case: 0 * oracle.loss(case),
        gradients=lambda case: {side: {name: 0 * x for name, x in d.items()}
                                for side, d in oracle.gradients(case).items()}))
    _, causes = judged_here(theirs, GOLDEN[:12])
    assert not any("gradient" in cause for cause, _ in causes)
