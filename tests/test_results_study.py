"""The study's plan, its cells on disk, its data and its claims: planted mistakes are caught."""
import json
import re
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from results import cells, claims, publish, study, tables
from results.methods import LEVEL, RULES
from results.plan import (LPO, MEMORY, QUICK, TUNING_SEED, Plan, Study, load, next_tries,
                          setting_of)
from results.tables import COARSE_WITHOUT, FIXED, ORACLE, WITH, WITHOUT, Data

SMALL = Study(**QUICK)

# --- the plan -------------------------------------------------------------------------------------


def searched(value, most=16, wide=1):
    values = {}
    while points := next_tries(values, most, wide):
        values |= {point: value(*point) for point in points}
    return values


@pytest.mark.parametrize("best", [(0, 0), (2, -2), (-3, 1)])
def test_a_search_ends_where_no_neighbour_is_better(best):
    """Bug: a recipe at the edge of its grid, as in most of version 0.2."""
    values = searched(lambda i, j: -abs(i - best[0]) - abs(j - best[1]), most=99)
    assert max(values, key=values.get) == best
    i, j = best
    assert {(i + 1, j), (i - 1, j), (i, j + 1), (i, j - 1)} <= set(values)


def test_a_search_has_limits():
    assert 16 <= len(searched(lambda i, j: i)) <= 19  # the last neighbours come together
    assert {j for _, j in searched(lambda i, j: -i * i, wide=0)} == {0}
    assert setting_of("beta", (1, -1)) == {"lr": 4e-3, "beta": pytest.approx(0.5 / 3)}
    assert setting_of("steps", (0, 1)) == {"lr": 2e-3, "steps": 40}


def full_plan(value=lambda cell: 0.0, **options):
    return Plan(replace(SMALL, brief=False, **options), value)


def test_what_is_tuned_is_tuned_on_validation_prompts_of_other_base_models():
    """Bugs: recipes picked on test prompts or on the base models that are reported."""
    asked = []
    found = full_plan(lambda cell: asked.append(cell) or 0.0, bases=10).found
    assert asked and {cell["split"] for cell in asked} == {"validation"}
    assert min(cell["base_seed"] for cell in asked) >= TUNING_SEED
    tests = [cell for cell in found.values() if cell["split"] == "test"]
    assert {cell["base_seed"] for cell in tests if cell["part"] == "main"} == set(range(10))


def test_rivals_have_the_tries_of_lpo_and_the_best_one_is_used():
    def value(cell):
        return 1.0 if cell["method"] == "REINFORCE" and cell["how"]["lr"] == 4e-3 else 0.0
    plan = full_plan(value, tries=9)
    tries = {name: len(values) for (name, _), values in plan.tried.items()}
    assert tries["latent"] == tries["separate"] == tries["REINFORCE"] == 9
    used = {cell["how"]["lr"] for cell in plan.found.values()
            if cell["method"] == "REINFORCE" and cell["split"] == "test"}
    assert used == {4e-3}


def test_what_depends_on_a_recipe_waits_for_it():
    names = {cell["method"] for cell in full_plan(lambda cell: None).found.values()
             if cell["split"] == "test"}
    assert FIXED.removeprefix("best ") in names and LPO not in names


# --- cells on disk --------------------------------------------------------------------------------


def test_a_run_keeps_what_is_finished_and_names_what_fails(tmp_path, monkeypatch, capsys):
    """A cell fails, another is computed with its base model; afterwards neither runs again. Bugs:
    one failure ends the run; a damaged or stale cell is used."""
    options = replace(SMALL, out=str(tmp_path), workers=2, pretrain_steps=2, pack=f"{tmp_path}/p_")
    good = full_plan(out=str(tmp_path), pretrain_steps=2).add("vote", "good", 0, {}, do="fixed")
    wrong = good | dict(how=good["how"] | dict(choices=["nonsense"]))
    of = {cells.name_of(cell): cell for cell in (good, wrong)}
    monkeypatch.setattr(study, "plan_of", lambda *_, **__: type("P", (), dict(found=of)))
    study.main(options)
    assert "nonsense" in capsys.readouterr().out
    record = load(tmp_path / cells.name_of(good))
    assert np.shape(record["rewards"]["0.4"]) == (6, 4) and record["cell"] == good
    assert list(study.ready(options).values()) == [wrong]
    assert (tmp_path / "p_1.zip").stat().st_size > 100_000
    (tmp_path / cells.name_of(good)).write_bytes(b"cut off")
    with pytest.raises(ValueError, match="damaged"):
        load(tmp_path / cells.name_of(good))


def test_only_one_clean_environment_is_published():
    def record(part, commit, torch="2"):
        return dict(cell=dict(part=part), environment=dict(commit=commit, torch=torch))
    assert publish.provenance([record("main", "abc"), record("modes", "def")])
    for wrong, message in (([record("main", "abc"), record("main", "abc", "3")], "2 environments"),
                           ([record("main", "abc-dirty")], "abc-dirty"),
                           ([record("main", None)], "None")):
        with pytest.raises(ValueError, match=message):
            publish.provenance(wrong)


def test_another_repositorys_commit_is_refused(monkeypatch):
    monkeypatch.setattr(study.files, "environment", lambda: dict(commit="aaaaaaaaaa"))
    assert study.environment_of(replace(SMALL, commit="aaaaaaaaaa"))["commit"] == "aaaaaaaaaa"
    with pytest.raises(ValueError, match="leave it out"):
        study.environment_of(replace(SMALL, commit="bbbbbbbbbb"))


def test_a_subtasks_prompts_keep_their_numbers():
    """Bug: three subtasks' prompts, each numbered from 0, averaged."""
    cell = dict(experiment="mix", part="main", method="m", level="sequence", mode=0.4, base_seed=0,
                seed=0, option="", subtask="")
    whole = publish.rewards_of(dict(cell=cell, rewards={"": [[1.0], [2], [3], [4], [5], [6]]}))
    whole = pd.concat(whole)
    names = list(dict.fromkeys(whole["subtask"]))
    parts = pd.concat([frame for i, name in enumerate(names) for frame in publish.rewards_of(
        dict(cell=cell | dict(subtask=name), rewards={"": [[2 * i + 1.0], [2 * i + 2]]}))])
    assert len(names) == 3 and parts.to_dict("list") == whole.to_dict("list")


# --- data -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Two base models, two prompts of the vote: rewards that can be worked out by hand."""
    folder = tmp_path_factory.mktemp("data")
    rewards = {("fixed temperature", "0"): [[0, 2], [0, 0]],
               ("fixed temperature", "1"): [[0, 0], [3, 5]],
               (LPO, ""): [[4, 4], [6, 6]], (MEMORY, ""): [[5, 5], [8, 8]],
               (ORACLE, ""): [[5, 5], [9, 9]]} | {(name, ""): [[1, 1], [1, 1]] for name in RULES}
    rewards["DRY", ""] = rewards["min-p, finer", ""] = [[2, 2], [2, 2]]
    rows = [dict(part="main", experiment="vote", method=method, level=LEVEL["vote"], mode=0.4,
                 base_seed=b, seed=seed, option=option, prompt=p, subtask="vote",
                 reward=values[b][p] + (seed - 0.5))
            for (method, option), values in rewards.items()
            for b in range(2) for p in range(2) for seed in range(2)]
    pd.DataFrame(rows).to_csv(folder / "study.csv.gz", index=False)
    numbers = [rows[0] | dict(metric="x", value=value, base_seed=value // 4, subtask=subtask)
               for value, subtask in ((1, ""), (3, ""), (5, ""), (7, ""), (99, "vote"))]
    pd.DataFrame(numbers).to_csv(folder / "study_numbers.csv.gz", index=False)
    (folder / "study.json").write_text(json.dumps({}), encoding="utf-8")
    return Data(folder)


def test_decoders_are_averaged_and_the_baseline_is_each_base_models_best(data):
    """Bug: one baseline for all base models, [[0, 1], [1.5, 2.5]] or so."""
    assert data.values("vote", LPO).tolist() == [[4, 4], [6, 6]]
    assert data.values("vote", FIXED).tolist() == [[0, 2], [3, 5]]
    assert data.best_rule("vote", WITH) == "DRY" and data.values("vote", WITH).mean() == 2
    assert data.best_rule("vote", WITHOUT) == "min-p, finer"
    assert data.values("vote", COARSE_WITHOUT).mean() == 1
    with pytest.raises(KeyError):
        data.values("vote", "unknown")


def test_a_number_of_base_models_whose_decoders_are_averaged(data):
    """1 and 3 on one, 5 and 7 on the other: means 2 and 6, variance 8 / 2. Bugs: each decoder taken
    for a base model, a subtask's number among those of the whole."""
    found = data.number("vote", "fixed temperature", "x", option="0")
    assert (found.mean, found.error, found.freedom) == (4, pytest.approx(2), 1)


def test_differences_are_paired_and_shares_are_of_the_headroom(data):
    """LPO's gains are 4 and 2 on one base model, 3 and 1 on the other: variances of 1 / 4 for the
    base models and of 2 / 2 for the prompts, and nothing is left. The oracle gains 4 and 5."""
    found = data.estimate("vote", LPO, FIXED)
    assert (found.mean, found.error ** 2) == pytest.approx((2.5, 1.25))
    assert data.estimate("vote", LPO, share=True).mean == pytest.approx(100 * 2.5 / 4.5)
    pairs = ("vote", LPO, FIXED), ("vote", MEMORY, WITH)
    ps = [p for _, p in tables.differences(data, pairs).values()]
    alone = [data.estimate(*pair).p for pair in pairs]
    assert max(ps) >= max(alone) and min(ps) == 2 * min(alone)


# --- claims ---------------------------------------------------------------------------------------


BEATS = "LPO beats the best fixed temperature by 2.5."


def beats(data):
    """LPO beats the best fixed temperature by {gain:.1f}."""
    gain = data.estimate("vote", LPO, FIXED).mean
    assert gain > 0
    return dict(gain=gain)


def loses(data):
    """LPO loses to the best rule."""
    assert data.estimate("vote", LPO, WITH).mean < 0


@pytest.mark.parametrize("text, fault", [
    (f"{BEATS} <!-- claim: beats -->", None),
    ("- **LPO beats the best fixed temperature\n  by 2.5.** <!-- claim: beats --> It ends.", None),
    ("A decoder reads hidden states. | not a table", None),
    ("LPO beats the best fixed temperature by 2.6. <!-- claim: beats -->", "another sentence"),
    ("LPO beats the best rule by 2.5. <!-- claim: beats -->", "another sentence"),
    ("LPO loses to the best rule. <!-- claim: loses -->", "false"),
    (BEATS, "no claim"),
    ("**A decoder reads hidden states.**", "no claim"),
    (f"It earns more. {BEATS} <!-- claim: beats -->", "no claim"),
    ("LPO ties with all. <!-- claim: ties -->", "unknown claim")])
def test_false_changed_and_unasserted_sentences_are_caught(data, text, fault):
    found = claims.faults(text, data, dict(beats=beats, loses=loses))
    kinds = [line.split(":")[0].removesuffix(" ties") for line in found]
    assert kinds == ([fault] if fault else [])


def test_a_section_is_found_and_definitions_are_left_out():
    page = "# A\nx\n## What comes out\ny\n## How to read\nz better\n"
    assert claims.section_of(page, "What comes out").strip() == "## What comes out\ny"
    assert "better" not in claims.section_of(page, None)
    with pytest.raises(ValueError, match="no section"):
        claims.section_of(page, "Nothing")


@pytest.mark.skipif(not (tables.HERE / "data/study.json").exists(), reason="nothing is published")
@pytest.mark.parametrize("page", claims.PAGES)
def test_all_that_the_pages_claim_holds(page):
    text = claims.section_of(page.read_text(encoding="utf-8"), claims.PAGES[page])
    assert claims.faults(text, Data()) == []


@pytest.mark.skipif(not (tables.HERE / "data/study.json").exists(), reason="nothing is published")
def test_the_tables_of_the_pages_are_those_of_the_data():
    data = Data()
    for page in tables.PAGES:
        text = page.read_text(encoding="utf-8")
        marks = {*re.findall(r"<!-- (\w+) -->", text)} - {"end"}
        assert tables.filled(text, {name: tables.made(name, data) for name in marks}) == text
