"""What surrounds the cases: large ones, marks, options, the schema, the exercise.

    pytest tests/test_kit.py
"""
import json
import sys
from pathlib import Path

import numpy as np
import pytest

FOLDER = Path(__file__).resolve().parents[1] / "conformance"
sys.path.append(str(FOLDER))
import check  # noqa: E402
import large  # noqa: E402
import make_golden  # noqa: E402
import marks  # noqa: E402
import mistakes  # noqa: E402
import oracle  # noqa: E402

CASES = make_golden.load()
ORACLE = str(FOLDER / "oracle.py")


def named(name):
    return next(case for case in CASES if case["name"] == name)


# ---- large cases -------------------------------------------------------------------------------

def plain_mixed(x):
    """The README's rule with Python's own integers."""
    x %= 2 ** 32
    x ^= x >> 16
    x = x * 2654435761 % 2 ** 32
    x ^= x >> 15
    x = x * 1640531527 % 2 ** 32
    return x ^ x >> 16


def test_numbers_are_the_rule_of_the_readme():
    """Row-major, entry i being mixed(i + mixed(stream)), past 2^32 too."""
    for stream in (0, 1, 77):
        got = large.numbers(stream, 3, 4)
        assert got.tolist() == [[plain_mixed(4 * i + j + plain_mixed(stream)) for j in range(4)]
                                for i in range(3)]
    assert int(large.mixed(2 ** 32 + 5)) == plain_mixed(5)


def test_the_numbers_are_even_and_the_streams_differ():
    """65,536 numbers in 64 bins of 1024 on average, chi-square with 63 degrees of freedom; above
    150 once in 5e9 for fair numbers, but these are always the same."""
    for stream in range(4):
        counts = np.bincount(large.numbers(stream, 65536) % 64, minlength=64)
        assert ((counts - 1024) ** 2 / 1024).sum() < 150
    assert len({tuple(large.numbers(stream, 8)) for stream in range(200)}) == 200


def test_numpy_answers_as_the_oracle_does(capsys):
    """The key of the large cases is the loops', on every golden case and 200 random ones."""
    cases = CASES + list(make_golden.fuzz_cases(7, 200))
    assert check.run(check.Here(large), cases, "float64") == 0
    assert "282 passed, 0 missed, 0 skipped" in capsys.readouterr().out


def test_large_cases_are_large_and_hard():
    """Sizes; both peaks are possible tokens; the merged peaks tie in bfloat16 alone; temperature 0
    is drawn; no response has a gap; the oracle agrees on a row that its loops can read."""
    cases = list(large.large_cases())
    assert [case["name"] for case in cases] == large.names() and len(cases) == 12
    sizes = {(case["chosen"]["lm_logits"].shape[1:], len(case["temperatures"])) for case in cases}
    assert sizes == {((300, 61), 16), ((9, 50257), 16)}
    for case in cases:
        assert large.is_large(case) and not marks.has_gaps(case)
        for x in (case[side] for side in check.SIDES):
            logits = x["lm_logits"]
            assert (logits == logits.astype(np.float32)).all()
            rounded = mistakes.bfloat16(logits)
            moved = (rounded.argmax(-1) != logits.argmax(-1)).any()
            assert moved == ("merged" in case["name"])
            if "merged" not in case["name"]:
                assert (rounded == logits).all()
                assert ((logits == logits.max(-1, keepdims=True)).sum(-1) == 2).mean() > 0.9
            at_best = np.take_along_axis(logits, x["tokens"][..., None], -1)[..., 0]
            assert ((at_best == logits.max(-1)) & (x["tokens"] != logits.argmax(-1))).any() or \
                "merged" in case["name"]
            assert case["level"] == "sequence" or (x["tau_idx"] == 0).sum() >= 3
    few = cases[0]
    row = oracle.responses(few, "rejected")[1]
    assert abs(oracle.joint_score(row) - few["expected"]["scores"]["rejected"][1]) < 1e-9
    assert [case["name"] for case in large.large_cases("bfloat16")] == [
        name for name in large.names() if "merged" not in name]


def test_bfloat16_by_hand():
    """8 bits: 1 + 1/128 stands, 1 + 1/256 is a tie that goes to the even 1, 1 + 3/256 to 1 + 1/64;
    4 + 1/128 is 4; signs are kept."""
    x = [1 + 1 / 128, 1 + 1 / 256, 1 + 3 / 256, 4 + 1 / 128, -1.5, 0]
    assert mistakes.bfloat16(x).tolist() == [1 + 1 / 128, 1, 1 + 1 / 64, 4, -1.5, 0]


# ---- marks -------------------------------------------------------------------------------------

@pytest.mark.parametrize("rows, gaps", [
    ([[1, 1, 1], [1, 0, 0]], False), ([[1, 1, 0], [1, 0, 1]], True),
    ([[0, 1, 1], [1, 1, 1]], True)])
def test_gaps_by_hand(rows, gaps):
    """A hole, or a start behind column 0, in any row of either side."""
    full = {"mask": np.ones((2, 3), bool)}
    for case in ({"chosen": {"mask": np.array(rows, bool)}, "rejected": full},
                 {"chosen": full, "rejected": {"mask": np.array(rows, bool)}}):
        assert marks.has_gaps(case) == gaps


@pytest.mark.parametrize("name, words", [
    ("separate-token-noref-warm-frozen", "equation"),
    ("joint-sequence-ref-warm-moved", "convention: decoder reference"),
    ("latent-token-ref-warm-moved", "equation"),
    ("latent-token-noref-warm-moved", "convention: uniform reference"),
    ("latent-sequence-ref-warm-moved", "convention: sum over tokens"),
    ("latent-sequence-exact-ref-warm-moved", "convention: exact marginal"),
    ("joint-token-ties", "convention: temperature 0, ties, dead tokens"),
    ("latent-token-k-1-greedy", "convention: temperature 0, dead tokens, uniform reference"),
    ("nll-token", "convention: temperature 0"),
    ("nll-token-ref-ignored", "convention: temperature 0, reference ignored")])
def test_marks_of_some(name, words):
    assert marks.marks(named(name)).removeprefix("gaps; ") == words


def test_dead_tokens_are_those_whose_score_is_minus_infinity_without_the_convention():
    """Counted a second time, from the oracle's loops."""
    for case in CASES:
        lost = False
        for r in (r for side in check.SIDES for r in oracle.responses(case, side)):
            for t in r.positions():
                if case["variant"] == "joint":
                    lost |= not oracle.possible(*oracle.drawn_text_logps(r, t))
                if case["variant"] == "latent" and not case["exact_sequence"]:
                    terms = oracle.latent_terms(r, [t], r.column(t))
                    lost |= not oracle.possible(*map(oracle.log_sum_exp, terms))
            if case["exact_sequence"]:
                terms = oracle.latent_terms(r, r.positions(), 0)
                lost |= not oracle.possible(*map(oracle.log_sum_exp, terms))
        assert ("dead tokens" in marks.conventions(case)) == lost, case["name"]


# ---- options -----------------------------------------------------------------------------------

def lines_of(capsys, *arguments):
    status = check.main([*map(str, arguments)])
    return status, capsys.readouterr().out.splitlines()


def ran(lines):
    return [line.split()[1] for line in lines if line[:4] in ("pass", "MISS", "skip")]


def test_no_gaps(capsys):
    """65 of the 82 golden cases go; what is left are runs from column 0 on."""
    status, lines = lines_of(capsys, ORACLE, "--no-gaps")
    assert status == 0 and len(ran(lines)) == 17 and "left out: 65 by --no-gaps" in lines
    for name in ran(lines):
        for side in check.SIDES:
            for row in named(name)[side]["mask"]:
                assert row.tolist() == (np.arange(len(row)) < row.sum()).tolist()


def test_only(capsys):
    for pattern, wanted in [("exact", lambda n: "exact" in n), ("nll-token", lambda n:
                            n.startswith("nll-token")), ("joint*zero", lambda n: "joint" in n and
                                                         "zero" in n)]:
        status, lines = lines_of(capsys, ORACLE, "--only", pattern)
        assert status == 0 and ran(lines) == [c["name"] for c in CASES if wanted(c["name"])]
    status, lines = lines_of(capsys, ORACLE, "--only", "no-such-case")
    assert status == 2 and "left out: 82 by --only" in lines


def test_skip_file(capsys, tmp_path):
    """Our own MISS lines are a skip file, and the next run is green; a name that is none is not."""
    path = tmp_path / "theirs.py"
    path.write_text(f"import sys; sys.path.append({str(FOLDER)!r})\nimport oracle\n"
                    "def loss(case):\n    return oracle.loss(case) + (case['level'] == 'token')\n",
                    encoding="utf-8")
    status, lines = lines_of(capsys, path)
    missed = [line for line in lines if line.startswith("MISS")]
    tokens = sum(case["level"] == "token" for case in CASES)
    assert status == 1 and len(missed) == tokens
    known = tmp_path / "known.txt"
    known.write_text("\n".join(["# today", *missed[:-1], "", missed[-1].split()[1] + "  # too"]),
                     encoding="utf-8")
    status, lines = lines_of(capsys, path, "--skip", known)
    assert status == 0 and f"left out: {tokens} by --skip" in lines
    for text in ("joint-token-nosuch\n", None):
        known.write_text(text, encoding="utf-8") if text else known.unlink()
        with pytest.raises(SystemExit) as end:
            check.main([str(path), "--skip", str(known)])
        assert end.value.code == 2


def test_large_option(capsys):
    status, lines = lines_of(capsys, FOLDER / "large.py", "--large", "--only", "large-tokens-sep")
    assert status == 0
    assert ran(lines) == ["large-tokens-separate-token", "large-tokens-separate-sequence"]


# ---- words about what is wrong -----------------------------------------------------------------

def test_one_factor_needs_two_entries_and_says_the_direction():
    """1, 2, 3 against half, twice and minus; one entry, or a zero that is not one, says nothing."""
    want = np.array([1.0, 2.0, 0.0, -3.0])
    assert mistakes.multiple(want / 2, want) == "0.5 times what it should be: too small"
    assert mistakes.multiple(want * 2, want) == "2 times what it should be: too large"
    assert mistakes.multiple(-want, want) == "-1 times what it should be: the sign is turned"
    assert mistakes.multiple(np.array([2.0, 0]), np.array([1.0, 0])) is None
    assert mistakes.multiple(np.array([2.0, 4, 1]), np.array([1.0, 2, 0])) is None
    assert mistakes.multiple(np.array([2.0, 5]), np.array([1.0, 2])) is None
    assert mistakes.multiple(want * (1 + 1e-6), want) is None


def test_minus_infinity_is_said_only_if_the_rest_is_right():
    inf = np.inf
    got, want = np.array([-1e9, -1.0, -2.0]), np.array([-inf, -1.0, -2.0])
    assert mistakes.relation("temperature_logps", got, want, 1e-9, 3).startswith("-inf expected")
    assert mistakes.relation("temperature_logps", got + [0, 1, 2.5], want, 1e-9, 3) is None
    doubled = mistakes.relation("temperature_logps", got * 2, want, 1e-9, 3)
    assert doubled == "2 times what it should be: too large"


@pytest.mark.filterwarnings("ignore")
def test_whatever_is_wrong_is_explained_or_not_but_never_a_crash(capsys):
    """Infinite, NaN, huge, and of the wrong shape beside a wrong number; random cases of 1 token, 1
    temperature, 1 pair too."""
    class Theirs:
        functions, ended = list(check.FUNCTIONS), None

        def __init__(self):
            self.calls = 0

        def ask(self, function, case):
            self.calls += 1
            what = check.given(oracle, function, case)
            for i, label in enumerate(what):
                bad = [np.inf, -np.inf, np.nan, 1e300, 0.0, 7.0][(self.calls + i) % 6]
                what[label] = np.full(what[label].shape, bad)
                if self.calls % 5 == 0 and i:
                    what[label] = np.zeros((1, 1, 1, 1))
            return "gave", what
    cases = CASES[::9] + list(make_golden.fuzz_cases(11, 12))
    assert check.run(Theirs(), cases, "float64") == 1
    assert f"0 passed, {len(cases)} missed" in capsys.readouterr().out


def test_a_missing_gradient_is_named_by_what_lacks_it():
    want = {f"{side}.{name}": np.array([1.0, -1.0]) for side in check.SIDES
            for name in ("decoder_logits", "lm_logits")}

    def lost(*labels):
        got = {label: x * (label not in labels) for label, x in want.items()}
        return mistakes.missing_gradient(got, want, 1e-9)
    assert lost("chosen.lm_logits", "rejected.lm_logits").startswith(
        "no gradient reaches lm_logits:")
    assert lost("rejected.lm_logits", "rejected.decoder_logits").startswith(
        "no gradient reaches rejected:")
    assert lost(*want).startswith("no gradient reaches decoder_logits and lm_logits:")
    assert lost() is None and lost("chosen.lm_logits") is None
    wrong = {label: 2 * x for label, x in want.items()}
    assert mistakes.missing_gradient({**wrong, "chosen.lm_logits": np.zeros(2)}, want, 1e-9) is None


def test_verdicts():
    """By which functions are right: where to look."""
    text, score, loss, gradients = check.FUNCTIONS
    everything = list(check.FUNCTIONS)
    assert check.verdict(everything, {text: 3, score: 3}, {text: 0, score: 0, loss: 0,
                                                           gradients: 0}) == []
    for wrong, words in [({text: 1}, "temperature_logps wrong: look at the division"),
                         ({score: 1}, "temperature_logps right, score wrong: look at the mask"),
                         ({loss: 1}, "temperature_logps, score right, loss wrong: look at beta")]:
        right = {name: 3 for name in everything}
        line, = check.verdict(everything, right, {**dict.fromkeys(everything, 0), **wrong})
        assert line.startswith(f"verdict: {words}")


# ---- the schema --------------------------------------------------------------------------------

def golden_and_schema():
    pages = make_golden.GOLDEN, FOLDER / "golden.schema.json"
    return [json.loads(page.read_text(encoding="utf-8")) for page in pages]


def test_the_schema_names_the_fields_and_the_version():
    golden, schema = golden_and_schema()
    assert schema["properties"]["schema"]["const"] == make_golden.SCHEMA == golden["schema"]
    case, defs = golden["cases"][0], schema["$defs"]
    for what, fields in [("case", case), ("side", case["chosen"]), ("expected", case["expected"])]:
        assert set(defs[what]["required"]) == set(defs[what]["properties"]) == set(fields)


def test_golden_fits_the_schema_and_spoilt_ones_do_not():
    jsonschema = pytest.importorskip("jsonschema")
    golden, schema = golden_and_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    validator = jsonschema.Draft202012Validator(schema)
    validator.validate(golden)
    first = json.dumps(golden["cases"][0])
    for old, new in [('"level": "token"', '"level": "word"'), ('"beta": 0.25', '"beta": 0'),
                     ('"exact_sequence": false', '"exact_sequence": true'),
                     ('"name"', '"nom"'), ('"mask": [[1, 0, 0]', '"mask": [[0, 0, 0]'),
                     ('"scores": {', '"scores": null, "other": {'),
                     ('"variant": "joint"', '"variant": "nll"'), ("[[-2, 0,", '[["-inf", 0,')]:
        assert old in first, old
        spoilt = {"schema": 1, "cases": [json.loads(first.replace(old, new, 1))]}
        assert not validator.is_valid(spoilt), old


# ---- the exercise ------------------------------------------------------------------------------

def test_the_exercise_starts_with_nothing_and_counts_what_is_done(tmp_path, capsys):
    """Untouched: status 2 and four functions not implemented. With one of the scores written, its
    cases count for score, of which 79 have one."""
    source = (FOLDER / "exercises" / "losses.py").read_text(encoding="utf-8")
    status, lines = lines_of(capsys, FOLDER / "exercises" / "losses.py")
    assert status == 2 and sum("skipped, not implemented" in line for line in lines) == 4
    done = f"""
import sys; sys.path.append({str(FOLDER)!r})
import oracle
def separate_score(case, response):
    side = "chosen" if response is case["chosen"] else "rejected"
    return oracle.score(case, side)
SCORES["separate"] = separate_score
"""
    page = tmp_path / "losses.py"
    page.write_text(source + done, encoding="utf-8")
    status, lines = lines_of(capsys, page)
    n = sum(case["variant"] == "separate" for case in CASES)
    mark, = [line for line in lines if line.startswith("score: ")]
    assert status == 0 and mark.endswith(f"({n} right of {n}, {79 - n} skipped)")
