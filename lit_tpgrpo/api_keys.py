"""Keys for endpoints, from the environment: which variables a config may name, and where their values may go.

A config is written by others as often as not, and names both the address and the variable with the key. The variables that
are documented for keys may be named by any config; another one, which may hold any secret of the person who runs it, only
with that person's word: ``LIT_TPGRPO_API_KEY_ENVS=MY_KEY,OTHER_KEY@judge.example.org``. With ``@host`` the key goes to that
host alone, and that holds for documented names too.
"""

from __future__ import annotations

import os
import re

from lit_tpgrpo.errors import ConfigError
from lit_tpgrpo.redaction import register_secret

ALLOWANCE = "LIT_TPGRPO_API_KEY_ENVS"
DOCUMENTED = ("OPENAI_API_KEY", "VLLM_API_KEY")
_SECRET_HEADER = re.compile("auth|key|token|secret|cookie", re.IGNORECASE)


def check_key_env(name: str, host: str, who: str) -> None:
    """Refuse to send the value of an environment variable to a host, unless its name is documented or allowed.

    Args:
        name: of the variable.
        host: that the key goes to, without scheme and port.
        who: has the setting ``api_key_env``, for the message.

    Raises:
        ConfigError: the name is neither, or the allowance is for other hosts.
    """
    entries = [entry.strip() for entry in os.environ.get(ALLOWANCE, "").split(",")]
    hosts = {allowed.lower() for entry in entries if entry for at, _, allowed in [entry.partition("@")] if at == name}
    if "" in hosts or host.lower() in hosts or (name in DOCUMENTED and not hosts):
        return
    if hosts:
        raise ConfigError(
            f"{who}: {ALLOWANCE} lets the key in {name} go to {' and '.join(sorted(hosts))}, and this one would go to {host}; "
            f"check the address, and add {name}@{host} if it is meant"
        )
    raise ConfigError(
        f"{who}: api_key_env is {name}, and the value of that variable would be sent to {host}; expected "
        f"{' or '.join(DOCUMENTED)}, or a name that you allow: {ALLOWANCE}={name}@{host} in the environment of the run"
    )


def register_custom_headers() -> None:
    """Have the secrets in OPENAI_CUSTOM_HEADERS, which the ``openai`` client sends, removed from all that is written."""
    for line in os.environ.get("OPENAI_CUSTOM_HEADERS", "").splitlines():
        name, _, value = line.partition(":")
        if _SECRET_HEADER.search(name):
            register_secret(value.split()[-1] if value.split() else None)  # without the scheme, such as Bearer


def read_key(name: str) -> str:
    """Read a key, "" where the variable is not set, and have it removed from all that is written.

    Raises:
        ConfigError: it cannot be sent in a header.
    """
    key = os.environ.get(name, "").strip()
    register_secret(key)
    if not (key.isascii() and key.isprintable()):
        raise ConfigError(
            f"the key in {name} has characters that no header can carry; set it again, without line breaks"
        )
    return key
