"""Is the answer key right? The oracle stands against central differences and two independent
implementations, golden.json and its schema against each other, the list of mistakes against the
text that it changes.
    pytest tests/test_answer_key.py
"""
import ast
import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

FOLDER = Path(__file__).resolve().parents[1] / "conformance"
sys.path.append(str(FOLDER))
import cases  # noqa: E402
import check  # noqa: E402
import mistakes  # noqa: E402
import oracle  # noqa: E402
import runner  # noqa: E402

GOLDEN = cases.golden()
SIDES = cases.SIDES


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


@pytest.mark.parametrize("case", [case for case in GOLDEN if "ties" not in case["name"]]
                         + list(cases.fuzz(1, 15)), ids=lambda case: case["name"])
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


def test_padding_changes_nothing():
    for case in GOLDEN[::3]:
        other = {**case, **{side: dict(case[side]) for side in SIDES}}
        for x in (other[side] for side in SIDES):
            for name in cases.LM:
                x[name] = np.where(x["mask"][..., None], x[name], 5.0)
            x["tokens"] = np.where(x["mask"], x["tokens"], 0)
        assert np.array_equal(oracle.loss(case), oracle.loss(other)), case["name"]
        for side in SIDES:
            assert not oracle.gradients(other)[side]["lm_logits"][~case[side]["mask"]].any()


# ---- golden.json -------------------------------------------------------------------------------

def test_golden_is_what_the_oracle_gives():
    """Bug: an edited answer. Equal except in the last digits of a machine's exp and log."""
    for case in GOLDEN:
        made, committed = cases.answered(case)["expected"], case["expected"]
        assert made["scale"] == committed["scale"], case["name"]
        for function in check.LOOK_AT:
            for label, want in cases.wanted(case, function).items():
                got = cases.wanted({**case, "expected": made}, function)[label]
                assert np.allclose(got, want, rtol=1e-11, atol=1e-13, equal_nan=True), case["name"]


def test_golden_covers_every_axis_and_what_makes_it_hard():
    """Forms x reference x temperature 0 x moved model; impossible and possible tokens at
    temperature 0, ties, gaps, lengths, both ends of the sigmoid; exact in bfloat16."""
    assert len({case["name"] for case in GOLDEN}) == len(GOLDEN) == 82
    for variant, level, exact in cases.FORMS:
        for axes in np.ndindex(2, 2, 2):
            words = [("noref", "ref"), ("warm", "zero"), ("frozen", "moved")]
            name = "-".join([variant, level, *["exact"] * exact,
                             *(pair[i] for pair, i in zip(words, axes))])
            assert name in {case["name"] for case in GOLDEN}
    impossible = possible = ties = 0
    for x, taus in ((case[s], case["temperatures"]) for case in GOLDEN for s in SIDES):
        for name in cases.LM:
            bits = x[name].astype(np.float32)
            assert (bits == x[name]).all() and not (bits.view(np.uint32) & 0xFFFF).any()
        zero = np.broadcast_to(np.take(taus, x["tau_idx"]) == 0, x["mask"].shape) & x["mask"]
        best = x["lm_logits"].argmax(-1) == x["tokens"]
        impossible, possible = impossible + (zero & ~best).sum(), possible + (zero & best).sum()
        tied = (x["lm_logits"] == x["lm_logits"].max(-1, keepdims=True)).sum(-1) > 1
        ties += (zero & tied).sum()
    assert min(impossible, possible, ties) >= 3
    losses = np.concatenate([case["expected"]["losses"] for case in GOLDEN])
    assert losses.min() < 1e-60 and losses.max() > 1000
    assert sum(map(cases.has_gaps, GOLDEN)) == 65


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


# ---- random and large cases --------------------------------------------------------------------

def test_fuzz_is_repeatable_of_one_shape_and_named_after_golden_cases():
    """Bugs: 214 shapes to compile; ties, for which no golden case of the kind stands."""
    some, again, other = (list(cases.fuzz(seed, 60)) for seed in (0, 0, 1))
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


def test_large_cases_are_large_and_hard():
    every = list(cases.large())
    assert [case["name"] for case in every] == cases.large_names() and len(every) == 12
    assert {case["chosen"]["lm_logits"].shape[1:] for case in every} == {(300, 61), (9, 50257)}
    for case in every:
        assert cases.is_large(case) and not cases.has_gaps(case)
        for x in (case[side] for side in SIDES):
            bits = x["lm_logits"].astype(np.float32).view(np.uint32).astype(np.int64)
            rounded = ((bits + 0x8000) & 0xFFFF0000).astype(np.uint32).view(np.float32)
            moved = (rounded.argmax(-1) != x["lm_logits"].argmax(-1)).any()
            assert moved == ("merged" in case["name"])  # a tie in bfloat16 only
    assert len(list(cases.large("bfloat16"))) == 10


# ---- the list of mistakes ----------------------------------------------------------------------

def test_every_known_mistake_changes_text_that_is_there():
    """Bug: a line of the key is rewritten and its mistakes silently never fit again."""
    text = mistakes.source("oracle") + mistakes.source("gpt2")
    assert len(mistakes.known()) > 100
    for mistake in mistakes.known():
        for right, wrong in mistake.changes:
            assert right in text and right != wrong, mistake.cause
        filled = mistake._replace(x=mistake.x or (mistake.bounds or (None,))[-1])
        assert filled.key().gpt2.forward  # it compiles


def test_a_mistake_of_the_list_in_patch_form_is_read(tmp_path):
    page = tmp_path / "some.txt"
    page.write_text("# a comment\n\none of {x} :: 2 4.5\n- a\n-   b\n+ c\n- d\n+ {x}\n\n"
                    "solved {x} :: 1e-3 to 2\n- a\n+ b\n", encoding="utf-8")
    two, four, solved = mistakes.known(page)
    assert two.changes == (("a\n  b", "c"), ("d", "{x}")) and (two.x, four.x) == (2, 4.5)
    assert str(two) == "one of 2" and solved.bounds == (1e-3, 2.0)


# ---- the folder --------------------------------------------------------------------------------

@pytest.mark.parametrize("path", [*FOLDER.glob("*.py")], ids=lambda path: path.name)
def test_the_key_imports_numpy_only(path):
    """It would share its bugs with what it checks."""
    tree, found = ast.parse(path.read_text(encoding="utf-8")), set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add(node.module)
    ours = {page.stem for page in FOLDER.glob("*.py")}
    assert found - ours - sys.stdlib_module_names <= {"numpy"}


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
