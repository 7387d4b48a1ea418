"""A model, problems and a verifier that are in memory already, in a plain Trainer; and what a wrong loader is told."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import datasets
import lightning as L
import pandas as pd
import pyarrow as pa
import pytest
import torch
from safetensors.torch import load_file
from torch.utils.data import DataLoader

from lit_tpgrpo.datamodules import MathRolloutDataModule
from lit_tpgrpo.datamodules.sources import Decontaminated, MemoryProblems
from lit_tpgrpo.engines.base import SamplingParams
from lit_tpgrpo.errors import ConfigError, InputError
from lit_tpgrpo.export import export_checkpoint
from lit_tpgrpo.module import TPGRPOModule
from lit_tpgrpo.pretrained import load_causal_lm, load_tokenizer
from lit_tpgrpo.records import Outcome, Problem
from lit_tpgrpo.verify.function import FunctionVerifier

ROWS = [{"problem": f"What is {n} + 1?", "answer": n + 1} for n in range(4)]


def trainer(tmp_path: Path, **kwargs) -> L.Trainer:
    settings = {
        "accelerator": "cpu",
        "max_steps": 2,
        "logger": False,
        "enable_progress_bar": False,
        "default_root_dir": tmp_path,
    }
    return L.Trainer(**(settings | {"enable_model_summary": False, "num_sanity_val_steps": 0} | kwargs))


def rollouts(**kwargs) -> MathRolloutDataModule:
    settings = {"train": ROWS, "group_size": 2, "problems_per_step": 2, "steps_per_round": 1, "keep": "all"}
    settings |= {"sampling": SamplingParams(max_new_tokens=4), "prompt_template": "{problem}", "progress": False}
    return MathRolloutDataModule(**(settings | kwargs))


class Lucky(FunctionVerifier):
    """Every second solution is right, so that there is something to learn."""

    def verify_all(self, pairs):
        return [Outcome.CORRECT if i % 2 else Outcome.INCORRECT for i, _ in enumerate(pairs)]


def sgd(parameters):
    return torch.optim.SGD(parameters, lr=0.1)


@pytest.mark.parametrize("named", [True, False])
def test_a_model_in_memory_is_trained_saved_and_exported(random_model, tmp_path, named):
    model, tokenizer = load_causal_lm(random_model, False, None, "sdpa"), load_tokenizer(random_model)
    if not named:
        model.config._name_or_path = model.name_or_path = ""
        with pytest.raises(ConfigError, match="tokenizer: expected one, got None: Qwen2ForCausalLM was not loaded"):
            TPGRPOModule(model)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    module = TPGRPOModule(model, optimizer=sgd, tokenizer=tokenizer)
    fit = trainer(tmp_path)
    fit.fit(module, datamodule=rollouts(verifier=Lucky(lambda gold, answer: gold == answer)))
    assert any(not torch.equal(before[name], p) for name, p in model.named_parameters())  # itself, no copy
    fit.save_checkpoint(tmp_path / "a.ckpt")
    held = torch.load(tmp_path / "a.ckpt", weights_only=True)  # names and tensors, no pickled model
    assert held["hyper_parameters"]["model"] == (random_model if named else "in-memory:Qwen2ForCausalLM")

    if not named:
        with pytest.raises(ConfigError, match=r"a Qwen2ForCausalLM, was given as an object and has no name .*--model"):
            export_checkpoint(tmp_path / "a.ckpt", tmp_path / "out")
    export_checkpoint(tmp_path / "a.ckpt", tmp_path / "out", model=None if named else random_model)
    exported = load_file(tmp_path / "out" / "model.safetensors")
    trained = dict(model.named_parameters())
    assert exported
    assert all(torch.equal(exported[name], trained[name]) for name in exported)
    other = load_causal_lm(random_model, False, None, "sdpa")
    reloaded = TPGRPOModule.load_from_checkpoint(
        tmp_path / "a.ckpt", model=other, tokenizer=tokenizer, optimizer=sgd, strict=False
    )
    assert reloaded.hparams["model"] == random_model


def test_settings_of_loading_and_foreign_tokenizers_are_refused_with_a_model_in_memory(random_model):
    model, tokenizer = load_causal_lm(random_model, False, None, "sdpa"), load_tokenizer(random_model)
    with pytest.raises(
        ConfigError, match="random_init, attention say how a model is loaded, and Qwen2ForCausalLM is an object"
    ):
        TPGRPOModule(model, random_init=True, attention="eager")
    with pytest.raises(
        ConfigError, match="expected a causal language model, got Qwen2Model, which has no output embeddings"
    ):
        TPGRPOModule(model.base_model)  # pyright: ignore[reportArgumentType]
    assert (
        TPGRPOModule(model, dtype="bfloat16", tokenizer=random_model).tokenizer.eos_token_id == tokenizer.eos_token_id
    )
    tokenizer.add_tokens([f"<extra {i}>" for i in range(500)])
    with pytest.raises(ConfigError, match=r"has embeddings for \d+; give .*or call model\.resize_token_embeddings"):
        TPGRPOModule(model, tokenizer=tokenizer)


def test_a_loader_of_other_batches_is_named_with_what_to_pass(random_model, tmp_path):
    loader = DataLoader([{"input_ids": torch.tensor([1, 2])}], batch_size=1)  # pyright: ignore[reportArgumentType]
    with pytest.raises(
        ConfigError, match=r"trains on .*TrainBatch, and the training loader gave \{'input_ids': .* pass datamodule="
    ):
        trainer(tmp_path).fit(TPGRPOModule(random_model), train_dataloaders=loader)


PROBLEMS = [Problem(f"p{row['answer']}", row["problem"], str(row["answer"]), "mine") for row in ROWS]


@pytest.mark.parametrize(
    "make",
    [list, tuple, datasets.Dataset.from_list, pd.DataFrame, pa.Table.from_pylist],
    ids=["list", "tuple", "Dataset", "DataFrame", "Table"],
)
def test_problems_in_memory_in_any_form(make):
    problems = MathRolloutDataModule(train=make(ROWS)).sources["train"].load()  # pyright: ignore
    assert [(p.prompt, p.answer, p.source) for p in problems] == [(p.prompt, p.answer, "train") for p in PROBLEMS]
    assert list(MemoryProblems(PROBLEMS).load()) == PROBLEMS


def test_rows_in_memory_are_checked_like_those_of_files():
    rows: list[Any] = [*PROBLEMS, PROBLEMS[0], Problem("p1", "Other?", "1"), Problem("p9", " ", "1"), 7]
    source = MemoryProblems(rows, on_malformed="skip")
    with pytest.warns(
        UserWarning, match=r"item 6: expected a different uid .*\n.*item 7: .*prompt is a text.*\n.*item 8: "
    ):
        assert [p.uid for p in source.load()] == ["p1", "p2", "p3", "p4", "p1-2"]
    assert source.metrics() == {"problems": 5.0, "malformed": 3.0, "duplicates": 1.0}
    with pytest.raises(
        ConfigError, match="rows: expected a list of problems, got DatasetDict with train; give one of its"
    ):
        MemoryProblems(datasets.DatasetDict(train=datasets.Dataset.from_list(ROWS)))  # pyright: ignore
    with pytest.raises(InputError, match="expected at least one row, got none"):
        MemoryProblems([]).load()
    kept = Decontaminated(ROWS, against=[ROWS[:1], PROBLEMS[1:2]]).load()
    assert [p.prompt for p in kept] == [row["problem"] for row in ROWS[2:]]


def test_a_function_is_a_verifier_that_counts():
    told = {"right": True, "wrong": False, "tried": Outcome.UNDECIDED, "neither": None, "one": 1}
    verifier = MathRolloutDataModule(verifier=lambda gold, answer: told[answer]).verifier
    answers = ["right", "wrong", None, "  ", "tried", "neither", "one", "unknown"]
    outcomes = [o.value for o in verifier.verify_all([("g", a) for a in answers])]
    assert outcomes == ["correct", *["incorrect"] * 3, "undecided", "unverifiable", "correct", "unverifiable"]
    counts = {"pairs": 8, "correct": 2, "incorrect": 3, "unverifiable": 2, "undecided": 1, "error": 1}
    assert verifier.metrics() == counts
    assert verifier.metrics()["pairs"] == 0
    verifier.close()


def test_a_function_that_is_no_comparison_stops_at_once():
    with pytest.raises(ConfigError, match=r"<lambda> must take \(gold, answer\), both texts; it takes \(answer\)"):
        FunctionVerifier(lambda answer: True)  # pyright: ignore[reportArgumentType]
    with pytest.raises(ConfigError, match=r"<lambda> raised for all 2 answers, first TypeError: .*unsupported operand"):
        FunctionVerifier(lambda gold, answer: gold - answer == 0).verify_all([("1", "2"), ("1", "3")])  # pyright: ignore
    with pytest.raises(
        ConfigError, match=r"must return True, False, an Outcome, or None .*got 0\.5 \(float\) for gold '1'"
    ):
        FunctionVerifier(lambda gold, answer: 0.5).verify_all([("1", "2")])
    one, other = FunctionVerifier(lambda g, a: g == a), FunctionVerifier(lambda g, a: g != a)
    assert one.function != other.function  # else stored verdicts of the one would serve for the other


def test_a_part_that_cannot_be_closed_does_not_hide_what_went_wrong(caplog):
    class Stuck(FunctionVerifier):
        def close(self):
            raise RuntimeError("stuck")

    closed = []
    data = rollouts(verifier=Stuck(lambda g, a: True))
    data.judge.close = lambda: closed.append("judge")  # pyright: ignore
    data.on_exception(ValueError("the cause"))
    assert "after ValueError: a part could not be closed" in caplog.text
    assert closed == ["judge"]
    with pytest.raises(RuntimeError, match="stuck"):
        data.teardown("fit")


@pytest.mark.slow
def test_the_command_line_takes_functions_rows_and_field_maps(tmp_path):
    """The wider forms of Python leave the command line's own as they were."""
    from lightning.pytorch import LightningDataModule

    from lit_tpgrpo.cli import SETTINGS, TPGRPOCLI

    rows = tmp_path / "rows.jsonl"
    rows.write_text(json.dumps({"q": "1 + 1?", "answer": "2"}) + "\n")
    args = ["--data=lit_tpgrpo.datamodules.MathRolloutDataModule", "--data.prompt_template={problem}"]
    args += [
        "--data.train=lit_tpgrpo.datamodules.sources.FileProblems",
        f"--data.train.path={rows}",
        "--data.train.columns.prompt=q",
    ]
    args += ["--data.val=lit_tpgrpo.datamodules.sources.MemoryProblems", f"--data.val.rows={json.dumps(ROWS)}"]
    args += ["--data.verifier=lit_tpgrpo.verify.function.FunctionVerifier", "--data.verifier.compare=operator.eq"]
    args += ["--data.sampling.max_new_tokens=8", "--model=TPGRPOModule", "--model.model=embedded:tiny-qwen2"]
    settings: dict[str, Any] = SETTINGS | {"parser_kwargs": {}}
    cli = TPGRPOCLI(TPGRPOModule, LightningDataModule, args=args, run=False, **settings)
    data = cli.datamodule
    assert [p.prompt for p in data.sources["train"].load()] == ["1 + 1?"]
    assert len(data.sources["val"].load()) == 4
    assert data.verifier.verify_all([("2", "2"), ("2", "3")]) == [Outcome.CORRECT, Outcome.INCORRECT]
    assert cli.model.hparams["model"] == "embedded:tiny-qwen2"
    short = [arg for arg in args if not arg.startswith("--data.verifier")] + [
        "--data.verifier=examples.parts.verifier.same_text"
    ]
    cli = TPGRPOCLI(TPGRPOModule, LightningDataModule, args=short, run=False, **settings)
    assert cli.datamodule.verifier.verify_all([("2", "2"), ("2", "3")]) == [Outcome.CORRECT, Outcome.INCORRECT]
    for wrong in (
        "--data.train.pth=x",
        "--data.train.columns.promt=q",
        "--data.sampling.max_new_token=8",
        "--data.train=Nope",
    ):
        with pytest.raises(SystemExit):
            TPGRPOCLI(
                TPGRPOModule,
                LightningDataModule,
                args=[*args, wrong],
                run=False,
                **settings,
            )
