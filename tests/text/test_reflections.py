import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lit_tpgrpo.text.reflections import Denial, Stance, read_step

WRONG, RIGHT = ("8*2", "4"), ("8*2", "6")


def keys(equations):
    return [e.key for e in equations]


@pytest.mark.parametrize(
    "text",
    [
        "Wait, 8 * 2 = 4 is wrong. It should be 8 * 2 = 6.",
        "Hmm, 8 * 2 = 4 is not right. Actually, 8 * 2 = 6.",
        "Wait, is 8 * 2 = 4 right? No, 8 * 2 = 6.",
        "Wait, is 8 * 2 = 4 wrong? Yes, 8 * 2 = 6.",
        "I made a mistake: 8 * 2 = 4 is wrong, because 8 * 2 = 6.",
        "I made a mistake when computing 8 * 2 = 4. It should be 8 * 2 = 6.",
        "Oh, I miscalculated 8*2 = 4. So 8 * 2 = 6.",
        "Wait, 8 * 2 = 6, not 4.",
        "It should be 8 * 2 = 6 instead of 4.",
        "It should be 8 * 2 = 6 instead of 8 * 2 = 4.",
        "8 * 2 = 6 rather than 4.",
        "Wait, 8 * 2 = 4 is wrong. It should be 6.",
        "But wait, 8 * 2 = 4 can't be right; it's 8 * 2 = 6.",
        r"Wait, \(8 \times 2 = 4\) isn't correct. Actually, \(8 \times 2 = 6\).",
        "Let me double-check 8 * 2 = 4. That's wrong, it should be 6.",
        "Now 8 * 2 = 4. Wait, that's not right. Actually, 8 * 2 = 6.",
        "No, wait, there is an error in 8 * 2 = 4, it should be 8 * 2 = 6.",
    ],
)
def test_corrections_deny_one_equation_and_assert_another(text):
    reading = read_step(text)
    assert reading.stance is Stance.CORRECTS
    assert keys(reading.denied) == [WRONG]
    assert keys(reading.asserted) == keys(reading.renewed) == [RIGHT]
    assert reading.denial is Denial.QUOTED


@pytest.mark.parametrize(
    "text",
    [
        "Let me double-check 8 * 2 = 6. Yes, that is right.",
        "Wait, is 8 * 2 = 6 right? Yes, it is.",
        "Wait, is 8 * 2 = 6 wrong? No, it is correct.",
        "Let me verify that 8 * 2 = 6. That holds.",
        "Hmm, maybe I made a mistake. Let me recompute: 8 * 2 = 6. Okay, that checks out.",
        "There is nothing wrong here: 8 * 2 = 6.",
        "Wait, that's not right. Let me see: 8 * 2 = 6? Yes, it is right.",
    ],
)
def test_ineffective_reflections_confirm_what_they_doubted(text):
    reading = read_step(text)
    assert reading.stance is Stance.CONFIRMS
    assert keys(reading.asserted) == [RIGHT]
    assert not reading.denied


@pytest.mark.parametrize(
    "text",
    [
        "Wait, I should keep the order in mind.",
        "Hmm, let me see what comes next.",
        "Actually, 8 * 2 = 6.",
        "I need to be careful, it is easy to make a mistake here.",
        "If that were wrong, then 8 * 2 = 6.",
        "Could this be wrong? I am not sure.",
        "Plugging in gives 1 = 0, so x is not a root of it; let me check the others.",
    ],
)
def test_marker_words_alone_only_nominate(text):
    reading = read_step(text)
    assert reading.stance is Stance.OPEN
    assert not reading.denied


@pytest.mark.parametrize(
    "text",
    [
        "Next, 8 * 2 = 6.",
        "The wait time is 5 minutes, so t = 5.",
        "Wait time is not counted. Wait until t = 4.",
        "They wait until noon. No integer satisfies this.",
        "The standard error is e = 3 and the error term vanishes.",
        "We note that the notation n = 3 is not used.",
        "",
    ],
)
def test_ordinary_words_nominate_nothing(text):
    assert read_step(text).stance is Stance.NONE


def test_a_denial_that_quotes_nothing_points_back_or_only_admits():
    assert read_step("Wait, that's not right.").denial is Denial.POINTING
    assert read_step("I made a mistake somewhere.").denial is Denial.ADMITTED
    assert read_step("Wait, is that right? No.").denial is Denial.POINTING


def test_no_is_an_answer_only_to_an_open_question():
    assert read_step("Wait, is 8 * 2 = 6 right? Yes, it is. No, 3 + 5 = 8 is next.").stance is Stance.CONFIRMS
    assert read_step("Wait, is 8 * 2 = 6 right? No integer solves this otherwise.").stance is Stance.OPEN


def test_a_past_verdict_is_not_about_the_new_result():
    reading = read_step("Let me recompute: 8 * 2 = 6. So that was wrong.")
    assert (reading.stance, reading.denial) == (Stance.CORRECTS, Denial.POINTING)
    assert keys(reading.asserted) == [RIGHT]
    assert not reading.denied


@pytest.mark.parametrize(
    "text",
    [
        "Choice A is incorrect.",
        "So this choice is wrong.",
        "The question is wrong.",
        "There is an error in the problem statement.",
        "My assumption that each cycle contributes a factor of 2 is incorrect.",
        "Could x = 3? No, that is wrong.",
        "Perhaps it is a Latin square? No, that doesn't make sense.",
        "Wait, 310/2 = 155, which is not 150.",
        "Let's assume that it should be y = 1 instead of y = 2.",
        "I must have made a mistake if this is so.",
    ],
)
def test_a_verdict_on_something_else_denies_nothing(text):
    reading = read_step(text)
    assert (reading.denied, reading.denied_values, reading.blamed) == ((), (), ())
    assert reading.denial is not Denial.QUOTED


@pytest.mark.parametrize(
    "text",
    [
        "I had 8 * 2 = 4, but that is wrong.",
        "I thought that 8 * 2 = 4, but that was incorrect.",
        "8 * 2 = 4, which I got before, is wrong.",
        "3 + 5 = 8, but 8 * 2 = 4 is wrong.",
    ],
)
def test_a_pronoun_is_about_the_statement_in_front_of_it(text):
    assert keys(read_step(text).denied) == [WRONG]


def test_a_pronoun_is_not_about_its_reason():
    reading = read_step("Since 3 * 4 = 12, that can't be right.")
    assert (reading.denied, reading.denial) == ((), Denial.POINTING)
    assert keys(reading.asserted) == [("3*4", "12")]


def test_steps_are_blamed_and_numbered():
    reading = read_step("Step 12: We made an error in step 4, where we wrote a = 3 instead of a = 5.")
    assert (reading.number, reading.blamed, reading.denied) == (12, (4,), ())
    assert read_step("There is no error in step 4.").blamed == ()
    assert read_step("This is not correct, as given by Step 3.").blamed == ()


def test_bare_values_are_denied():
    assert read_step("Wait, 12 is wrong.").denied_values == ("12",)
    assert read_step("It should be 6, not 4.").denied_values == ("4",)


def test_a_step_that_withdraws_its_own_statement():
    reading = read_step("So 8 * 2 = 4. Wait, that's wrong, it should be 6.")
    assert reading.withdrew
    assert keys(reading.asserted) == [RIGHT]
    assert not read_step("Wait, 8 * 2 = 4 is wrong.").withdrew


def test_suppositions_and_questions_assert_nothing():
    assert keys(read_step("Suppose x = 3. Then y = 4.").asserted) == [("y", "4")]
    assert keys(read_step("Wait, is 8 * 2 = 4? Let me see.").asserted) == []


def test_conditions_renew_nothing():
    reading = read_step("Hmm, if it were so, 8 * 2 = 4.")
    assert keys(reading.asserted) == [WRONG]
    assert not reading.renewed


def test_statements_before_the_marker_are_not_renewed():
    reading = read_step("3 + 5 = 8. Wait, actually, 8 * 2 = 6.")
    assert keys(reading.asserted) == [("3+5", "8"), RIGHT]
    assert keys(reading.renewed) == [RIGHT]


def test_what_is_stated_again_after_a_denial_stands_in_its_new_place():
    reading = read_step("Wait, 8 * 2 = 6. Then 3 + 5 = 8. No, 8 * 2 = 6 is wrong. Actually, 8 * 2 = 6.")
    assert keys(reading.asserted) == keys(reading.renewed) == [("3+5", "8"), RIGHT]
    assert reading.withdrew


def test_a_no_is_about_the_last_eight_equations_of_its_question():
    question = " and ".join(f"{i} + 1 = 0" for i in range(10))
    reading = read_step(f"Wait, is {question} right? No.")
    assert keys(reading.denied) == [(f"{i}+1", "0") for i in range(2, 10)]


WORDS = [
    "Wait,",
    "no",
    "8 * 2 = 4",
    "is",
    "wrong.",
    "right?",
    "Yes.",
    "not",
    "4",
    "should be",
    "if",
    "I made a mistake",
    "\n",
]


@settings(deadline=None)
@given(text=st.text() | st.lists(st.sampled_from(WORDS), max_size=20).map(" ".join))
def test_any_text_can_be_read(text):
    reading = read_step(text)
    assert (reading.stance is Stance.CORRECTS) == (reading.denial is not None)
    assert not set(keys(reading.renewed)) - set(keys(reading.asserted))
