"""Which keys go where, and that none is written, also when an endpoint repeats it."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest
from lightning import Trainer
from lightning.pytorch.cli import LightningArgumentParser
from lightning.pytorch.demos.boring_classes import BoringModel

from lit_tpgrpo import redaction
from lit_tpgrpo.api_keys import check_key_env, read_key, register_custom_headers
from lit_tpgrpo.chat.base import ChatReply
from lit_tpgrpo.chat.openai_chat import OpenAIChat
from lit_tpgrpo.cli import SavedConfig
from lit_tpgrpo.engines.vllm import VLLMServer
from lit_tpgrpo.errors import ConfigError
from lit_tpgrpo.jsonl import append_line
from lit_tpgrpo.judges.generative.judge import GenerativeJudge
from lit_tpgrpo.judges.generative.limits import RequestLimits
from lit_tpgrpo.judges.generative.segmentation import RuleSegmentation
from lit_tpgrpo.loggers.html_tables import visible
from lit_tpgrpo.redaction import redacted, redacted_message, redacted_value, register_secret
from lit_tpgrpo.rollout.run_folder import set_run_folder
from lit_tpgrpo.rollout.run_settings import run_settings
from lit_tpgrpo.user_errors import one_line_errors
from tests.engines import misbehaving_server as bad
from tests.engines.misbehaving_server import MisbehavingServer
from tests.engines.openai_talk import ask
from tests.judges.generative.chains import make_case

SECRET = "AKIA-a-secret-of-another-service"
KEY = "sk-of-this-endpoint-0815"


@pytest.fixture(autouse=True)
def forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each test registers its own keys; the variables are those of the test alone."""
    monkeypatch.setattr(redaction, "_spellings", [])
    monkeypatch.setattr(redaction, "_short", [])
    monkeypatch.delenv("LIT_TPGRPO_API_KEY_ENVS", raising=False)
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("CLOUD_SECRET", SECRET)
    factory = logging.getLogRecordFactory()
    monkeypatch.setattr(logging, "_logRecordFactory", factory)  # and put back afterwards


# ---- where keys may go ----


def chat(base_url: str = "https://judge.example.org:8443/v1", **options) -> OpenAIChat:
    return OpenAIChat("judge", base_url, **options)


def test_a_config_cannot_name_any_variable_as_the_key():
    with pytest.raises(ConfigError) as caught:
        chat(api_key_env="CLOUD_SECRET")
    assert str(caught.value) == (
        "OpenAIChat: api_key_env is CLOUD_SECRET, so the value of that variable would be sent to judge.example.org; expected "
        "OPENAI_API_KEY or VLLM_API_KEY, or a name that you allow: LIT_TPGRPO_API_KEY_ENVS=CLOUD_SECRET@judge.example.org in "
        "the environment of the run"
    )
    assert SECRET not in str(caught.value)


def test_rollout_servers_take_the_same_names(monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(ConfigError, match=r"VLLMServer: api_key_env is CLOUD_SECRET.* sent to 127\.0\.0\.1; "):
        VLLMServer(["http://127.0.0.1:8000", "http://10.0.0.7:8000"], api_key_env="CLOUD_SECRET")
    monkeypatch.setenv("LIT_TPGRPO_API_KEY_ENVS", "CLOUD_SECRET@127.0.0.1,CLOUD_SECRET@10.0.0.7")
    VLLMServer(["http://127.0.0.1:8000", "http://10.0.0.7:8000"], api_key_env="CLOUD_SECRET")


@pytest.mark.parametrize(
    ("allowed", "name", "goes"),
    [
        ("CLOUD_SECRET", "CLOUD_SECRET", True),
        (" OTHER , CLOUD_SECRET@judge.example.org", "CLOUD_SECRET", True),
        ("CLOUD_SECRET@Judge.Example.Org", "CLOUD_SECRET", True),
        ("CLOUD_SECRET@other.org", "CLOUD_SECRET", False),
        ("CLOUD_SECRET@other.org,CLOUD_SECRET@judge.example.org", "CLOUD_SECRET", True),
        ("CLOUD_SECRET@example.org", "CLOUD_SECRET", False),
        ("CLOUD", "CLOUD_SECRET", False),
        ("cloud_secret", "CLOUD_SECRET", False),
        ("", "CLOUD_SECRET", False),
        ("", "", False),
        ("", "OPENAI_API_KEY", True),
        ("CLOUD_SECRET", "OPENAI_API_KEY", True),
        ("OPENAI_API_KEY@api.openai.com", "OPENAI_API_KEY", False),
        ("OPENAI_API_KEY@judge.example.org", "OPENAI_API_KEY", True),
        ("", "VLLM_API_KEY", True),
    ],
)
def test_whoever_runs_it_says_which_keys_may_go_where(monkeypatch, allowed: str, name: str, goes: bool):
    monkeypatch.setenv("LIT_TPGRPO_API_KEY_ENVS", allowed)
    if goes:
        check_key_env(name, "judge.example.org", "it")
    else:
        with pytest.raises(ConfigError, match="LIT_TPGRPO_API_KEY_ENVS"):
            check_key_env(name, "judge.example.org", "it")


def test_an_allowed_key_is_sent_to_its_host(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("LIT_TPGRPO_API_KEY_ENVS", "CLOUD_SECRET@127.0.0.1")
    texts = written("{authorization}", tmp_path, api_key_env="CLOUD_SECRET")
    assert "Bearer [key]" in texts
    assert SECRET not in texts


def test_a_key_in_the_options_that_are_stored_is_refused():
    with pytest.raises(ConfigError, match="extra_body contains the key") as caught:
        chat(extra_body={"metadata": {"key": KEY}})
    assert KEY not in str(caught.value)


# ---- keys that come back ----


def written(echo: str, store: Path, **options) -> str:
    """What a judge notes and stores whose endpoint answers with this text, ``{key}`` and ``{authorization}`` filled in."""
    with MisbehavingServer(lambda *_: bad.ok(echo)) as server:
        judge = GenerativeJudge(
            OpenAIChat("judge", server.base_url, **options),
            segmentation=RuleSegmentation(),
            store=store,
            limits=RequestLimits(concurrency=1),
        )
        ((_, verdict),) = judge.judge([make_case()])
    return verdict.note + "".join(path.read_text() for path in store.iterdir())


@pytest.mark.parametrize("echo", ["{key}", "I was sent {authorization}.", '{"id": "{key}", "reflections": []}'])
def test_a_key_that_a_reply_repeats_is_not_stored(tmp_path: Path, echo: str, caplog: pytest.LogCaptureFixture):
    caplog.set_level(logging.DEBUG)
    texts = written(echo, tmp_path)
    assert "[key]" in texts
    assert KEY not in texts
    assert KEY not in caplog.text


def test_a_key_that_a_reply_repeats_is_not_in_it():
    echo = bad.ok("text {key}", reasoning_content="thought {authorization}")
    with MisbehavingServer(lambda *_: echo) as server:
        assert ask(server) == ChatReply("text [key]", "thought Bearer [key]", 10, 5)


def test_secrets_in_headers_of_the_clients_own_variable_are_keys_too(monkeypatch: pytest.MonkeyPatch):
    headers = (
        "X-Team: mathematics\nX-Gateway-Token: gateway-secret-1\nAuthorization: Bearer bearer-secret-2\nX-Api-Key:"
    )
    monkeypatch.setenv("OPENAI_CUSTOM_HEADERS", headers)
    with MisbehavingServer(lambda *_: bad.ok("mathematics gateway-secret-1 {key}")) as server:
        assert ask(server).text == "mathematics [key] [key]"


@pytest.mark.parametrize(
    ("header", "text", "shown"),
    [
        (
            "Cookie: session=supersecretvalue; theme=darkdarkdark",
            "session=supersecretvalue; theme=darkdarkdark | supersecretvalue, darkdarkdark",
            "[key] | [key], [key]",
        ),
        ("Cookie: a=b; sid=supersecretvalue", "sid=supersecretvalue; a=b", "[key]; a=b"),
        ("Cookie: onlyvalue", "onlyvalue", "[key]"),
        ("Authorization: Basic dXNlcjpwYXNzd29yZA==", "Basic dXNlcjpwYXNzd29yZA==", "Basic [key]"),
        (
            'Authorization: Digest username="somebody", response="0123456789abcdef"',
            "0123456789abcdef of somebody",
            "[key] of [key]",
        ),
        ("X-Api-Key: first-part second-part", "first-part second-part, second-part", "[key], [key]"),
        ("X-Api-Key: key=with=signs", "key=with=signs with=signs", "[key] [key]"),
        ("X-Team: mathematics; session=supersecretvalue", "supersecretvalue", "supersecretvalue"),
    ],
)
def test_every_part_of_a_secret_header_is_a_key(monkeypatch, header: str, text: str, shown: str):
    monkeypatch.setenv("OPENAI_CUSTOM_HEADERS", header)
    register_custom_headers()
    assert redacted(text) == shown
    assert redacted_message("Basic Digest Bearer") == "Basic Digest Bearer"  # the schemes are words


def test_a_key_that_is_spelled_with_escapes_is_not_written(tmp_path: Path):
    """The reply holds it as text of JSON escapes, which no search finds; whoever has read them has the key in hand."""
    read_key("OPENAI_API_KEY")
    note = json.loads('"' + "".join(f"\\u{ord(c):04x}" for c in KEY) + '"')
    assert note == KEY
    append_line(tmp_path / "notes.jsonl", {"note": note, "more": [{"a": note}]})
    assert json.loads((tmp_path / "notes.jsonl").read_text()) == {"note": "[key]", "more": [{"a": "[key]"}]}


def test_a_key_of_digits_is_not_taken_out_of_numbers(tmp_path: Path):
    """People give such keys to local servers; a row with half a number is none."""
    register_secret("00000000")
    append_line(tmp_path / "scores.jsonl", {"logprobs": [-0.1 - 0.2], "note": "00000000"})
    assert json.loads((tmp_path / "scores.jsonl").read_text()) == {"logprobs": [-0.30000000000000004], "note": "[key]"}


def test_every_door_out_is_closed(tmp_path: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture):
    read_key("OPENAI_API_KEY")
    with pytest.raises(SystemExit) as ended, one_line_errors():
        raise ConfigError(f"the endpoint said {KEY}")
    assert str(ended.value) == "error: the endpoint said [key]"
    caplog.set_level(logging.DEBUG)
    logging.getLogger("httpx2").debug("headers %s of %d", {"x-echo": KEY}, 1)
    logging.getLogger("another_package").warning(f"it said {KEY}")
    assert caplog.messages == ["headers {'x-echo': '[key]'} of 1", "it said [key]"]
    assert visible(f"<{KEY}>") == "&lt;[key]&gt;"
    assert redacted_value({KEY: [KEY, 1, None, (KEY,)]}) == {"[key]": ["[key]", 1, None, ["[key]"]]}


def test_a_traceback_in_a_log_holds_no_key(caplog: pytest.LogCaptureFixture):
    """Neither the exception nor the one behind it, whether or not the record's arguments fit."""
    read_key("OPENAI_API_KEY")
    log = logging.getLogger("another_package")
    try:
        try:
            raise KeyError(f"behind it {KEY}")
        except KeyError as cause:
            raise ValueError(f"it said {KEY}") from cause
    except ValueError as error:
        log.exception("asking failed")
        misfit = log.makeRecord("x", 30, "f", 1, "%d of %d", (1,), (ValueError, error, error.__traceback__))
    shown = logging.Formatter().format(caplog.records[0])
    assert "KeyError: 'behind it [key]'" in shown
    assert "ValueError: it said [key]" in shown
    assert KEY not in shown + caplog.text + str(misfit.exc_text)
    assert "it said [key]" in str(misfit.exc_text)


def test_a_traceback_without_a_key_is_left_to_formatters():
    read_key("OPENAI_API_KEY")
    log = logging.getLogger("another_package")
    error = ValueError("no key")
    assert log.makeRecord("x", 30, "f", 1, "m", (), (ValueError, error, None)).exc_text is None
    assert log.makeRecord("x", 30, "f", 1, "m", (), (None, None, None)).exc_text is None


def test_a_stack_in_a_log_holds_no_key(caplog: pytest.LogCaptureFixture):
    register_secret("test_a_stack_in_a_log_holds_no_key")  # the name of a function is in it
    logging.getLogger("another_package").warning("here", stack_info=True)
    assert "in [key]" in str(caplog.records[0].stack_info)


def test_a_log_record_whose_arguments_do_not_fit_is_left_to_logging(capsys: pytest.CaptureFixture):
    read_key("OPENAI_API_KEY")
    record = logging.getLogger("x").makeRecord("x", 30, "f", 1, "%d of %d", (1,), None)
    assert record.args == (1,)


def test_settings_in_loggers_hold_no_key():
    read_key("OPENAI_API_KEY")
    module = BoringModel()
    module.save_hyperparameters({"model": f"models/{KEY}", "betas": [KEY, 1]})
    trainer = Trainer(logger=False, enable_checkpointing=False, accelerator="cpu")
    trainer.strategy.connect(module)
    settings = run_settings(trainer)
    assert (settings["model.model"], settings["model.betas"]) == ("models/[key]", "['[key]', 1]")


def test_the_saved_config_holds_no_key(tmp_path: Path):
    read_key("OPENAI_API_KEY")
    parser = LightningArgumentParser()
    parser.add_argument("--prompt")
    trainer = Trainer(logger=False, enable_checkpointing=False, accelerator="cpu")
    set_run_folder(trainer, tmp_path)
    SavedConfig(parser, None, parser.parse_args([f"--prompt=say {KEY}"])).setup(trainer, BoringModel(), "fit")
    assert (tmp_path / "config.yaml").read_text() == "prompt: say [key]\n"


# ---- what is a key ----


def test_short_keys_are_words_and_stay_in_texts_but_not_in_messages():
    for key in ("none", "EMPTY", "", None):
        register_secret(key)
    assert redacted("the EMPTY set, none other") == "the EMPTY set, none other"
    assert redacted_message("the EMPTY set") == "the [key] set"
    register_secret("x")
    assert redacted_message("x = 1") == "x = 1"


def test_a_key_that_holds_another_is_removed_whole():
    for key in ("12345678", "0123456789"):
        register_secret(key)
    assert redacted("0123456789 12345678") == "[key] [key]"
    register_secret('with "quotes" and spaces')
    assert redacted(json.dumps('with "quotes" and spaces')) == '"[key]"'
    assert redacted("with%20%22quotes%22%20and%20spaces") == "[key]"
