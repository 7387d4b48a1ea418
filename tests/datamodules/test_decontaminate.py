"""Decontamination: what counts as the same statement, the overlap test, and the copies in the real data."""

import json
from dataclasses import dataclass

import pytest
from jsonargparse import ArgumentParser

from lit_tpgrpo.datamodules.sources import Decontaminated, FileProblems, ProblemSource
from lit_tpgrpo.datamodules.sources.decontaminate import find_copies, statement_key, words
from lit_tpgrpo.errors import ConfigError, InputError
from lit_tpgrpo.records import Problem
from tests.real_data import RealData


@dataclass
class Listed:
    name: str
    prompts: list[str]

    def load(self):
        return [Problem(f"{self.name}/{i}", prompt, "1", self.name) for i, prompt in enumerate(self.prompts)]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (r"Find $\left(x+\dfrac12\right)^2$.", r"find (x + \frac{1}{2})^{2}"),
        ("Compute\n\n$$\na+b\n$$", r"Compute \[a+b.\]"),
        (r"with $\gcd(m, n) = 1,$ find $m \le n$", r"With $\gcd(m,n)=1$, find $m\leq n$."),
        (r"$1 + 2 + \ldots + 9$", r"$1+2+\cdots+9$"),
        ("$f(1, 2)$", "$f(1,2)$"),
        (r"$90^\circ$", r"$90^{\circ}$"),
        (r"$a \quad \text{and} \quad b$", r"$a$ and $b$"),
        (r"Area? [asy] draw((0,0)--(1,1)); [/asy]", "Area?"),
        ("Is it ``even''? Yes.", 'Is it "even"? Yes'),
        ("It\u2019s \u201cprime\u201d", 'It\'s "prime"'),
        (r"$\frac1{23}$ and $\tfrac {12} 3$", r"$\frac{1}{23}$ and $\frac{12}{3}$"),
        (r"$2^\frac12 + x_{n}^{{2}}$", r"$2^{\frac{1}{2}} + x_n^2$"),
        (r"$2^{\sqrt[3]2} + \sqrt\pi$", r"$2^{\sqrt[{3}]{2}} + \sqrt{\pi}$"),
        (r"$\sin{2x} + {a + b} \cdot \log_{2}{16}$", r"$\sin 2x + a + b \cdot \log_2 16$"),
        (r"the $n^\text{th}$ of ${\operatorname{lcm}}(a,b)$", r"the $n^{\text{th}}$ of $\operatorname{lcm}(a,b)$"),
        (r"$10{,}000$", r"$10,\!000$"),
        (r"$12\,345\,678$", "12345678"),
        (r"$(x^{2}, 3)$", "$(x^2,3)$"),
        ("Let $a}b{c$.", "Let $abc$."),  # braces that do not match
    ],
)
def test_spellings_of_one_statement_have_one_key(one, other):
    assert statement_key(one) == statement_key(other)


def test_an_unclosed_argument_ends_with_the_statement():
    assert statement_key(r"$x^{2$") == statement_key("$x^2$")
    assert statement_key(r"$\frac{12$") != statement_key(r"$\frac12$")


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (r"\frac{1}{23}", r"\frac{12}{3}"),
        (r"\frac{1}{2}3", r"\frac{1}{23}"),
        (r"\binom 1{23}", r"\binom{12}3"),
        ("2^{10}0", "2^{100}"),
        ("x^{2}3", "x^{23}"),
        ("x_{1}2", "x_{12}"),
        ("a^{b}c", "a^{bc}"),
        ("x^{a^b}", "x^ab"),
        (r"\sqrt{2}5", r"\sqrt{25}"),
        (r"\sqrt[3]{2}7", r"\sqrt[3]{27}"),
        (r"\sqrt{x}+1", r"\sqrt{x+1}"),
        (r"\overline{A}B", r"\overline{AB}"),
        ("1 2/3", "12/3"),
        (r"1\quad 2", "12"),
        ("f(1;2)", "f(12)"),
    ],
)
def test_what_belongs_to_which_part_of_a_formula_tells_statements_apart(one, other):
    assert statement_key(f"Find ${one}$.") != statement_key(f"Find ${other}$.")


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Find $1.5x$.", "Find $15x$."),
        ("$f(1,2)$", "$f(12)$"),
        ("$5! - 5$", "$5 - 5$"),
        ("$f''(x)$", "$f(x)$"),
        ("$a + b$", "$a - b$"),
        (r"$x \leftarrow y$", r"$x \rightarrow y$"),
        (r"$m \le n$", r"$m \ge n$"),
        ("Divide by 8.", "Divide by 9."),
        (r"$x \ne 1$", r"$x 1$"),
    ],
)
def test_different_statements_have_different_keys(one, other):
    assert statement_key(one) != statement_key(other)


def test_words_are_letters_and_numbers():
    assert words(r"Find $\dfrac{12}{x_1}$, with $x_1>0$!") == ["find", "frac", "12", "x", "1", "with", "x", "1", "0"]


def test_same_statements_are_removed_and_listed():
    source = Listed("train", ["What is $1+1$?", "What is 2 + 2?", "What is 3+3?"])
    clean = Decontaminated(source, [Listed("a", ["what is $2+2$"]), Listed("b", ["What is 4+4?", "What is $ 3+3 $ ?"])])
    assert isinstance(clean, ProblemSource)
    assert [p.uid for p in clean.load()] == ["train/0"]
    assert [(r.problem.uid, r.matched.uid, r.overlap) for r in clean.removed] == [
        ("train/1", "a/0", 1.0),
        ("train/2", "b/1", 1.0),
    ]
    assert clean.metrics() == {"problems": 1.0, "decontaminated": 2.0}
    assert clean.name == "train"


def test_yaml_builds_the_whole_chain(tmp_path):
    """The command line checks classes against the protocol by signature, so this also holds the signatures."""
    for name, prompts in {"train": ["A?", "B?"], "test": ["b"]}.items():
        rows = (json.dumps({"statement": prompt, "gold": "#### 1"}) + "\n" for prompt in prompts)
        (tmp_path / f"{name}.jsonl").write_text("".join(rows))
    config = f"""
    class_path: lit_tpgrpo.datamodules.sources.Decontaminated
    init_args:
      source:
        class_path: lit_tpgrpo.datamodules.sources.FileProblems
        init_args:
          path: {tmp_path}/train.jsonl
          columns: {{prompt: statement, answer: [answer, gold]}}
          answer_form: {{answer: PLAIN, gold: GSM8K_HASH}}
          strip_suffixes: [Think.]
      against:
        - class_path: lit_tpgrpo.datamodules.sources.FileProblems
          init_args: {{path: {tmp_path}/test.jsonl, columns: {{prompt: statement, answer: gold}}}}
    """
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--source", type=ProblemSource)
    parser.add_argument("--hub", type=ProblemSource)
    hub = '{"class_path": "lit_tpgrpo.datamodules.sources.HubProblems", "init_args": {"preset": "gsm8k"}}'
    made = parser.instantiate(parser.parse_args([f"--source={config}", f"--hub={hub}"]))
    assert [(p.prompt, p.answer) for p in made.source.load()] == [("A?", "1")]
    assert made.hub.dataset == "openai/gsm8k"


def test_overlap_is_the_share_of_the_evaluation_problem():
    # 8 words make 6 trigrams; the training problem has the first 5 of them and much besides.
    evaluation = Problem("e", "a b c d e f g h", "1")
    training = Problem("t", "z z z a b c d e f g z z z z z z", "1")
    (copy,) = find_copies([training], [evaluation], ngram=3, min_overlap=5 / 6)
    assert copy.overlap == pytest.approx(5 / 6)
    assert list(find_copies([training], [evaluation], ngram=3, min_overlap=0.84)) == []
    assert list(find_copies([training], [evaluation])) == []


def test_overlap_reports_the_nearest():
    evaluation = [Problem("far", "a b c x y z", "1"), Problem("near", "a b c d y z", "1")]
    (copy,) = find_copies([Problem("t", "a b c d e f", "1")], evaluation, ngram=3, min_overlap=0.1)
    assert (copy.matched.uid, copy.overlap) == ("near", 0.5)


def test_short_evaluation_problems_match_whole_only():
    assert list(find_copies([Problem("t", "one two three", "1")], [Problem("e", "one two", "1")], 3, 0.01)) == []


def test_nothing_left_is_an_input_error():
    with pytest.raises(InputError, match=r"all 2 are.*same data"):
        Decontaminated(Listed("train", ["A?", "B?"]), [Listed("test", ["a", "b", "c"])]).load()


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"against": []}, "at least one"), ({"ngram": 1}, "2 words"), ({"min_overlap": 0.0}, "above 0")],
)
def test_wrong_settings_are_config_errors(settings, message):
    with pytest.raises(ConfigError, match=message):
        Decontaminated(Listed("a", ["A?"]), **{"against": [Listed("b", ["B?"])], **settings})


@pytest.mark.filterwarnings("ignore:.*4 of (7474|229) rows")
@pytest.mark.slow
def test_copies_in_the_real_data(real_data: RealData):
    """Two problems are copies in another LaTeX, with the same gold; others share most of their stretches of 13 words."""
    kept, copied, overlapping = {
        "sample": (223, {"olympiadbench/90001", "olympiadbench/90002"}, 3),
        "whole": (7468, {"olympiadbench/2895", "olympiadbench/2644"}, 13),
    }[real_data.kind]
    evaluation = [
        FileProblems(real_data.folder / f"{file}.jsonl", preset=preset)
        for file, preset in {
            "math500_test": "math500",
            "aime24_qwq": "aime24",
            "aime25_qwq": "aime25",
            "amc23_test": "amc23",
            "olympiadbench_test": "olympiadbench",
        }.items()
    ]
    source = FileProblems(real_data.folder / "rllm_math_train.json", preset="math", on_malformed="skip")
    clean = Decontaminated(source, evaluation)
    assert len(clean.load()) == kept
    assert {r.matched.uid for r in clean.removed} == copied
    assert all(r.problem.answer == r.matched.answer for r in clean.removed)
    loose = Decontaminated(source, evaluation, ngram=13)
    loose.load()
    assert len(loose.removed) == overlapping
