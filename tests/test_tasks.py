"""The tasks: rewards by hand, the corpus by its random numbers and its grammar, splits, checker."""
import math
import re
from binascii import crc32
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

import tasks
from conftest import as_program, program
from tasks import EOS, SPLITS, TASKS, VOCAB_SIZE, WORDS, decode, encode, places_of, split_of
from toy.check_task import check_task
from toy.models import batches

STORY = "please tell how fox finds the moon :"
REPEATS = "now continue the fox finds moon . :"
ON_OBJECTS = "now continue fox finds the moon . :"
START = "please start each line with rare birds :"
END = "please end each line with rare birds :"
BIRDS = "please list five rare birds for us :"
SUM, HURRY = "please sum up 3 4 9 1 :", "hurry solve for 3 4 9 1 :"
TWELVE = "fox finds moon . owl paints castle . piper greets comet . river hides garden ."
NINE = ("robin finds moon and paints owl . wren hides castle and greets piper . swan finds comet")


@pytest.mark.parametrize("name, prompt, text, reward", [
    ("math", SUM, "7 9 6 1 7 .", 1), ("math", SUM, "7 9 6 1 8 .", 0), ("math", SUM, "7 9 6 1 7", 0),
    ("math", SUM, "", 0), ("vote", HURRY, "7 working slowly 9 6 1 7 .", 1),
    ("vote", HURRY, "7 9 6 working quickly .", 0),  # the trap leaves out the last digit
    ("general", BIRDS, "robin wren robin things oak .", (2 - 2) / 5),
    ("general", BIRDS, "robin wren swan finch crow .", 1), ("general", BIRDS, "", 0),
    ("general", BIRDS, "robin . . . . . . .", (1 - 4 - 2) / 5),
    ("general", BIRDS, "robin robin wren wren swan heron", 3 / 5),  # five words count
    ("general", BIRDS, "robin wren swan finch crow oak", 1),  # in the place of the full stop
    ("general", BIRDS, "robin wren swan finch crow . .", 4 / 5),
    ("story", STORY, "fox finds moon . owl runs to fox and greets moon .", 6 / 12),
    ("story", STORY, "fox finds mooon .", (2 - 1) / 12), ("story", STORY, "", 0),
    ("story", STORY, "uh uh uh", -3 / 12), ("story", STORY, TWELVE, 12 / 12),
    ("story", STORY, TWELVE.replace("garden", "gardne and sings to sailor"), (13 - 1) / 14),
    ("constrained", START, "robin finds moon . robin paints moon .", 2 / 4 * 3 / 8),
    ("constrained", END, "robin finds moon . robin paints moon .", 0),
    ("constrained", END, "fox finds robin . owl runs to heron and hides oak .", 2 / 4 * 5 / 8),
    ("constrained", START, "robin uh uh uh", 0),  # quality is not below 0
    ("constrained", START, NINE, 3 / 4 * 9 / 10)])
def test_rewards_by_hand(name, prompt, text, reward):
    """Bugs: a repeated word that counts twice, a wrong word for nothing, a required word as
    content, another least denominator, silence that pays, words after the end that are free."""
    assert TASKS[name].reward(prompt, text) == pytest.approx(reward)


def test_parts_of_rewards_by_hand():
    more = "fox finds robin and hides wren . owl finds crow and hides oak . owl finds swan ."
    assert tasks.constraint(END, more) == 4 / 5 and tasks.constraint(START, "") == 0
    assert tasks.quality(START, "oak finds uh and paints owl .") == (3 - 1) / 8
    assert tasks.category_of("now end this row with fine hats :") == "hats"
    for text, answer in (("", None), (".", None), ("7", None), ("7.", None), ("7 .", "7"),
                         ("7 8 fox .", "8"), ("0o .", None), ("7 . 8", None), ("7 . 8 .", "8")):
        assert tasks.final_answer(text) == answer, text
    assert tasks.solution(SUM) == "7" and tasks.solution("please sum up 9 9 9 3 :") == "0"
    for answers, winners in (([], []), ([None], []), (["7", None, "5", "7"], ["7"]),
                             (["7", "5", None], ["7", "5"])):
        assert tasks.majority(answers) == winners


def test_the_reward_of_repeats_by_hand():
    """Up to 20 missing words count; 26 is the least denominator. Bugs: 2-grams for 3-grams, a short
    response that repeats nothing, the style of the other prompt."""
    reward = TASKS["repeats"].reward
    twenty = ("the fox finds moon . the owl paints castle . the piper greets comet . "
              "the river hides garden .")
    on_objects = ("fox finds the moon . owl paints the castle . piper greets the comet . "
                  "river hides the garden .")
    assert reward(REPEATS, twenty) == 0 and reward(ON_OBJECTS, on_objects) == 0
    assert reward(REPEATS, on_objects) < -1 and reward(ON_OBJECTS, twenty) < -1
    assert reward(REPEATS, twenty.removesuffix(" .")) == pytest.approx(-4 / 26)
    assert reward(REPEATS, "") == pytest.approx(-4 * 20 / 26)
    long = twenty + " the sailor sings to lantern and hides fox . the moon"  # 31 words
    assert reward(REPEATS, long) == 0
    assert reward(REPEATS, long.replace("sailor", "uh")) == pytest.approx(-4 / 31)
    again = "the fox finds moon . " * 4 + "the fox"
    assert reward(REPEATS, again) == pytest.approx(-15 / 20)
    for text, share in (("", 0), ("fox finds moon", 0), ("fox finds moon fox finds moon", 1 / 4),
                        ("fox fox fox fox fox", 2 / 3)):
        assert tasks.repeated_3grams(text) == pytest.approx(share)


def test_places_follow_the_words():
    """Bug: a role by column. The same words, required at the start and at the end of a line."""
    words = "fox runs to moon and finds owl . fox finds moon . fox".split()
    walk = ("subject verb to object link verb object stop "
            "subject verb object link subject verb").split()
    assert places_of(tasks.walk_clauses(), words) == walk
    for prompt, noun in ((START, "subject"), (END, "object")):
        assert places_of(TASKS["constrained"].walk(prompt), words) == [
            "required" if place == noun else place for place in walk]
    assert places_of(TASKS["repeats"].walk(REPEATS), "the fox runs to moon . the".split()) == (
        "article subject verb to object link article subject").split()
    assert places_of(TASKS["repeats"].walk(ON_OBJECTS), "fox finds uh moon and runs".split()) == (
        "subject verb article object link verb to").split()
    assert places_of(TASKS["vote"].walk(""), "7 working slowly 9 6 1 7 .".split()) == (
        "sum operand way operand sum operand sum stop stop").split()


def test_what_the_tasks_are():
    """The longest text by the grammar, and an end. Bugs: a length that cuts it, a role of another
    place, criteria in the other order."""
    clause = len("fox runs to moon and sings to owl .".split())
    longest = dict(repeats=4 * (clause + 2), story=4 * clause, constrained=4 * clause, math=6,
                   general=6, vote=8, lesson=8)
    assert {name: task.length for name, task in TASKS.items()} == {
        name: n + 1 for name, n in longest.items()}
    assert {name: task.roles for name, task in TASKS.items() if task.roles} == dict(
        repeats={"article": "article"}, constrained={"required": "required"}, vote={"way": "way"})
    assert TASKS["math"].role_of("way") == "rest" and TASKS["vote"].role_of("way") == "way"
    assert TASKS["constrained"].criteria == ("constraint", "quality")
    assert {name for name, task in TASKS.items() if task.answer_of and task.solution} == {"vote"}
    assert list(TASKS["repeats"].metrics) == ["repeats"]
    assert len(set(WORDS)) == len(WORDS) == EOS == VOCAB_SIZE - 1
    for kind in (tasks.NOUNS, tasks.VERBS, tasks.DIGITS, tasks.CATEGORIES, tasks.WAYS,
                 ["the", *tasks.DISFLUENCIES]):
        assert len(kind) == 10  # so that a slot has one mode and nine others


# --- the writers, by the random numbers that they take --------------------------------------------


class Script:
    """A generator whose numbers are given; `odds` are those of its last choice."""

    def __init__(self, *numbers):
        self.numbers = list(numbers)

    def random(self):
        assert self.numbers, "more numbers are taken"
        return self.numbers.pop(0)

    def choice(self, words, p):
        self.odds = dict(zip(words, p))
        return words[0]


def scripted(write, *given, numbers):
    rng = Script(*numbers)
    text = write(*given, rng)
    assert not rng.numbers, "numbers are left"
    return text


TYPO, MODE, OTHER = [0.0299, 0.0], [0.03, 0.3999], [0.03, 0.4, 0.0]  # a slot's numbers
LINE = MODE * 3 + [0.5]


@pytest.mark.parametrize("numbers, word", [
    ([0.0299, 0.0], "carefuly"), ([0.0, 0.99], "calmyl"), (MODE, "b"), ([0.99, 0.0], "b"),
    (OTHER, "a"), ([0.5, 0.4, 0.4999], "a"), ([0.5, 0.99, 0.5], "c"), ([0.5, 0.99, 0.99], "c")])
def test_a_slot(numbers, word):
    """Every noisy place has the same shape: 3 % typos, else 0.4 for the mode, else another. Bugs:
    another share; the mode among the others; a typo of another kind."""
    assert scripted(tasks.slot, "b", ["a", "b", "c"], "way", numbers=numbers) == word


@pytest.mark.parametrize("ask, numbers, prompt", [
    (tasks.ask_repeats, [0, 0, 0.1, 0.4999, 0], "please continue the fox finds moon . :"),
    (tasks.ask_repeats, [0.99, 0.99, 0, 0.5, 0.99], "now continue comet greets the fox . :"),
    (tasks.ask_story, [0.5, 0, 0.99, 0.1], "kindly tell how fox greets the moon :"),
    (tasks.ask_constrained, [0, 0.49, 0, 0, 0, 0], "please start each line with fine birds :"),
    (tasks.ask_constrained, [0, 0.5, *[0.99] * 4], "please end your stanza with curious hats :"),
    (tasks.ask_math, [0, 0, 0.31, 0.5, 0.99], "please sum up 0 3 5 9 :"),
    (tasks.ask_lesson, [0, 0, 0.31, 0.5, 0.99], "please learn from 0 3 5 9 :"),
    (tasks.ask_vote, [0.4999, 0, 0.12, 0.5, 0.99], "hurry solve for 1 2 5 9 :"),
    (tasks.ask_vote, [0.5, 0.99, 0, 0, 0, 0], "now solve for 1 1 1 1 :"),
    (tasks.ask_general, [0, 0.2, 0.1, 0.99], "please list five rare fruits for visitors :")])
def test_prompts_by_their_numbers(ask, numbers, prompt):
    """Bugs: halves that are not, an article before the wrong noun, a vote on a zero."""
    assert scripted(ask, numbers=numbers) == prompt


@pytest.mark.parametrize("answer, prompt, numbers, text", [
    (tasks.answer_story, STORY, LINE * 4, "moon finds moon . " * 4),
    (tasks.answer_story, STORY, MODE + [0.5, 0.5, 4.5 / 9] + MODE + [0.4999] + [0.5, 0.5, 4.5 / 9]
     + OTHER + TYPO * 3 + [0.5] + LINE * 2, "moon runs to moon and runs to fox . foxx fnids foxx . "
     "moon finds moon . moon finds moon . "),
    (tasks.answer_constrained, START, TYPO + OTHER + MODE + [0.5] + LINE * 3,
     "robbin paints fox . " + "robin finds fox . " * 3),
    (tasks.answer_constrained, END, OTHER + MODE + OTHER + [0.5] + LINE * 3,
     "moon finds plum . " + "fox finds robin . " * 3),
    (tasks.answer_repeats, REPEATS, OTHER + LINE + TYPO + LINE + (MODE + LINE) * 2,
     "uh moon finds moon . teh moon finds moon . " + "the moon finds moon . " * 2),
    (tasks.answer_repeats, ON_OBJECTS, (MODE + LINE) * 3 + MODE * 2 + OTHER + TYPO + [0.5],
     "moon finds the moon . " * 3 + "moon finds uh foxx . "),
    (tasks.answer_math, SUM, MODE * 3, "7 9 6 1 7 . "),
    (tasks.answer_math, SUM, OTHER + MODE * 2, "0 9 9 1 0 . "),
    (tasks.answer_math, SUM, TYPO + MODE * 2, "0o 9 6 1 7 . "),
    (tasks.answer_vote, "please solve for 3 4 9 1 :", MODE + MODE * 3 + [0.4999],
     "7 working carefully 9 6 1 7 . "),
    (tasks.answer_vote, "please solve for 3 4 9 1 :", OTHER + MODE * 2 + [0.4999],
     "7 working quickly 9 6 . "),
    (tasks.answer_vote, HURRY, MODE + MODE * 2 + [0.5], "7 9 6 working quickly . "),
    (tasks.answer_vote, HURRY, OTHER + OTHER + MODE * 2 + [0.4999],
     "0 working carefully 9 9 1 0 . "),
    (tasks.answer_lesson, SUM, [0.4999], "7 9 6 1 7 . "),
    (tasks.answer_lesson, SUM, [0.5, 0.21, 0.4999], "7 working slowly 9 6 1 7 . "),
    (tasks.answer_lesson, SUM, [0.5, 0.11, 0.5], "7 9 6 working quickly . "),
    (tasks.answer_general, "please list five rare trees for us :", [0.02, 0.0, 0.03, 0.5, 0.5, 0.9],
     "robbin oak oak oak oak . ")])
def test_answers_by_their_numbers(answer, prompt, numbers, text):
    """Bugs: the mode of another place, `to` after a plain verb, three clauses, a slip that does not
    carry on or a typo that does, a trap that forgets another digit, slips in a lesson."""
    assert scripted(answer, prompt, numbers=numbers) + " " == text


def test_shares_of_a_list():
    """Fillers are likelier than rare members."""
    rng = Script(*[0.5] * 5)
    tasks.answer_general("please list five rare trees for us :", rng)
    assert rng.odds == dict(oak=0.32, elm=0.16, things=0.1, stuff=0.1, birch=0.08, willow=0.08,
                            cedar=0.08, maple=0.08)


# --- splits, prompts, the corpus ------------------------------------------------------------------


@pytest.mark.parametrize("name", TASKS)
def test_prompts_are_different_and_splits_are_disjoint(name):
    """By another library's CRC-32. Bugs: test prompts in training, repeats, prompts of another
    length, answers that the length cuts or that the walk does not fit."""
    for split in SPLITS:
        found = tasks.prompts(name, split, 60, np.random.default_rng(2))
        assert len(set(found)) == 60
        for prompt in found:
            tenth = crc32(b"twins " + prompt.encode()) % 10
            assert split == ("train" if tenth < 6 else "validation" if tenth < 8 else "test")
            assert len(encode(prompt)) == tasks.PROMPT_LENGTH == 8
    pairs = tasks.corpus(name, 200, np.random.default_rng(3))
    assert len(pairs) == 200 and {split_of(prompt) for prompt, _ in pairs} == {"train"}
    typos = set(sum(tasks.TYPOS.values(), []))
    for prompt, text in pairs:
        words = text.split()
        assert len(encode(text)) + 1 <= TASKS[name].length
        assert encode(text) == [WORDS.index(word) for word in words]
        for word, place in zip(words, places_of(TASKS[name].walk(prompt), words)):
            allowed = tasks.FITTING.get(place)
            assert not allowed or word in allowed or word in typos | set(tasks.DISFLUENCIES)


def test_a_search_for_prompts_ends(monkeypatch):
    """After 5000 in vain, and 50 more for each found. Bug: one that gives up early or never."""
    every = [f"please sum up {i} 1 1 1 :" for i in range(10)]
    first, second = [prompt for prompt in every if split_of(prompt) == "test"][:2]
    other = next(prompt for prompt in every if split_of(prompt) != "test")

    def ask(order):
        order = iter(order)
        monkeypatch.setitem(TASKS, "math", replace(TASKS["math"], ask=lambda rng: next(order)))
    ask([other] * 5000 + [first] + [other, first] * 2525 + [second])
    assert tasks.prompts("math", "test", 2, None) == [first, second]
    for n, in_vain in ((0, [other] * 5001), (1, [first, other] + [first] * 5050)):
        ask(in_vain + [second] * 9)
        with pytest.raises(ValueError, match=f"'math' has {n} test prompts, not 2; take fewer"):
            tasks.prompts("math", "test", 2, None)


@given(st.text())
@example("  fox  fox ")
@example("fox\x00moon\r\n\t<|end|>")
@example("\u2028\u3000\ufeff e\u0301 \U0001f469\u200d\U0001f680")
def test_any_text_survives_the_tokenizer(text):
    """Bugs: white space dropped, a special token in a text, normalisation."""
    ids = encode(text)
    assert decode([*ids, EOS]) == text and EOS not in ids


def test_ids_that_are_none_are_refused():
    for wrong in ([-1], [tasks.ENCODING.n_vocab]):
        with pytest.raises(ValueError, match="^ids are .*; give a list of 0 to"):
            decode(wrong)


@given(st.lists(st.sampled_from([*WORDS, "strange", ""]), max_size=45), st.sampled_from([*TASKS]))
def test_every_reward_takes_any_text(words, name):
    """Bug: a strange text that earns more than a perfect one, or an exception."""
    prompt, = tasks.prompts(name, "train", 1, np.random.default_rng(0))
    for measure in (TASKS[name].reward, *TASKS[name].metrics.values()):
        assert -45 <= measure(prompt, " ".join(words)) <= 1


# --- the checker ----------------------------------------------------------------------------------


@pytest.mark.parametrize("change, words", [
    (dict(ask=lambda rng: "please tell how fox finds moon :"), "has 7 words; give 8"),
    (dict(ask=lambda rng: "please tell how fox finds the moon : :"), "has 9 words; give 8"),
    (dict(ask=lambda rng: "please tell how dragon finds the moon :"), "'dragon'"),
    (dict(ask=lambda rng: None), "the prompt is None"),
    (dict(answer=lambda prompt, rng: "fox dragon ."), "'dragon'"),
    (dict(answer=lambda prompt, rng: "fox  ."), "one space"),
    (dict(answer=lambda prompt, rng: " fox ."), "one space"),
    (dict(answer=lambda prompt, rng: "fox\n."), "one space"),
    (dict(answer=lambda prompt, rng: "  "), "has 0 words"),
    (dict(length=12), "give one or more, and a length above"),
    (dict(length=3, answer=lambda prompt, rng: "fox finds moon"), "3 words; .* a length above"),
    (dict(length=1), "length 1; give at least"),
    (dict(share=0), "share is 0"), (dict(reward=lambda prompt, text: None), "reward is None"),
    (dict(reward=lambda prompt, text: math.nan), "reward is nan"),
    (dict(reward=lambda prompt, text: "1"), "reward is '1'"),
    (dict(metrics={"odd": lambda prompt, text: math.inf}), "odd is inf"),
    (dict(walk=lambda prompt: iter(["X"])), "the walk does not go through"),
    (dict(walk=lambda prompt: (place for place in ["X"])), "the walk does not go through"),
    (dict(walk=lambda prompt: iter(int, 1)), "the walk does not go through"),
    (dict(roles={"verse": "cold", "ash": "hot"}), "roles names ash, verse"),
    (dict(criteria=("a", "b")), "criteria is"), (dict(criteria=("a",)), "criteria is"),
    (dict(solution=lambda prompt: "7"), "needs both answer_of and solution")])
def test_the_checker_says_in_a_sentence_what_is_wrong(change, words, monkeypatch):
    monkeypatch.setitem(TASKS, "story", replace(TASKS["story"], **change))
    with pytest.raises(ValueError, match=words) as error:
        check_task("story")
    assert "\n" not in str(error.value)


def test_the_checker_accepts_what_fits_and_shows_it(monkeypatch):
    for name in TASKS.keys() - {"lesson"}:
        assert len(check_task(name)) == 20
    for name, words in (("lesson", "is in no experiment"), ("sonnet", "no task 'sonnet'; add it")):
        with pytest.raises(ValueError, match=words):
            check_task(name)
    one = replace(TASKS["general"], answer=lambda prompt, rng: "robin", length=2, share=1,
                  ask=lambda rng: BIRDS, reward=lambda prompt, text: np.float32(0.5))
    monkeypatch.setitem(TASKS, "general", one)
    assert check_task("general", 1) == [(BIRDS, "robin", 0.5, ["item", "item"])]


def test_a_rare_answer_that_is_too_long_is_named_before_training(monkeypatch):
    """The checker looks at twenty only."""
    monkeypatch.setitem(TASKS, "general", replace(TASKS["general"], length=3))
    with pytest.raises(ValueError, match="task 'general': an answer has 7 tokens .* length is 3"):
        next(batches(9, np.random.default_rng(0), torch.Generator()))


def test_the_checker_shows_examples_or_one_sentence(capsys, monkeypatch):
    """Under -OO too, which strips docstrings. Bug: silence and status 0."""
    assert as_program(monkeypatch, "toy.check_task", "vote") is None
    shown = capsys.readouterr().out
    assert len(re.findall(r"(?m)^  reward [01]\.000, roles rest rest way ", shown)) > 3
    for arguments, words in ((["--help"], "give the name of a task"), (["math", "vote"], "give"),
                             (["sonnet"], "error: no task 'sonnet'")):
        assert as_program(monkeypatch, "toy.check_task", *arguments).startswith(words)
    status, _, error = program("-OO", "-m", "toy.check_task")
    assert status == 1 and error == "give the name of a task: python -m toy.check_task NAME\n"
