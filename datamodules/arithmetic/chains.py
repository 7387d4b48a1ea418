"""Generator of noisy, self-correcting chains of thought in the format of R1-style models.

The completion begins after ``<think>\\n`` (the last part of the prompt in the chat template): paragraphs, ``</think>``, an
answer block that restates the final results. Errors are wrong table entries; some are noticed immediately, some only
after further steps have been built on them (which are then redone), some never. The generator knows the errors, so each
paragraph has its exact label; ``truth.py`` computes the same labels from the text alone.

The answer block restates the last result first. If it restated them in the order of the chain, a policy in training would
learn to repeat the computation there and let its thoughts degenerate, because unmatched thoughts are never penalised
(docs/log.md).
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field

from lit_tpgrpo.datamodules.arithmetic import phrases
from lit_tpgrpo.datamodules.arithmetic.phrases import Kind
from lit_tpgrpo.datamodules.arithmetic.problems import Operation, Task, TaskEquation
from lit_tpgrpo.records import StepLabel

_LATE_NOTICE_REACH = 2
"""An error is noticed late only within this many further steps."""


@dataclass(frozen=True, slots=True)
class NoiseRates:
    """Probabilities of errors (per written equation) and of the writer's other events (per opportunity)."""

    error: float = 0.02
    """The result of an addition or subtraction is a wrong table entry (off by one or two)."""
    error_multiply: float = 0.4
    """The same for a multiplication, where most errors occur."""
    notice_now: float = 0.5
    """A wrong step is corrected in the next paragraph."""
    notice_late: float = 0.1
    """A wrong step is corrected after one further step, and again after two."""
    botched: float = 0.05
    """A correction replaces a wrong result by another wrong one."""
    false_alarm: float = 0.01
    """A right step is replaced by a wrong one."""
    check: float = 0.03
    """A step, right or wrong, is checked and confirmed."""
    filler: float = 0.01
    """A paragraph that claims nothing."""
    omitted: float = 0.0
    """The answer block leaves out an equation (never the last)."""
    visible: float = 0.0
    """A wrong result is seen to be wrong at a glance: it is not below the modulus."""
    notice_again: float = 0.0
    """A correction with a wrong result is corrected in the next paragraph, and so on."""
    max_reflections: int = 5
    variety: float = 0.3
    """A phrase is drawn uniformly from those of its kind; otherwise the first one is used."""


NO_NOISE = NoiseRates(error=0, error_multiply=0, false_alarm=0, check=0, filler=0, omitted=0)


@dataclass(frozen=True, slots=True)
class Paragraph:
    """A written paragraph. ``right``: its claim is true of the problem. ``claim`` is None for openings, fillers, the answer."""

    kind: Kind
    text: str
    claim: TaskEquation | None
    right: bool


@dataclass(frozen=True, slots=True)
class Chain:
    """A written solution: the paragraphs of the think block, then the answer block as the last one."""

    task: Task
    paragraphs: tuple[Paragraph, ...]
    restated: tuple[TaskEquation, ...]
    answer: int

    @property
    def correct(self) -> bool:
        return self.answer == self.task.answer

    @property
    def text(self) -> str:
        think = phrases.PARAGRAPH_END.join(p.text for p in self.paragraphs[:-1])
        return f"{think}\n{phrases.THINK_END}{phrases.PARAGRAPH_END}{self.paragraphs[-1].text}"

    @property
    def labels(self) -> tuple[StepLabel, ...]:
        """The true labels, one per paragraph (see ``truth.py`` for the definitions)."""
        if self.correct:
            return tuple(StepLabel.CORRECT if p.right else StepLabel.INCORRECT for p in self.paragraphs)
        adopted = set(self.restated)
        return tuple(
            StepLabel.MATCHED if p.kind is Kind.ANSWER or p.claim in adopted else StepLabel.UNMATCHED
            for p in self.paragraphs
        )

    @property
    def has_corrected_error(self) -> bool:
        """Whether some correction replaces a wrong result by the right one."""
        return any(p.kind is Kind.CORRECTION and p.right for p in self.paragraphs)


def write_chain(task: Task, noise: NoiseRates, rng: random.Random) -> Chain:
    """Write one solution of the task with random errors and corrections."""
    return _Writer(task, noise, rng).write()


@dataclass(slots=True)
class _Writer:
    """State of the writer: the equations in force, from which a correction removes all later ones."""

    task: Task
    noise: NoiseRates
    rng: random.Random
    truth: tuple[TaskEquation, ...] = ()
    in_force: list[TaskEquation] = field(default_factory=list)
    paragraphs: list[Paragraph] = field(default_factory=list)
    reflections: int = 0
    redoing: bool = False

    def write(self) -> Chain:
        self.truth = self.task.equations
        opening = self._phrase(phrases.OPENINGS).format(start=self.task.start, modulus=self.task.modulus)
        self.paragraphs.append(Paragraph(Kind.OPENING, opening, None, True))
        while len(self.in_force) < len(self.truth):
            if self._happens(self.noise.filler):
                self.paragraphs.append(Paragraph(Kind.FILLER, self._phrase(phrases.FILLERS), None, True))
            self._step()
            if self.reflections < self.noise.max_reflections:
                self._reflect()
                while self.noise.notice_again and self._corrects_again():
                    self._correct(len(self.in_force) - 1, botched=self._happens(self.noise.botched))
        return self._answer()

    def _happens(self, probability: float) -> bool:
        return self.rng.random() < probability

    def _phrase(self, choices: tuple[str, ...]) -> str:
        return self.rng.choice(choices) if self._happens(self.noise.variety) else choices[0]

    def _compute(self, index: int, wrong: bool) -> TaskEquation:
        """Compute equation ``index`` on the current value; if ``wrong``, with a result off by one or two, or one too large."""
        left = self.in_force[index - 1].result if index else self.task.start
        operation: Operation = self.task.operations[index]
        if wrong and self.noise.visible and self._happens(self.noise.visible):
            return TaskEquation(left, operation, self.rng.randrange(self.task.modulus, 2 * self.task.modulus))
        offset = self.rng.choice((-2, -1, 1, 2)) if wrong else 0
        return TaskEquation(left, operation, (operation(left, self.task.modulus) + offset) % self.task.modulus)

    def _off_table(self, equation: TaskEquation) -> bool:
        return equation.result != equation.operation(equation.left, self.task.modulus)

    def _step(self) -> None:
        index = len(self.in_force)
        multiplies = self.task.operations[index].symbol == "*"
        rate = self.noise.error_multiply if multiplies else self.noise.error
        equation = self._compute(index, wrong=self._happens(rate))
        choices = phrases.REDONE_STEPS if self.redoing else phrases.STEPS if index else phrases.FIRST_STEPS
        text = self._phrase(choices).format(claim=equation)
        self.paragraphs.append(Paragraph(Kind.STEP, text, equation, equation == self.truth[index]))
        self.in_force.append(equation)
        self.redoing = False

    def _reflect(self) -> None:
        last = len(self.in_force) - 1
        wrong = [i for i, e in enumerate(self.in_force) if self._off_table(e) and last - i <= _LATE_NOTICE_REACH]
        if wrong and self._happens(self.noise.notice_now if wrong[0] == last else self.noise.notice_late):
            self._correct(self._latest_equal(wrong[0]), botched=self._happens(self.noise.botched))
        elif not wrong and self._happens(self.noise.false_alarm):
            self._correct(last, botched=True)
        elif self._happens(self.noise.check):
            self._check(last)

    def _corrects_again(self) -> bool:
        """Return whether the last paragraph is a correction whose wrong result is noticed."""
        return (
            self.paragraphs[-1].kind is Kind.CORRECTION
            and self._off_table(self.in_force[-1])
            and self.reflections < self.noise.max_reflections
            and self._happens(self.noise.notice_again)
        )

    def _latest_equal(self, index: int) -> int:
        """Return the last index with the same equation as ``index``: the one that a quotation refers to."""
        return max(i for i, e in enumerate(self.in_force) if e == self.in_force[index])

    def _check(self, index: int) -> None:
        equation = self.in_force[index]
        text = self._phrase(phrases.CHECKS).format(claim=equation)
        self.paragraphs.append(Paragraph(Kind.CHECK, text, equation, equation == self.truth[index]))
        self.reflections += 1

    def _correct(self, index: int, botched: bool) -> None:
        """Replace equation ``index``; all later equations are no longer in force and will be written again."""
        denied, claim = self.in_force[index], self._compute(index, wrong=botched)
        if claim == denied:  # a botched correction may produce the same wrong result again
            return self._check(index)
        text = self._phrase(phrases.CORRECTIONS).format(denied=denied, claim=claim)
        self.paragraphs.append(Paragraph(Kind.CORRECTION, text, claim, claim == self.truth[index]))
        self.in_force[index:] = [claim]
        self.reflections += 1
        self.redoing = True
        return None

    def _answer(self) -> Chain:
        *early, final = self.in_force
        restated = (*(e for e in early if not self._happens(self.noise.omitted)), final)
        claims = ", ".join(str(e) for e in reversed(restated))
        text = self._phrase(phrases.ANSWERS).format(claims=claims, answer=final.result)
        right = set(restated) <= set(self.truth) and final == self.truth[-1]
        self.paragraphs.append(Paragraph(Kind.ANSWER, text, None, right))
        return Chain(self.task, tuple(self.paragraphs), restated, final.result)
