"""Messages and pings reach real local servers; what cannot be delivered is said, and raises nothing."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import socket
import threading

from backup_pipeline.postgres.server.embedded import free_port
from backup_pipeline.system.heartbeat import Signal, address_of, ping
from backup_pipeline.system.notifications import deliver, understood
from backup_pipeline_tests.support.receivers import http_server, smtp_server

RUN = "0e4fbd3a-0000-4000-8000-000000000001"


def test_a_mail_arrives_with_subject_and_text() -> None:
    with smtp_server() as mailbox:
        address = f"mailto://127.0.0.1:{mailbox.port}/?from=backup@example.org&to=ops@example.org&mode=insecure"
        sent = deliver([address], title="[shop] nightly: überfällig", body="plan nightly\nreason none", bad=True)
    assert [delivery.delivered for delivery in sent] == [True]
    (mail,) = mailbox.mails
    assert mail["subject"] == "[shop] nightly: überfällig"
    assert mail["to"] == "ops@example.org"
    assert "reason none" in mail.get_content()


def test_a_webhook_arrives_with_its_severity() -> None:
    with http_server() as web:
        sent = deliver([f"{web.url.replace('http', 'json')}/hook"], title="title", body="text", bad=True)
    assert sent[0].delivered
    ((path, body),) = web.seen
    assert path == "/hook"
    assert json.loads(body) | {"title": "title", "message": "text", "type": "failure"} == json.loads(body)


def test_a_service_that_stumbles_is_tried_again() -> None:
    with http_server() as web:
        web.statuses += [503, 503]
        sent = deliver([web.url.replace("http", "json")], title="t", body="b", bad=False, pause_seconds=0.01)
    assert sent[0].delivered
    assert len(web.seen) == 3


def test_a_failed_delivery_is_reported_without_its_address_and_others_still_get_it() -> None:
    with http_server() as web:
        sent = deliver(
            [f"json://user:geheim@127.0.0.1:{free_port()}/token", "nonsense", web.url.replace("http", "json")],
            title="t",
            body="b",
            bad=True,
            attempts=2,
            pause_seconds=0.01,
        )
    assert [delivery.delivered for delivery in sent] == [False, False, True]
    assert all(delivery.problem for delivery in sent[:2])
    assert not any(secret in repr(sent) for secret in ("geheim", "token", "nonsense"))


def test_a_service_that_answers_byte_by_byte_keeps_nobody_waiting() -> None:
    stop = threading.Event()

    def drip(server: socket.socket) -> None:
        while not stop.is_set():
            with contextlib.suppress(OSError):
                connection, _ = server.accept()
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
                while not stop.wait(0.05):
                    connection.sendall(b".")
                connection.close()

    with socket.create_server(("127.0.0.1", 0)) as server, http_server() as web:
        threading.Thread(target=drip, args=(server,), daemon=True).start()
        addresses = [f"json://127.0.0.1:{server.getsockname()[1]}", web.url.replace("http", "json")]
        sent = deliver(addresses, title="t", body="b", bad=True, limit_seconds=5)
        stop.set()
    assert [delivery.problem for delivery in sent] == ["No answer within 5 s.", ""]


def test_what_a_library_says_of_an_address_is_in_no_log() -> None:
    log = io.StringIO()
    handler = logging.StreamHandler(log)
    logging.getLogger().addHandler(handler)
    assert not understood("slack://not-for-everybody/bad")
    (delivery,) = deliver(["slack://not-for-everybody/bad"], title="t", body="b", bad=True, attempts=1)
    assert delivery.problem
    logging.getLogger().removeHandler(handler)
    assert "not-for-everybody" not in log.getvalue() + delivery.problem


def test_the_switch_is_told_start_success_and_fail_as_healthchecks_wants_it() -> None:
    with http_server() as web:
        for signal in Signal:
            assert ping(f"{web.url}/ping/abc", signal, body="überall", run_id=RUN) == ""
    assert [path for path, _ in web.seen] == [
        f"/ping/abc/start?rid={RUN}",
        f"/ping/abc?rid={RUN}",
        f"/ping/abc/fail?rid={RUN}",
    ]
    assert web.seen[0][1] == "überall"


def test_the_switches_address_keeps_its_query_and_needs_no_run() -> None:
    assert address_of("https://h/x/?a=1", Signal.START) == "https://h/x/start?a=1"
    assert address_of("https://h/x", Signal.SUCCESS, "no-uuid") == "https://h/x"


def test_a_switch_that_is_down_is_tried_again_and_then_reported() -> None:
    with http_server() as web:
        web.statuses += [500]
        assert ping(web.url, Signal.SUCCESS, pause_seconds=0.01) == ""
        web.statuses += [404]
        assert ping(web.url, Signal.SUCCESS, pause_seconds=0.01) == "HTTP status 404"
        assert len(web.seen) == 3
    problem = ping(f"http://127.0.0.1:{free_port()}/geheim", Signal.FAIL, attempts=2, pause_seconds=0.01)
    assert problem
    assert "geheim" not in problem
