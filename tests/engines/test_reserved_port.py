"""A reserved port: its program can listen on it, as often as it is started; nobody else gets it."""

from __future__ import annotations

import socket

import pytest
import torch.distributed

from lit_tpgrpo.engines.vllm.process_groups import reserved_port


def listener(port: int) -> socket.socket:
    """A socket that listens as servers do."""
    made = socket.socket()
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    made.bind(("", port))
    made.listen()
    return made


def answers(server: socket.socket, port: int) -> bool:
    with socket.create_connection(("127.0.0.1", port)) as asks:
        there, _ = server.accept()
        with there:
            asks.sendall(b"x")
            return there.recv(1) == b"x"


def test_its_server_can_be_started_again_on_it():
    with reserved_port() as port:
        for _ in range(3):
            with listener(port) as server:
                assert answers(server, port)


@pytest.mark.parametrize("address", ["", "127.0.0.1"])
def test_a_connection_of_another_program_does_not_take_it(address: str):
    with reserved_port() as port, socket.socket() as other, pytest.raises(OSError, match="in use"):
        other.bind((address, port))
    with socket.socket() as other:
        other.bind((address, port))  # given back


def test_two_reservations_differ_though_nothing_listens():
    with reserved_port() as first, reserved_port() as second, reserved_port() as third:
        assert len({first, second, third}) == 3


@pytest.mark.parametrize("libuv", [True, False])
def test_a_store_of_process_groups_listens_on_it(libuv: bool):
    with reserved_port() as port:
        store = torch.distributed.TCPStore("127.0.0.1", port, 1, True, use_libuv=libuv)
        store.set("key", "value")
        assert store.get("key") == b"value"
        del store
