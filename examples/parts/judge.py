"""A judge: ``--data.judge examples.parts.judge.KeywordJudge --data.judge.word wrong``."""

from collections.abc import Iterator, Sequence

from lit_tpgrpo import Judge, JudgeCase, Outcome, StepLabel, Verdict, abstain


class KeywordJudge(Judge):
    """Judge that labels a step of a correct solution INCORRECT if the next step contains a word.

    Args:
        word: the word, in lower case.
    """

    def __init__(self, word: str = "wait") -> None:
        self.word = word
        self._labelled = 0

    def judge(self, cases: Sequence[JudgeCase]) -> Iterator[tuple[int, Verdict]]:
        """Yield (index of the case, verdict); abstain if there is no answer block to label."""
        for index, case in enumerate(cases):
            if not case.steps or not case.steps[-1].is_answer:
                yield index, abstain(case, "no answer block")
                continue
            correct = case.outcome is Outcome.CORRECT
            label = StepLabel.CORRECT if correct else StepLabel.UNMATCHED
            labels = [label for _ in case.steps[:-1]] + [StepLabel.CORRECT if correct else StepLabel.MATCHED]
            for step, following in enumerate(case.steps[1:-1]):
                if correct and self.word in case.solution.text[following.start : following.end].lower():
                    labels[step] = StepLabel.INCORRECT
            self._labelled += len(labels)
            yield index, Verdict(case.steps, tuple(labels))

    def metrics(self) -> dict[str, float]:
        """Return the counters since the last call, logged as ``judge/steps``, and reset them."""
        labelled, self._labelled = self._labelled, 0
        return {"steps": float(labelled)}
