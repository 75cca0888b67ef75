"""What a log line holds, and what it must not."""

import asyncio
import io
import json
import logging
import sys
from collections.abc import Callable, Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moorage import logs
from moorage.logs import LogFormat, bind, configure, redact

SECRETS = {
    "key": "moork_abcdefgh23_Zm9vYmFyYmF6-Zm9vYmFyYmF6_",
    "join token": "moor1.hJdy1aKvPkyFm42t3RHEO3_k9svlnyb8ZeYk-quQzS4.bsqzwx96tg.yiJsNNSkDR0GxTPM4NmXBDRnLpUQf",
    "jwt": "eyJhbGciOiJSUzI1NiJ9.eyJpc3MiOiJtIn0.c2lnbmF0dXJl",
    "header": "Authorization: Bearer c29tZXRoaW5nLXNlY3JldA==",
    "assignment": "env DB_PASSWORD=c3dvcmRmaXNo",
    "query": "https://host/x?access_token=c3dvcmRmaXNo&page=2",
    "url": "https://robot:hunter22@registry.example/v2/",
    "private key": "-----BEGIN PRIVATE KEY-----\nMIGHAgEAMBMGByqGSM49\n-----END PRIVATE KEY-----",
}
HIDDEN = (
    "Zm9vYmFyYmF6",
    "yiJsNNSkDR0G",
    "c2lnbmF0dXJl",
    "c29tZXRoaW5nLXNlY3JldA",
    "hunter22",
    "c3dvcmRmaXNo",
    "MIGHAgEAMBMG",
)


@pytest.fixture
def start() -> Iterator[Callable[..., io.StringIO]]:
    """Configures logging into a buffer, and puts everything back afterwards."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level

    def begin(format: LogFormat = "text", level: str = "info") -> io.StringIO:
        stream = io.StringIO()
        configure("moorage-test", level=level, format=format, stream=stream)
        return stream

    yield begin
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.captureWarnings(False)


Start = Callable[..., io.StringIO]
log = logging.getLogger("moorage.example")


def test_text_line(start: Start) -> None:
    stream = start()
    log.info("host %s is up", "h1", extra={"host": "h1", "count": 3, "empty": "", "ok": True})
    line = stream.getvalue()
    assert line.startswith("time=20")
    assert line.endswith(
        'level=info program=moorage-test logger=moorage.example message="host h1 is up" '
        'host=h1 count=3 empty="" ok=true\n'
    )


def test_json_line_with_context(start: Start) -> None:
    stream = start("json")
    with bind(trace_id="t-1"), bind(cause="77"):
        log.warning("slow", extra={"seconds": 1.5, "hosts": ("a", "b"), "message_": None})
    log.warning("outside")
    first, second = (json.loads(line) for line in stream.getvalue().splitlines())
    assert (first["trace_id"], first["cause"], first["hosts"], first["seconds"]) == ("t-1", "77", ["a", "b"], 1.5)
    assert "trace_id" not in second


async def test_context_follows_tasks_and_stays_apart(start: Start) -> None:
    stream = start("json")

    async def work(trace_id: str) -> None:
        with bind(trace_id=trace_id):
            await asyncio.sleep(0)
            await asyncio.create_task(child())

    async def child() -> None:
        log.info("x", extra={"seen": logs.current_trace_id()})

    await asyncio.gather(work("a"), work("b"))
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert sorted(line["trace_id"] for line in lines) == ["a", "b"]
    assert all(line["seen"] == line["trace_id"] for line in lines)


def test_level(start: Start) -> None:
    stream = start(level="warning")
    log.info("no")
    log.warning("yes")
    assert stream.getvalue().count("\n") == 1


def test_second_configure_replaces_the_first(start: Start) -> None:
    first, second = start(), start()
    log.info("once")
    assert first.getvalue() == ""
    assert second.getvalue().count("\n") == 1


@pytest.mark.parametrize(("level", "format"), [("loud", "text"), ("info", "xml")])
def test_unknown_settings(level: str, format: str) -> None:
    with pytest.raises(ValueError):
        configure("p", level=level, format=format)  # type: ignore[arg-type]


@pytest.mark.parametrize("format", ["text", "json"])
@pytest.mark.parametrize("secret", SECRETS.values(), ids=SECRETS)
def test_secrets_are_redacted_everywhere(start: Start, format: LogFormat, secret: str) -> None:
    stream = start(format)
    with bind(trace_id=secret):
        log.info(f"got {secret}!")
        log.info("got %s", secret, extra={"detail": secret, "nested": {"list": [secret]}, "error": OSError(secret)})
        try:
            raise OSError(f"cannot use {secret}")
        except OSError:
            log.exception("failed")
    text = stream.getvalue()
    assert text.count("\n") == 3
    assert not [hidden for hidden in HIDDEN if hidden in text]
    assert logs.REDACTED in text


def test_secret_fields_are_redacted_by_name(start: Start) -> None:
    stream = start("json")
    details = {"password": "p1", "join_token": "p2", "api_key": b"p3", "env": {"DB_PASSWORD": "p4"}, "key_id": "k1"}
    log.info("x", extra=details)
    line = json.loads(stream.getvalue())
    assert [line["password"], line["join_token"], line["api_key"], line["env"]["DB_PASSWORD"]] == [logs.REDACTED] * 4
    assert line["key_id"] == "k1"


def test_ids_in_keys_and_tokens_stay() -> None:
    assert redact(SECRETS["key"]) == f"moork_abcdefgh23_{logs.REDACTED}"
    assert ".bsqzwx96tg." in redact(SECRETS["join token"])
    assert redact(f"Bearer {SECRETS['key']}") == f"Bearer moork_abcdefgh23_{logs.REDACTED}"


def test_plain_text_stays() -> None:
    plain = "pull registry.example:5000/a/b@sha256:0123 from http://10.0.0.1:80/x took 3 s, basic test"
    assert redact(plain) == plain
    assert redact("GET /x?access_token=abc&page=2") == f"GET /x?access_token={logs.REDACTED}&page=2"


def test_nobody_forges_a_line(start: Start) -> None:
    stream = start()
    log.info("name %s", "x\ntime=2030 level=error message=forged", extra={"a": 'quote " and \n', "b c": "1"})
    assert stream.getvalue().count("\n") == 1
    assert '"b c"=1' in stream.getvalue()


@given(st.text(), st.dictionaries(st.text(min_size=1).map(lambda text: f"x_{text}"), st.text() | st.integers()))
def test_any_text_stays_one_line(message: str, details: dict[str, str | int]) -> None:
    for formatter in (logs.TextFormatter("p"), logs.JsonFormatter("p")):
        record = logging.makeLogRecord({"msg": message, "args": (), "name": "n", **details})
        line = formatter.format(record)
        assert len(line.splitlines()) == 1
        line.encode(sys.getdefaultencoding())
