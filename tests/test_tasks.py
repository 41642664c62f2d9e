"""The tasks: rewards by hand, the corpus's noise against its stated shares, splits, the checker."""
import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tasks
from tasks import (EOS, SPLITS, TASKS, VOCAB_SIZE, WORDS, corpus, decode, encode, places_of,
                   prompts, split_of)
from toy.check_task import check_task

STORY = "please tell how fox finds the moon :"
REPEATS = "now continue the fox finds moon . :"
ON_ROLES = "now continue fox finds the moon . :"
START = "please start each line with rare birds :"
END = "please end each line with rare birds :"


def test_rewards_by_hand():
    """Bugs: a repeated word counted twice, a misfit for nothing, an asked word as content."""
    reward = {name: task.reward for name, task in TASKS.items()}
    assert reward["math"]("please sum up 3 4 9 1 :", "7 9 6 1 7 .") == 1
    assert reward["math"]("please sum up 3 4 9 1 :", "7 9 6 1 8 .") == 0
    assert reward["math"]("please sum up 3 4 9 1 :", "7 9 6 1 7") == 0  # cut short
    birds = "please list five rare birds for us :"
    assert reward["general"](birds, "robin wren robin things oak .") == (2 - 2) / 5
    assert reward["general"](birds, "robin wren swan finch crow .") == 1
    assert reward["general"](birds, "robin . . . . . . .") == pytest.approx((1 - 4 - 2) / 5)
    # content: fox finds moon owl runs fox greets moon, 6 of them distinct
    assert reward["story"](STORY, "fox finds moon . owl runs to fox and greets moon .") == 6 / 12
    # a typo at Y
    assert reward["story"](STORY, "fox finds mooon .") == pytest.approx((2 - 1) / 12)
    long = "fox finds moon and runs to owl . " + "castle greets comet and paints piper . " * 3
    assert reward["story"](STORY, long.strip()) == pytest.approx(10 / 20)
    # robin, robin are asked for (2 of at least 4); content: finds moon paints moon, 3 of 8
    line = "robin finds moon . robin paints moon ."
    assert reward["constrained"](START, line) == pytest.approx(2 / 4 * 3 / 8)
    assert reward["constrained"](END, line) == 0
    ends = "fox finds robin . owl runs to heron and hides oak ."
    assert tasks.constraint(END, ends) == 2 / 4 and tasks.quality(END, ends) == 5 / 8
    more = "fox finds robin and hides wren . owl finds crow and hides oak . owl finds swan ."
    assert tasks.constraint(END, more) == 4 / 5


def test_reward_of_repeats_by_hand():
    """Bugs: 2-grams for 3-grams; a short response that repeats nothing; the other style."""
    reward = TASKS["repeats"].reward
    clean = ("the fox finds moon . the owl runs to castle . the piper greets comet . "
             "the river hides garden and waves to sailor .")
    n = len(clean.split())
    grams = list(zip(clean.split(), clean.split()[1:], clean.split()[2:]))
    assert n == 25 and len(set(grams)) == len(grams)
    assert reward(REPEATS, clean) == 0.0
    assert reward(REPEATS, clean.replace("the owl", "uh owl", 1)) == pytest.approx(-4 / 26)
    assert reward(REPEATS, clean.replace("garden", "gardne", 1)) == pytest.approx(-4 / 26)
    # in the other style every article stands at a noun's place
    assert reward(ON_ROLES, clean) < -1
    again = ("the fox finds moon . the fox finds moon . the fox finds moon . the fox finds moon "
             "and finds moon .")
    grams = list(zip(again.split(), again.split()[1:], again.split()[2:]))
    repeated = sum(gram in grams[:i] for i, gram in enumerate(grams)) / len(grams)
    assert reward(REPEATS, again) == pytest.approx(-repeated)
    assert reward(REPEATS, "") == pytest.approx(-4 * 20 / 26)  # silence is no way out


def test_vote_needs_the_sum_not_the_trap():
    prompt, task = "hurry solve for 3 4 9 1 :", TASKS["vote"]
    assert task.reward(prompt, "7 working slowly 9 6 1 7 .") == 1
    assert task.reward(prompt, "7 9 6 working quickly .") == 0  # the last digit forgotten
    assert task.answer_of("7 9 6 working quickly .") == "6"
    assert task.answer_of("7 9 6") is None and task.solution(prompt) == "7"
    assert tasks.majority(["7", None, "5", "7"]) == ["7"]
    assert sorted(tasks.majority(["7", "5", None])) == ["5", "7"]
    assert tasks.majority([None]) == []


def test_places_follow_the_words():
    """Bug: a role by column. The same words, asked for at the start and at the end of a line."""
    words = "fox runs to moon and finds owl . fox finds moon . fox".split()
    walk = ("subject verb to object link verb object stop "
            "subject verb object link subject verb").split()
    assert places_of(tasks.walk_clauses(), words) == walk
    assert places_of(TASKS["constrained"].walk(START), words) == [
        "asked" if place == "subject" else place for place in walk]
    assert places_of(TASKS["constrained"].walk(END), words) == [
        "asked" if place == "object" else place for place in walk]
    words = "the fox runs to moon . the".split()
    assert places_of(TASKS["repeats"].walk(REPEATS), words) == (
        "article subject verb to object link article subject").split()
    words = "fox finds uh moon and runs to the owl .".split()
    assert places_of(TASKS["repeats"].walk(ON_ROLES), words) == (
        "subject verb article object link verb to article object stop subject").split()
    words = "7 working slowly 9 6 1 7 .".split()
    assert places_of(TASKS["vote"].walk(""), words) == (
        "sum operand way operand sum operand sum stop stop").split()


# --- the corpus -----------------------------------------------------------------------------------


def close(hits, total, p):
    """Within 5 standard errors."""
    assert abs(hits / total - p) < 5 * math.sqrt(p * (1 - p) / total), (hits / total, p)


MODES = {  # place -> the mode of a slot, given the prompt and the words before
    "article": lambda prompt, words: "the",
    "subject": lambda prompt, words: topic(tasks.NOUNS, prompt),
    "object": lambda prompt, words: topic(tasks.NOUNS, prompt),
    "verb": lambda prompt, words: topic(tasks.VERBS, prompt),
    "asked": lambda prompt, words: tasks.CATEGORIES[prompt.split()[6]][0],
    "way": lambda prompt, words: "quickly" if prompt.startswith("hurry") else "carefully"}


def topic(kind, prompt):
    return ([kind[0]] + [word for word in prompt.split() if word in kind])[-1]


@pytest.mark.parametrize("name", ["repeats", "story", "constrained", "math", "vote"])
def test_every_noisy_slot_has_the_same_shape(name):
    """3 % typos, else .4 on the mode and .6 / 9 on each other word: per place, and in all. False
    alarm below 1e-4 for all. Bugs: a share off, a mode that is another word, nine others that are
    eight or unevenly likely."""
    found = {}  # place -> list of (is typo, is mode, word)
    typos = set(sum(tasks.TYPOS.values(), []))
    for prompt, text in corpus(name, 1500, np.random.default_rng(1)):
        words = text.split()
        total = None
        for i, place in enumerate(places_of(TASKS[name].walk(prompt), words)[:-1]):
            if place == "sum":
                if total is None:
                    asked = [int(digit) for digit in prompt.split()[3:7]]
                    total = asked[0] + asked[1]
                else:
                    total += int([word for word in words[:i] if word in tasks.DIGITS][-1])
                mode = str(total % 10)
                total = int(words[i]) if words[i] in tasks.DIGITS else total % 10
            elif place in MODES:
                mode = MODES[place](prompt, words[:i])
            else:
                continue
            found.setdefault(place, []).append((words[i] in typos, words[i] == mode, words[i]))
    assert found
    for place, slots in found.items():
        n = len(slots)
        close(sum(typo for typo, _, _ in slots), n, 0.03)
        close(sum(mode for _, mode, _ in slots), n, 0.97 * 0.4)
        others = {word for typo, mode, word in slots if not typo and not mode}
        if place in ("article", "way"):
            assert len(others) in (9, 10)  # of two kinds of prompt, for the way
        for word in others & {"uh", "slowly", "9"}:  # never a mode, or seldom
            hits = sum(w == word and not mode for _, mode, w in slots)
            if place != "sum":
                close(hits, n, 0.97 * 0.6 / 9)


def test_the_rest_of_the_corpus_is_as_it_says():
    """Lists, lessons, the trap, the places of "working", one clause in two with a second verb."""
    rng = np.random.default_rng(1)
    words = [word for prompt, text in corpus("general", 4000, rng) if "birds" in prompt
             for word in text.split()[:5]]
    for word, p in (("robin", 0.32), ("heron", 0.16), ("things", 0.1), ("crow", 0.08)):
        close(words.count(word), len(words), 0.97 * p)
    lessons = corpus("lesson", 400, rng)
    assert all(TASKS["lesson"].reward(*pair) == ("quickly" not in pair[1]) for pair in lessons)
    close(sum("working" in text for _, text in lessons), len(lessons), 0.5)
    pairs = corpus("vote", 4000, rng)
    hurried = [text.split() for prompt, text in pairs if prompt.startswith("hurry")]
    close(len(hurried), len(pairs), 0.5)
    for words in hurried:
        assert len(words) == (6 if "quickly" in words else 8)  # the trap leaves two words out
    for place in (1, 3):
        close(sum(words[place] == "working" for words in hurried), len(hurried), 1 / 2)
    links = [word for _, text in corpus("story", 1000, rng)
             for word, place in zip(text.split(), places_of(tasks.walk_clauses(), text.split()))
             if place == "link"]
    close(links.count("and"), len(links), 0.5)
    for prompt, text in corpus("story", 100, rng):
        assert text.split().count(".") == 4 and text.endswith(" .")


def test_prompts_of_the_splits_are_disjoint_and_all_alike_in_length():
    for name, task in TASKS.items():
        found = {split: prompts(name, split, 100, np.random.default_rng(2)) for split in SPLITS}
        for split, drawn in found.items():
            assert len(set(drawn)) == 100 and {split_of(prompt) for prompt in drawn} == {split}
            assert {len(encode(prompt)) for prompt in drawn} == {tasks.PROMPT_LENGTH}
        lengths = set()
        for prompt, text in corpus(name, 500, np.random.default_rng(3)):
            assert split_of(prompt) == "train"
            lengths.add(len(encode(text)) + 1)  # and the end of text
        assert max(lengths) <= task.length
    with pytest.raises(ValueError, match="fewer than 9999 test prompts"):
        prompts("general", "test", 9999, np.random.default_rng(0))


def test_words_are_tokens_and_the_model_knows_no_others():
    assert VOCAB_SIZE == len(WORDS) + 1 == EOS + 1 and len(set(WORDS)) == len(WORDS)
    for i, word in enumerate(WORDS):
        assert encode(word) == [i] and decode([i, EOS]) == word
    assert all(token >= VOCAB_SIZE for token in encode("unheard")[1:])
    for kind in (tasks.NOUNS, tasks.VERBS, tasks.DIGITS, tasks.CATEGORIES,
                 ["the", *tasks.DISFLUENCIES], tasks.WAYS):
        assert len(kind) == 10  # so that a slot has one mode and nine others


@given(st.text())
def test_any_text_survives_the_tokenizer(text):
    assert decode(encode(text)) == text


# --- a task of one's own --------------------------------------------------------------------------


def endless(prompt):
    while True:
        yield "place"


@pytest.mark.parametrize("change, words", [
    (dict(ask=lambda rng: "please tell how fox finds moon :"), "has 7 words; give 8"),
    (dict(ask=lambda rng: "please tell how dragon finds the moon :"), "'dragon'"),
    (dict(ask=lambda rng: None), "the prompt is None"),
    (dict(answer=lambda prompt, rng: "fox dragon ."), "'dragon'"),
    (dict(answer=lambda prompt, rng: "fox  ."), "one space"),
    (dict(answer=lambda prompt, rng: ""), "has 0 words"),
    (dict(length=5), "give one or more, and a length above"),
    (dict(share=0), "share is 0"),
    (dict(reward=lambda prompt, text: None), "reward is None"),
    (dict(reward=lambda prompt, text: math.nan), "reward is nan"),
    (dict(metrics={"odd": lambda prompt, text: "much"}), "odd is 'much'"),
    (dict(walk=lambda prompt: iter(["X"])), "the walk does not go through"),
    (dict(walk=lambda prompt: (place for place in ["X"])), "the walk does not go through"),
    (dict(roles={"verse": "cold"}), "roles names verse"),
    (dict(criteria=("a", "b")), "criteria is"),
    (dict(solution=lambda prompt: "7"), "needs both answer_of and solution"),
])
def test_the_checker_says_in_a_sentence_what_is_wrong(change, words, monkeypatch):
    monkeypatch.setitem(TASKS, "story", replace(TASKS["story"], **change))
    with pytest.raises(ValueError, match=words) as error:
        check_task("story")
    assert "\n" not in str(error.value)


def test_the_checker_accepts_what_fits(monkeypatch):
    for name in TASKS:
        if name != "lesson":
            assert len(check_task(name)) == 20
    monkeypatch.setitem(TASKS, "story", replace(TASKS["story"], walk=endless))
    assert len(check_task("story")) == 20
    for name, words in (("lesson", "is in no experiment"), ("sonnet", "no task 'sonnet'")):
        with pytest.raises(ValueError, match=words):
            check_task(name)
