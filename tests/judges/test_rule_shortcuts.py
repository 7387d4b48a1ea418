"""Steps that the rule judge does not parse would have changed no label: each shortcut against parsing every step."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lit_tpgrpo.datamodules.arithmetic.judge_report import writer_samples
from lit_tpgrpo.judges import rule_labels
from lit_tpgrpo.judges.audit_sets import read_mrben, read_prmbench
from lit_tpgrpo.judges.rule_labels import RuleCase, RuleLabels, label_steps
from lit_tpgrpo.text import step_text
from lit_tpgrpo.text.formats import ThinkTags
from lit_tpgrpo.text.step_text import StepText, squeeze
from tests.real_data import SAMPLE

ENOUGH = 10**7
STEPS = (
    "First, 8*2=4.",
    "Next, 8*2=16.",
    "Then 4+3=7, so (7) * 2 = 14.",
    "Wait, 8*2=4 is wrong. It should be 8*2=16.",
    "So x = 14 .",
    "Hmm, 8 * 2 = 16, not 4.",
    "Hmm, 8 * 2 = 16.",
    "Wait, is 4 + 3 = 7 right? Yes, that is right.",
    "I made a mistake.",
    "Hmm, let me think.",
    "Thus 16+3=19, and 19 * 2 =\r38.",
    "No, that is wrong. Actually, 16 + 3 = 19.",
    "In step 1 we made an error: 2 = 3.",
    "Step 1: y = 2(3 + 4).",
    "Wait, that was wrong: 8*2=4. No, wait, that is right.",
    "The answer is 14.",
    "It is \\frac{1}{2} = 0.5.",
)
ANSWERS = (
    "So 8*2=4 and the answer is \\boxed{14}.",
    "The answer is 14.",
    "Thus 16+3=19, 19*2=38, so \\boxed{38}.",
    "\\boxed{}",
    "",
    "\\boxed{x = 14}",
    "So the answer is 1/2.",
    "\\boxed{\\frac{1}{2}}",
    "y = 2(3+4), so \\boxed{2(3+4)}",
)


def with_all_steps_parsed(case: RuleCase) -> RuleLabels:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rule_labels, "may_correct", lambda reading: True)
        patch.setattr(rule_labels, "REDO_REACH", len(case.thinks))
        patch.setattr(StepText, "may_state", lambda self, squeezed: True)
        return label_steps(case)


def real_cases() -> list[tuple[str, str]]:
    reports = (
        read_prmbench(SAMPLE.folder / "prmbench_qwq_solutions.jsonl"),
        read_mrben(SAMPLE.folder / "mrben_math.json"),
    )
    cases = [(c.problem.prompt, c.solution.text) for report in reports for c in report.cases]
    return cases + [(problem.prompt, text) for problem, text in writer_samples("3", 30, 0)]


@pytest.mark.parametrize("correct", [True, False])
def test_real_solutions_have_the_labels_of_all_steps_parsed(correct: bool):
    labelled = 0
    for prompt, text in real_cases():
        division = ThinkTags().divide(text)
        thinks = tuple(part + "\n\n" for part in division.thinking_text(text).split("\n\n"))
        case = RuleCase(prompt, thinks, text[division.boundary :], correct, ENOUGH)
        labels = label_steps(case)
        assert labels == with_all_steps_parsed(case)
        labelled += len(labels.wrong)
    assert labelled > 20


@settings(max_examples=300, deadline=None)
@given(
    thinks=st.lists(st.sampled_from(STEPS), max_size=12), answer=st.sampled_from(ANSWERS), correct=st.booleans(),
    prompt=st.sampled_from(("What is 8*2=4?", "Compute.")),
)  # fmt: skip
def test_any_solution_has_the_labels_of_all_steps_parsed(thinks: list[str], answer: str, correct: bool, prompt: str):
    case = RuleCase(prompt, tuple(thinks), answer, correct, ENOUGH)
    assert label_steps(case) == with_all_steps_parsed(case)


def test_steps_to_which_nothing_refers_are_not_parsed(monkeypatch):
    def read(flat: str):
        raise AssertionError(f"parsed: {flat}")

    monkeypatch.setattr(step_text, "read_plainly", read)
    thinks = ("First, 8*2=16.", "Hmm, let me think.", "Then 16+3=19.")
    assert label_steps(RuleCase("", thinks, "\\boxed{19}", True, ENOUGH)).counts["reflections_ineffective"] == 1
    assert label_steps(RuleCase("", thinks, "\\boxed{41}", False, ENOUGH)).wrong == frozenset()
    with pytest.raises(AssertionError, match=r"parsed: Then 16\+3=19"):
        label_steps(RuleCase("", thinks, "\\boxed{19}", False, ENOUGH))


def test_what_is_redone_after_an_admission_is_parsed():
    thinks = ("First, 8*2=4.", "I made a mistake.", "Next, 8*2=16.", "Then 3+5=8.")
    assert label_steps(RuleCase("", thinks, "\\boxed{16}", True, ENOUGH)).wrong == {0}


def test_what_a_mere_doubt_contradicts_is_parsed():
    thinks = ("First, 8*2=4.", "Hmm, 8*2=16.")
    assert label_steps(RuleCase("", thinks, "\\boxed{16}", True, ENOUGH)).wrong == {0}


def test_what_normal_forms_leave_out_is_squeezed_out():
    assert squeeze("( 2 ) * (x +\r3)\u00a0= {6}$") == "2x+3=6"
    assert StepText("So (2) * 3 = 6.").may_state(squeeze("2*3"))
    assert not StepText("So (2) * 3 = 6.").may_state("24")
