# ruff: noqa: E501
"""Constructors in Python: likely wrong types are one line when the object is built, likely right ones are taken."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from lit_tpgrpo.callbacks import (
    CapabilityEstimator,
    ExportHF,
    JudgedSolutionWriter,
    JudgeRefresh,
    MathEvaluation,
    SafeCheckpoint,
    SolutionSamples,
)
from lit_tpgrpo.chat.local_chat import LocalChat
from lit_tpgrpo.credit.thought import ThoughtCredit
from lit_tpgrpo.datamodules import MathRolloutDataModule
from lit_tpgrpo.datamodules.arithmetic.audit import ArithmeticAudit
from lit_tpgrpo.datamodules.arithmetic.source import ArithmeticProblems
from lit_tpgrpo.datamodules.sources import Decontaminated, FileProblems, HubProblems, MemoryProblems
from lit_tpgrpo.engines.base import SamplingParams
from lit_tpgrpo.engines.hf import HFEngine
from lit_tpgrpo.errors import ConfigError
from lit_tpgrpo.judges.generative import GenerativeJudge, IntrinsicSignals, QueryConfig
from lit_tpgrpo.judges.generative.prompts import PromptSet
from lit_tpgrpo.judges.rule import RuleJudge
from lit_tpgrpo.losses import ClippedSurrogate
from lit_tpgrpo.module import TPGRPOModule
from lit_tpgrpo.text.answers import AnswerForm
from lit_tpgrpo.training.schedules import TransformersLR
from lit_tpgrpo.verify.verifier import MathVerifier

ROWS = [{"problem": "What is 1 + 1?", "answer": 2}]
DATA, MODULE = MathRolloutDataModule, TPGRPOModule

REFUSED = [
    (DATA, {"train": "train.jsonl"}, "MathRolloutDataModule: train: expected problems, got 'train.jsonl' (str); name a file with FileProblems('train.jsonl'), a data set of the Hub with HubProblems('train.jsonl')"),
    (DATA, {"train": FileProblems}, "train: expected an object with load, name (ProblemSource), got the class FileProblems; give an object: FileProblems(...)"),
    (DATA, {"train": {"problem": "?"}}, "train: expected a list of problems, got dict with problem; give one of its values"),
    (DATA, {"val": {"problem": "?"}}, "MathRolloutDataModule: val['problem']: expected problems, got '?' (str); name a file with FileProblems('?'), a data set of the Hub with HubProblems('?')"),
    (DATA, {"test": 3}, "test: expected a problem source, a list of problems or of dicts, or a datasets.Dataset, got 3 (int)"),
    (DATA, {"predict": iter(ROWS)}, "convert an iterator to a list"),
    (DATA, {"engine": HFEngine}, "engine: expected an object with close, load_weights, sample, sleep, wake (Engine) or None, got the class HFEngine; give an object: HFEngine(...)"),
    (DATA, {"engine": "vllm"}, "got 'vllm' (str); it has no close, load_weights, sample, sleep, wake"),
    (DATA, {"verifier": MathVerifier}, "verifier: expected an object with close, extract, metrics, verify_all (Verifier), got the class MathVerifier; give an object"),
    (DATA, {"verifier": "exact"}, "got 'exact' (str)"),
    (DATA, {"judge": max}, "judge: expected an object with close, judge, metrics, name (Judge) or None, got the function max"),
    (DATA, {"credit": ThoughtCredit}, "give an object: ThoughtCredit(...)"),
    (DATA, {"sampling": {"max_tokens": 8}}, "sampling: SamplingParams has no 'max_tokens'; did you mean max_new_tokens?"),
    (DATA, {"sampling": SamplingParams}, "give an object: SamplingParams(...)"),
    (DATA, {"group_size": "8"}, "MathRolloutDataModule: group_size: expected an integer, got '8' (str)"),
    (DATA, {"group_size": True}, "group_size: expected an integer, got True (bool)"),
    (DATA, {"group_size": 8.0}, "group_size: expected an integer, got 8.0 (float)"),
    (DATA, {"group_sise": 8}, "MathRolloutDataModule has no argument 'group_sise'; did you mean group_size?"),
    (DATA, {"correction_cap": 2}, "MathRolloutDataModule: correction_cap is now correction.cap"),
    (DATA, {"correction": {"cap": "2"}}, "Correction: cap: expected a number, got '2' (str)"),
    (DATA, {"correction": {"capp": 2}}, "correction: Correction has no 'capp'; did you mean cap?"),
    (DATA, {"keep": 3}, "keep: expected all, nonzero_advantage, nonzero_process_reward or a function (CreditedSolution) -> bool, got 3 (int)"),
    (DATA, {"keep": Path}, "keep: got the class Path; give an object: Path(...)"),
    (DATA, {"keep": "everything"}, "keep: expected all, nonzero_advantage or nonzero_process_reward, got 'everything' (str)"),
    (DATA, {"on_long_prompt": None}, "on_long_prompt: expected skip or stop, got None"),
    (DATA, {"prompt_template": None}, "prompt_template: expected a text, got None"),
    (DATA, {"store_dir": 3}, "store_dir: expected a text or a path or None, got 3 (int)"),
    (DATA, {"progress": "no"}, "progress: expected True or False, got 'no' (str)"),
    (MODULE, {"model": None}, "TPGRPOModule: model: expected a text or PreTrainedModel, got None"),
    (MODULE, {"model": torch.nn.Linear(2, 2)}, "got an object of torch.nn.modules.linear.Linear; of a wrapped model give what is inside"),
    (MODULE, {"optimizer": torch.optim.SGD([torch.zeros(1)])}, "optimizer: expected a function that builds one, got an object of torch.optim.sgd.SGD; give lambda parameters: SGD(parameters, ...)"),
    (MODULE, {"optimizer": None}, "optimizer: expected a function, got None"),
    (MODULE, {"adapter": {"rnk": 2}}, "adapter: LoRA has no 'rnk'; did you mean rank?"),
    (MODULE, {"kl_beta": 0.1}, "TPGRPOModule has no argument 'kl_beta'; it is now one of its loss: loss=ClippedSurrogate(kl_beta=...)"),
    (MODULE, {"loss": ClippedSurrogate}, "give an object: ClippedSurrogate(...)"),
    (MODULE, {"loss": {"class_path": "subprocess.Popen", "init_args": {"args": "true"}}}, "TPGRPOModule: loss: the loss subprocess.Popen cannot be built, for no loss of this name is imported"),
    (MODULE, {"loss": {"class_path": "lit_tpgrpo.losses.no.Loss"}}, "loss: the loss lit_tpgrpo.losses.no.Loss cannot be built"),
    (ClippedSurrogate, {"kl_estimator": "k9"}, "k3_unbiased, got 'k9' (str)"),
    (ClippedSurrogate, {"clip_low": [0.2]}, "clip_low: expected a number, got [0.2] (list)"),
    (MODULE, {"tokenizer": object}, "tokenizer: expected a text or PreTrainedTokenizerBase or None, got the class object"),
    (SamplingParams, {"temperature": "1"}, "SamplingParams: temperature: expected a number, got '1' (str)"),
    (SamplingParams, {"top_k": None}, "top_k: expected an integer, got None"),
    (FileProblems, {"path": ["a.jsonl"]}, "path: expected a text or a path, got ['a.jsonl'] (list)"),
    (FileProblems, {"path": "a.jsonl", "columns": {"promt": "q"}}, "columns: FieldMap has no 'promt'; did you mean prompt?"),
    (FileProblems, {"path": "a.jsonl", "limit": "5"}, "limit: expected an integer or None, got '5' (str)"),
    (FileProblems, {"path": "a.jsonl", "strip_suffixes": "x"}, "strip_suffixes: expected a list of a text or None, got 'x' (str)"),
    (HubProblems, {"dataset": Path}, "dataset: expected a text or None, got the class Path"),
    (MemoryProblems, {"rows": "a.jsonl"}, "rows: expected a problem source, a list of problems or of dicts, or a datasets.Dataset, got 'a.jsonl'"),
    (Decontaminated, {"source": None, "against": []}, "source: expected a problem source, a list of problems or of dicts, or a datasets.Dataset, got None"),
    (ArithmeticProblems, {"level": 1}, "level: expected a text, got 1 (int)"),
    (HFEngine, {"batch_size": "8"}, "HFEngine: batch_size: expected an integer, got '8' (str)"),
    (ThoughtCredit, {"alpha": None}, "ThoughtCredit: alpha: expected a number, got None"),
    (RuleJudge, {"max_work": "1"}, "max_work: expected an integer, got '1' (str)"),
    (GenerativeJudge, {"chat": "gpt"}, "GenerativeJudge: chat: expected an object with"),
    (GenerativeJudge, {"chat": LocalChat("policy"), "query": {"max_token": 3}}, "query: QueryConfig has no 'max_token'; did you mean max_tokens?"),
    (SolutionSamples, {"solutions": "4"}, "SolutionSamples: solutions: expected an integer"),
    (CapabilityEstimator, {"curriculum": "easy"}, "curriculum: expected shuffle or uncertainty, got 'easy' (str)"),
    (JudgeRefresh, {"audit": JudgeRefresh}, "audit: expected an object with cases (AuditSet) or None, got the class JudgeRefresh"),
    (MathEvaluation, {"pass_at": 4}, "MathEvaluation: pass_at: expected a list of an integer, got 4 (int)"),
    (MathEvaluation, {"both_end": False}, "MathEvaluation has no argument 'both_end'; did you mean both_ends?"),
    (SafeCheckpoint, {"dirpath": 3}, "SafeCheckpoint: dirpath: expected a text or a path or None, got 3 (int)"),
    (SafeCheckpoint, {"monitr": "eval/avg@4"}, "SafeCheckpoint has no argument 'monitr'; did you mean monitor?"),
    (SafeCheckpoint, {"save_top_k": "3"}, "SafeCheckpoint: save_top_k: expected an integer, got '3' (str)"),
    (SafeCheckpoint, {"save_last": "yes"}, "save_last: expected True or False or link or None, got 'yes' (str)"),
    (MathVerifier, {"timeout_s": "5"}, "MathVerifier: timeout_s: expected a number, got '5' (str)"),
    (MathVerifier, {"timeout": 5}, "MathVerifier has no argument 'timeout'; did you mean timeout_s?"),
    (PromptSet, {"folder": 3}, "PromptSet: folder: expected a text or a path or None, got 3 (int)"),
    (IntrinsicSignals, {"steps_per_question": "40"}, "IntrinsicSignals: steps_per_question: expected an integer, got '40' (str)"),
    (ArithmeticAudit, {"n": "200"}, "ArithmeticAudit: n: expected an integer, got '200' (str)"),
    (TransformersLR, {"optimizer": None}, "TransformersLR: optimizer: expected Optimizer, got None"),
    (ExportHF, {"private": 1}, "private: expected True or False, got 1 (int)"),
    (JudgedSolutionWriter, {"path": 1}, "path: expected a text or a path or None, got 1 (int)"),
]  # fmt: skip


@pytest.mark.parametrize(("cls", "given", "said"), REFUSED)
def test_what_cannot_be_used_is_one_line_when_the_object_is_built(cls, given, said):
    with pytest.raises(ConfigError) as refused:
        cls(**given)
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)


def test_what_can_only_mean_one_thing_is_taken_as_that(tmp_path):
    data = DATA(
        train=ROWS,
        val=FileProblems(tmp_path / "x.jsonl", columns={"prompt": "q"}, answer_form="box"),
        sampling={"max_new_tokens": 8, "temperature": 1, "stop_ids": [3]},  # pyright: ignore[reportArgumentType]
        group_size=np.int64(4),  # pyright: ignore[reportArgumentType]
        correction={"cap": 3},  # pyright: ignore[reportArgumentType]
        store_dir=tmp_path,
    )
    assert data.sampling == SamplingParams(8, 1.0, stop_ids=(3,))
    assert repr(data.sampling) == repr(SamplingParams(8, 1.0, stop_ids=(3,)))  # a stored round is known by it
    assert (data.group_size, type(data.group_size)) == (4, int)
    assert data.store_dir == str(tmp_path)
    assert data.sources["val"]._format.answer_form is AnswerForm.BOX  # pyright: ignore
    assert TPGRPOModule(dtype=torch.bfloat16, adapter={"rank": 2}).hparams["dtype"] == "bfloat16"  # pyright: ignore
    assert GenerativeJudge(LocalChat("policy"), query={"max_tokens": 99}).query == QueryConfig(max_tokens=99)  # pyright: ignore
