"""The dead end says yes in each agent's language, so that none of them retries."""

from __future__ import annotations

import http.client
import json
import socket

from benchmarks.sink import started_sink


def test_it_answers_http_and_scouts_framing_on_one_port() -> None:
    with started_sink() as address:
        host, _, port = address.partition(":")
        connection = http.client.HTTPConnection(host, int(port), timeout=10)
        for body, more in ((b"x" * 100_000, {}), (iter([b"one", b"two"]), {"Transfer-Encoding": "chunked"})):
            connection.request("POST", "/v1/traces", body=body, headers=more, encode_chunked=bool(more))
            answer = connection.getresponse()
            assert answer.status == 200
            assert json.loads(answer.read()) == {}
        connection.request("GET", "/info")
        assert connection.getresponse().read() == b"{}"
        connection.close()
        with socket.create_connection((host, int(port)), timeout=10) as scout:
            for _ in range(2):
                message = json.dumps({"Register": {"app": "benchmarks"}}).encode()
                scout.sendall(len(message).to_bytes(4, "big") + message)
                assert scout.recv(6, socket.MSG_WAITALL) == b"\x00\x00\x00\x02{}"
