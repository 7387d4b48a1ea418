"""What a rollout server answers to whom: held against the middleware itself, as an ASGI server calls it."""

from __future__ import annotations

import asyncio
import fcntl
import os
import socket
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lit_tpgrpo.engines.vllm.guard import HOSTS_ENV, KEY_ENV, OPEN_ROUTES, AccessMiddleware
from lit_tpgrpo.errors import ConfigError
from lit_tpgrpo.serve import arguments, guarded_environment, private_scratch
from lit_tpgrpo.serve import main as serve

KEY = "0123456789-0123456789-key"
WITH_KEY = ("authorization", f"Bearer {KEY}")
JSON = ("content-type", "application/json")
LOCAL = ("host", "127.0.0.1:8000")
CONTROL = ("sleep", "wake_up", "pause", "resume", "collective_rpc", "abort_requests", "update_weight_version")
PATHS = ("weight_checker", "start_profile", "v1/load_lora_adapter", "scale_elastic_ep", "reset_mm_cache", "docs")


def guarded(monkeypatch, hosts: str = "") -> AccessMiddleware:
    async def app(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    monkeypatch.setenv(KEY_ENV, KEY)
    monkeypatch.setenv(HOSTS_ENV, hosts)
    return AccessMiddleware(app)


@pytest.fixture
def guard(monkeypatch) -> AccessMiddleware:
    return guarded(monkeypatch)


def status(
    guard: AccessMiddleware, method: str, path: str, *headers: tuple[str, str], kind: str = "http", root: str = ""
) -> int:
    sent = []
    pairs = [(name.encode(), value.encode("latin-1")) for name, value in headers]

    async def send(message):
        sent.append(message)

    async def receive():
        raise AssertionError("a refused request's body is not read")

    scope = {"type": kind, "method": method, "path": path, "headers": pairs, "root_path": root}
    asyncio.run(guard(scope, receive, send))
    assert KEY not in str(sent)
    return sent[0].get("status", sent[0].get("code"))


@pytest.mark.parametrize("path", [*CONTROL, *PATHS])
def test_control_routes_are_closed_with_the_key_and_without(guard, path):
    assert status(guard, "POST", f"/{path}", LOCAL, ("content-type", "text/plain")) == 401
    assert status(guard, "POST", f"/{path}", LOCAL, JSON) == 401
    assert status(guard, "POST", f"/{path}", LOCAL, WITH_KEY, JSON) == 403


@pytest.mark.parametrize(("method", "path"), sorted(OPEN_ROUTES))
def test_the_routes_of_training_need_the_key(guard, method, path):
    assert status(guard, method, path, LOCAL, WITH_KEY) == 200
    assert status(guard, method, path, LOCAL) == 401
    for wrong in (KEY[:-1], KEY + "0", "", KEY.upper(), "\xe9" * 20):
        assert status(guard, method, path, LOCAL, ("authorization", f"Bearer {wrong}")) == 401
    assert status(guard, method, path, LOCAL, ("authorization", f"Basic {KEY}")) == 401
    assert status(guard, method, path, LOCAL, WITH_KEY, WITH_KEY) == 400
    other = "GET" if method == "POST" else "POST"
    assert status(guard, other, path, LOCAL, WITH_KEY) == (403 if (other, path) not in OPEN_ROUTES else 200)


def test_only_health_needs_no_key(guard):
    assert status(guard, "GET", "/health", LOCAL) == 200
    assert status(guard, "POST", "/health", LOCAL) == 401
    assert status(guard, "GET", "/base/health", LOCAL, root="/base") == 200
    for spelled in ("/health/", "/health/../sleep", "//health", "/HEALTH", "health"):
        assert status(guard, "GET", spelled, LOCAL) == 401


@settings(max_examples=40)
@given(
    st.sampled_from(["GET", "POST", "PUT", "DELETE", "OPTIONS", "HEAD", "PATCH"]), st.text(max_size=20).map("/".__add__)
)
def test_nothing_is_answered_without_the_key(method, path):
    with pytest.MonkeyPatch.context() as patch:
        guard = guarded(patch)
    assert status(guard, method, path, LOCAL) == (200 if (method, path) == ("GET", "/health") else 401)


def test_names_that_are_not_the_servers_are_refused(monkeypatch):
    guard = guarded(monkeypatch, "node7,gateway.example")
    own = socket.gethostname()
    for host in (
        "127.0.0.1",
        "[::1]:8000",
        "localhost:8000",
        "10.0.0.7:8000",
        f"{own}:8000",
        "NODE7:1",
        "gateway.example",
    ):
        assert status(guard, "GET", "/weight_info", ("host", host), WITH_KEY) == 200
    for host in (
        "evil.example",
        "evil.example:8000",
        "127.0.0.1.evil.example",
        "node7@evil.example",
        "",
        ":8000",
        "[::1",
    ):
        assert status(guard, "GET", "/weight_info", ("host", host), WITH_KEY) == 403
        assert status(guard, "GET", "/health", ("host", host)) == 403
    assert status(guard, "GET", "/weight_info", WITH_KEY) == 403
    assert status(guard, "GET", "/weight_info", LOCAL, ("host", "evil.example"), WITH_KEY) == 400


def test_web_pages_of_other_origins_are_refused(guard):
    for origin in ("https://evil.example", "null", "http://127.0.0.1:9000", "http://localhost:8000", "", "http://[::1"):
        assert status(guard, "POST", "/reset_prefix_cache", LOCAL, ("origin", origin), WITH_KEY) == 403
        assert status(guard, "OPTIONS", "/pause", LOCAL, ("origin", origin)) == 403
    assert status(guard, "POST", "/reset_prefix_cache", LOCAL, ("origin", "http://127.0.0.1:8000"), WITH_KEY) == 200


def test_a_body_must_be_json(guard):
    def sent(*headers):
        return status(guard, "POST", "/inference/v1/generate", LOCAL, WITH_KEY, *headers)

    for kind in (
        "text/plain",
        "multipart/form-data; boundary=x",
        "application/x-www-form-urlencoded",
        "",
        "application/jsonp",
    ):
        assert sent(("content-type", kind), ("content-length", "2")) == 415
        assert sent(("content-type", kind)) == 415
    assert sent(("content-length", "2")) == 415
    assert sent(("transfer-encoding", "chunked")) == 415
    assert sent(("content-type", "Application/JSON; charset=utf-8"), ("content-length", "2")) == 200
    assert sent(("content-length", "0")) == 200


def test_websockets_are_closed_and_the_lifespan_passes(guard):
    assert status(guard, "GET", "/v1/realtime", LOCAL, WITH_KEY, kind="websocket") == 1008
    assert status(guard, "GET", "/", kind="lifespan") == 200


@pytest.mark.parametrize(
    ("key", "said"), [("", "is not set"), ("short", "has 5 characters"), ("a" * 20 + " b", "not allowed in a header")]
)
def test_a_server_without_a_usable_key_does_not_start(monkeypatch, key, said):
    monkeypatch.setenv(KEY_ENV, key)
    with pytest.raises(SystemExit, match=said) as ending:
        serve(["some/model", "--port", "0"])
    assert str(ending.value).startswith("error: ")
    assert not key or key not in str(ending.value)
    with pytest.raises(ConfigError, match=said):
        AccessMiddleware(lambda scope, receive, send: asyncio.sleep(0))


def test_the_key_is_not_given_on_the_command_line(monkeypatch):
    monkeypatch.setenv(KEY_ENV, KEY)
    for words in (["--api-key", "x"], ["--api-key=x"], ["--api_key", "x"]):
        with pytest.raises(SystemExit, match="shows the key to every user of this machine"):
            serve(["some/model", "--port", "0", *words])


def test_the_variable_and_the_names_of_a_server_can_be_chosen(monkeypatch):
    monkeypatch.setenv("OTHER_API_KEY", KEY)
    monkeypatch.delenv(KEY_ENV, raising=False)
    given = ["some/model", "--api-key-env", "OTHER_API_KEY", "--allowed-hosts", "a, b.example", "--host", "node7"]
    assert guarded_environment(given) == {KEY_ENV: KEY, HOSTS_ENV: "a,b.example,node7"}
    words = arguments(given, cpu=False)
    assert words[words.index("--middleware") + 1] == "lit_tpgrpo.engines.vllm.guard.AccessMiddleware"
    assert words[-2:] == ["--host", "node7"]


@pytest.fixture
def short_folder() -> Iterator[Path]:
    """pytest's own are too long for the paths of sockets."""
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        yield Path(folder)


def test_a_server_has_a_folder_for_its_sockets_and_removes_those_of_killed_ones(short_folder, monkeypatch):
    tmp_path = short_folder
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    for name in ("TMPDIR", "VLLM_RPC_BASE_PATH"):
        monkeypatch.setenv(name, "as before")
    for name in ("killed", "alive"):
        (tmp_path / f"lit-tpgrpo-serve-{name}").mkdir()
        (tmp_path / f"lit-tpgrpo-serve-{name}" / "lock").touch()
    (tmp_path / "lit-tpgrpo-serve-begun").mkdir()
    with (tmp_path / "lit-tpgrpo-serve-alive" / "lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with private_scratch() as folder:
            assert folder.parent == tmp_path
            assert os.environ["TMPDIR"] == os.environ["VLLM_RPC_BASE_PATH"] == tempfile.gettempdir() == str(folder)
            (folder / "socket").touch()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["lit-tpgrpo-serve-alive", "lit-tpgrpo-serve-begun"]


def test_where_paths_are_too_long_for_sockets_the_folder_is_elsewhere(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / ("long" * 20)))
    for name in ("TMPDIR", "VLLM_RPC_BASE_PATH"):
        monkeypatch.setenv(name, "as before")
    with private_scratch() as folder:
        assert len(str(folder / str(uuid.uuid4()))) <= 107
