"""What a run is called and where it writes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch.distributed as dist
import yaml
from jsonargparse import Namespace

from lit_tpgrpo import cli
from lit_tpgrpo.cli.resumed import resume_line
from lit_tpgrpo.cli.runs import follow_run, name_run, reserve_version, run_of


def settings(*loggers: Namespace, **trainer: object) -> Namespace:
    return Namespace(trainer=Namespace(logger=list(loggers) if len(loggers) > 1 else loggers[0], **trainer))


def logger(kind: str, **init_args: object) -> Namespace:
    return Namespace(class_path=f"lightning.pytorch.loggers.{kind}", init_args=Namespace(**init_args))


def configs(folder: Path, *names: str, naming: tuple[str, ...] = ()) -> list[Path]:
    paths = [folder / f"{name}.yaml" for name in names]
    for path in paths:
        if path.stem in naming:
            path.write_text("trainer: {logger: {class_path: TensorBoardLogger, init_args: {name: " + path.stem + "}}}")
        else:
            path.write_text("data: {class_path: X}")
    return paths


@pytest.mark.parametrize(
    ("given", "files", "naming", "args", "expected"),
    [
        ("quickstart", ("quickstart",), ("quickstart",), [], "quickstart"),
        ("quickstart", ("quickstart", "outcome_only"), ("quickstart",), [], "quickstart-outcome_only"),
        ("quickstart", ("quickstart", "outcome_only", "hard"), ("quickstart",), [], "quickstart-outcome_only-hard"),
        ("b", ("a", "b", "c"), ("a", "b"), [], "b-c"),
        ("mine", ("quickstart", "hard"), ("quickstart",), ["--trainer.logger.name", "mine"], "mine"),
        ("mine", ("quickstart", "hard"), ("quickstart",), ["--trainer.logger.init_args.name=mine"], "mine"),
        ("lightning_logs", ("own", "hard"), (), [], "own-hard"),
        (None, ("own",), (), [], "own"),
        ("x", (), (), [], "x"),
    ],
)
def test_a_run_is_named_by_its_configs(tmp_path: Path, given, files, naming, args, expected):
    made = settings(logger("TensorBoardLogger", save_dir="runs", name=given), logger("WandbLogger", name=given))
    name_run(made, configs(tmp_path, *files, naming=naming), args)
    assert [one.init_args.name for one in made.trainer.logger] == [expected, expected]


def test_loggers_without_a_name_and_runs_without_a_logger_are_left_alone(tmp_path: Path):
    for made in (Namespace(trainer=Namespace(logger=given)) for given in (None, True, False)):
        name_run(made, configs(tmp_path, "a"), [])
        assert reserve_version(made) is None
    other = settings(logger("NeptuneLogger", project="p"))
    name_run(other, configs(tmp_path, "a"), [])
    assert other.trainer.logger.init_args == Namespace(project="p")
    tracked = settings(logger("MLFlowLogger", experiment_name="e", run_name=None))
    name_run(tracked, configs(tmp_path, "a"), [])
    assert tracked.trainer.logger.init_args == Namespace(experiment_name="e", run_name="a")


def test_each_training_run_gets_a_version(tmp_path: Path):
    for expected in (0, 1):
        made = settings(logger("TensorBoardLogger", save_dir=str(tmp_path), name="q", version=None))
        assert reserve_version(made) == tmp_path / "q" / f"version_{expected}"
        assert made.trainer.logger.init_args.version == expected
        assert (tmp_path / "q" / f"version_{expected}").is_dir()
    for left in (
        settings(logger("TensorBoardLogger", save_dir=str(tmp_path), name="q", version="chosen")),
        settings(logger("TensorBoardLogger", save_dir=str(tmp_path), name="q"), fast_dev_run=True),
        settings(logger("TensorBoardLogger", save_dir="s3://bucket", name="q")),
        settings(logger("WandbLogger", name="q"), logger("TensorBoardLogger", save_dir=str(tmp_path), name="q")),
    ):
        assert reserve_version(left) is None
    assert sorted(p.name for p in (tmp_path / "q").iterdir()) == ["version_0", "version_1"]


def test_what_follows_a_run_logs_into_its_folder(tmp_path: Path):
    run = tmp_path / "q" / "version_0"
    (run / "checkpoints").mkdir(parents=True)
    checkpoint = str(run / "checkpoints" / "last.ckpt")
    assert run_of(checkpoint) is None  # any folder may hold a checkpoint
    (run / "config.yaml").write_text("")
    assert run_of(checkpoint) == run
    board = settings(logger("TensorBoardLogger", save_dir="runs", name="q", version=None))
    table = settings(logger("CSVLogger", save_dir="runs", name="q", version=None))
    for made, expected in (
        (board, Namespace(save_dir=str(run), name="", version="validate")),
        (table, Namespace(save_dir=str(run), name="validate", version=None)),
    ):
        assert follow_run(made, "validate", checkpoint) == run / "validate"
        assert made.trainer.logger.init_args == expected
    alone = settings(logger("TensorBoardLogger", save_dir="runs", name="q", version=None), default_root_dir="root")
    assert follow_run(alone, "test", None) == Path("root/test")
    assert alone.trainer.logger.init_args == Namespace(save_dir="runs", name="q", version="test")
    chosen = settings(logger("TensorBoardLogger", save_dir="runs", name="q", version=3))
    follow_run(chosen, "test", checkpoint)
    assert chosen.trainer.logger.init_args == Namespace(save_dir="runs", name="q", version=3)


def test_a_resumed_run_says_what_changed_and_where_it_writes(tmp_path: Path):
    def run(**data: object) -> dict:
        logger = {
            "class_path": "TensorBoardLogger",
            "init_args": {"save_dir": "runs", "version": data.pop("version", 0)},
        }
        credit = {
            "class_path": data.pop("credit", "lit_tpgrpo.credit.ThoughtCredit"),
            "init_args": data.pop("args", {}),
        }
        return {
            "ckpt_path": data.pop("ckpt_path", None),
            "trainer": {"logger": logger, "callbacks": [{"class_path": "A", "init_args": {"k": 1}}]},
            "data": {"class_path": "D", "init_args": {"credit": credit, **data}},
        }

    (tmp_path / "config.yaml").write_text(yaml.safe_dump(run(group_size=8, args={"alpha": 1.0})))
    same = run(group_size=8, args={"alpha": 1.0}, version=1, ckpt_path="x")
    assert resume_line("x.ckpt", tmp_path, same, tmp_path / "new") == f"resuming x.ckpt, writing to {tmp_path / 'new'}"
    other = run(group_size=4, args={"alpha": 0.5}, store_dir="s")
    assert resume_line("x.ckpt", tmp_path, other, None) == (
        "resuming x.ckpt; changed settings: data.credit.alpha 1.0 -> 0.5, data.group_size 8 -> 4, data.store_dir null -> s"
    )
    # Of a class that was replaced, its own arguments say nothing.
    replaced = run(group_size=8, credit="lit_tpgrpo.credit.OutcomeCredit", args={"eps": 0.1})
    said = "resuming x.ckpt; changed settings: data.credit ThoughtCredit -> OutcomeCredit"
    assert resume_line("x.ckpt", tmp_path, replaced, None) == said
    many = run(group_size=8, args={"alpha": 1.0}, **{f"k{i}": i for i in range(10)})
    assert resume_line("x.ckpt", tmp_path, many, None).endswith("data.k7 null -> 7 and 2 more")
    assert (
        resume_line("x.ckpt", None, same, None) == "resuming x.ckpt; the settings of the run before are not beside it"
    )


def test_the_process_group_is_gone_after_a_run(monkeypatch):
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    monkeypatch.setattr(cli, "TPGRPOCLI", lambda *args, **settings: None)
    cli.main([])
    assert not dist.is_initialized()
