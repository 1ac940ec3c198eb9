"""The socket that a service listens on."""

from __future__ import annotations

import socket

import pytest

from service_kit.http_server import AddressUnavailable, listen


def test_an_accepted_connection_sends_every_part_of_an_answer_at_once() -> None:
    with listen("127.0.0.1", 0) as listener, socket.create_connection(listener.getsockname()):
        accepted, _ = listener.accept()
        with accepted:
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_an_address_that_is_taken_is_one_sentence() -> None:
    with listen("127.0.0.1", 0) as listener:
        port = listener.getsockname()[1]
        with pytest.raises(AddressUnavailable, match=f"HTTP_PORT {port} cannot be listened on"):
            listen("127.0.0.1", port)
