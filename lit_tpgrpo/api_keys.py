"""API keys from the environment: which variables a config may name, and to which hosts their values may be sent.

A config often comes from somebody else, and it names both the address and the variable that holds the key. Any config may
name the variables that are documented for keys. Any other variable could hold any secret of the person who runs the
config, so that person must allow it: ``LIT_TPGRPO_API_KEY_ENVS=MY_KEY,OTHER_KEY@judge.example.org``. With ``@host`` the key
is sent to that host only; this restricts documented names too.
"""

from __future__ import annotations

import os
import re

from lit_tpgrpo.errors import ConfigError
from lit_tpgrpo.redaction import register_secret

ALLOWANCE = "LIT_TPGRPO_API_KEY_ENVS"
DOCUMENTED = ("OPENAI_API_KEY", "VLLM_API_KEY")
_SCHEME = re.compile(r"(basic|bearer|digest|token|apikey|negotiate)\s+", re.IGNORECASE)
_SECRET_HEADER = re.compile("auth|key|token|secret|cookie", re.IGNORECASE)


def check_key_env(name: str, host: str, who: str) -> None:
    """Refuse to send the value of an environment variable to a host, unless its name is documented or allowed.

    Args:
        name: name of the environment variable.
        host: host that would receive the key, without scheme and port.
        who: component with the setting ``api_key_env``, as named in the error message.

    Raises:
        ConfigError: the name is neither documented nor allowed, or it is allowed for other hosts only.
    """
    entries = [entry.strip() for entry in os.environ.get(ALLOWANCE, "").split(",")]
    hosts = {
        allowed.lower()
        for entry in entries
        if entry
        for variable, _, allowed in [entry.partition("@")]
        if variable == name
    }
    if "" in hosts or host.lower() in hosts or (name in DOCUMENTED and not hosts):
        return
    if hosts:
        raise ConfigError(
            f"{who}: {ALLOWANCE} allows the key in {name} for {' and '.join(sorted(hosts))}, but it would be sent to {host}; "
            f"check the address, and add {name}@{host} if it is intended"
        )
    raise ConfigError(
        f"{who}: api_key_env is {name}, so the value of that variable would be sent to {host}; expected "
        f"{' or '.join(DOCUMENTED)}, or a name that you allow: {ALLOWANCE}={name}@{host} in the environment of the run"
    )


def register_custom_headers() -> None:
    """Register the secrets in OPENAI_CUSTOM_HEADERS, which the ``openai`` client sends, for redaction."""
    for line in os.environ.get("OPENAI_CUSTOM_HEADERS", "").splitlines():
        name, _, value = line.partition(":")
        if _SECRET_HEADER.search(name):
            _register_parts(_SCHEME.sub("", value.strip()))


def _register_parts(value: str) -> None:
    """Register a header's value and what may be repeated of it: its last word, its parts such as cookies, their values."""
    for secret in (value, *value.split()[-1:]):
        register_secret(secret)
    for part in re.split("[;,]", value):
        for secret in (part, part.partition("=")[2]):
            register_secret(secret.strip().strip('"'))


def read_key(name: str) -> str:
    """Read a key from the environment ("" if the variable is not set) and register it for redaction.

    Raises:
        ConfigError: the key cannot be sent in a header.
    """
    key = os.environ.get(name, "").strip()
    register_secret(key)
    if not (key.isascii() and key.isprintable()):
        raise ConfigError(
            f"the key in {name} has characters that are not allowed in a header; set it again, without line breaks"
        )
    return key
