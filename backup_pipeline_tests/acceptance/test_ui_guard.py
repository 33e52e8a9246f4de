"""Nobody drives the UI but its user: a real browser opens a page of another site that tries each way, and the UI itself
works behind the guard.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import quote, urlsplit

import pytest
from playwright.sync_api import expect

from backup_pipeline_tests.acceptance.conftest import Served
from backup_pipeline_tests.support.browser import chromium

pytestmark = pytest.mark.story
MUTATION = "mutation { setAutoMaterializePaused(paused: %s) }"
PAUSED = "{ instance { autoMaterializePaused } }"
REBOUND = "rebound.example"

# Each way is tried; what each came to is returned, so that a way that was never tried shows.
ATTACKS = """
async ([ui, mutation]) => {
  const told = {};
  const body = JSON.stringify({query: mutation});
  const get = ui + '/graphql?query=' + encodeURIComponent(mutation);
  const attempt = async (name, doing) => { try { told[name] = String(await doing()); }
                                           catch (error) { told[name] = 'refused by the browser'; } };
  const element = (name, make) => new Promise(done => {
    const made = make(); made.onload = () => done('loaded'); made.onerror = () => done('not loaded');
    document.body.append(made); setTimeout(() => done('no answer'), 3000); });
  for (const mode of ['cors', 'no-cors', 'same-origin']) {
    for (const type of ['text/plain', 'application/json', 'application/graphql', 'text/plain; x=application/json']) {
      await attempt(`POST ${type} ${mode}`, async () => (await fetch(ui + '/graphql',
        {method: 'POST', mode, credentials: 'include', headers: {'Content-Type': type}, body})).status);
    }
    await attempt(`GET ${mode}`, async () => (await fetch(get, {mode, credentials: 'include'})).status);
  }
  await attempt('POST by query', async () => (await fetch(get, {method: 'POST', mode: 'no-cors'})).status);
  await attempt('beacon', () => navigator.sendBeacon(ui + '/graphql', new Blob([body], {type: 'text/plain'})));
  await attempt('image', () => element('image', () => Object.assign(new Image(), {src: get})));
  await attempt('script', () => element('script', () => Object.assign(document.createElement('script'), {src: get})));
  for (const type of ['application/x-www-form-urlencoded', 'text/plain', 'multipart/form-data']) {
    await attempt(`form ${type}`, async () => {
      const frame = Object.assign(document.createElement('iframe'), {name: 'f' + Math.random()});
      document.body.append(frame);
      const form = Object.assign(document.createElement('form'),
                                 {method: 'POST', action: get, target: frame.name, enctype: type});
      const field = Object.assign(document.createElement('input'),
                                  {name: '{"query": "' + mutation + '", "x": "', value: '"}'});
      form.append(field); document.body.append(form); form.submit();
      await new Promise(done => { frame.onload = done; setTimeout(done, 3000); });
      return 'sent'; });
  }
  await attempt('websocket', () => new Promise(done => {
    const socket = new WebSocket(ui.replace('http', 'ws') + '/graphql', 'graphql-ws');
    socket.onopen = () => { socket.send(JSON.stringify({type: 'start', id: '1', payload: {query: mutation}}));
                            done('open'); };
    socket.onerror = () => done('closed'); }));
  await attempt('iframe', () => new Promise(done => {
    const frame = Object.assign(document.createElement('iframe'), {src: ui + '/'});
    frame.onload = () => done('loaded');
    document.body.append(frame); setTimeout(() => done('no answer'), 5000); }));
  return told;
}
"""


@pytest.fixture
def foreign_page() -> Iterator[str]:
    """An empty page of another site; its address."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(b"<!doctype html><title>Another site</title><body>")

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


@pytest.mark.takes(seconds=25, together="ui")
def test_pages_of_other_sites_and_rebound_names_change_nothing_in_the_ui(served: Served, foreign_page: str) -> None:
    ui = served.ui
    port = urlsplit(ui.address).port
    before = ui.ask(PAUSED)
    paused = before["instance"]["autoMaterializePaused"]
    mutation = MUTATION % str(not paused).lower()
    rules = f"MAP {REBOUND} 127.0.0.1, MAP foreign.example 127.0.0.1"
    with chromium(f"--host-resolver-rules={rules}") as browser:
        page = browser.new_page()
        # Of another port (the same site to a browser), of another name, and of a name that leads here itself.
        for place in (foreign_page, foreign_page.replace("127.0.0.1", "foreign.example")):
            for target in (f"http://127.0.0.1:{port}", f"http://localhost:{port}", f"http://{REBOUND}:{port}"):
                page.goto(f"http://{place}/")
                reported = page.evaluate(ATTACKS, [target, mutation])
                assert len(reported) == 24
                assert reported["websocket"] == "closed", reported
                assert reported["image"] == reported["script"] == "not loaded", reported
                assert not any(value == "200" for value in reported.values()), reported
                assert ui.ask(PAUSED) == before, reported
        # The address typed or followed as a link: nothing is executed, and the rebound name shows no page at all.
        for address in (f"{ui.address}/graphql?query={quote(mutation)}", f"http://{REBOUND}:{port}/"):
            answer = page.goto(address)
            assert answer is not None
            assert answer.status in (405, 421)
        assert ui.ask(PAUSED) == before
        # A page of the UI itself may do it: what was tried above is what it takes.
        page.goto(ui.address)
        own = page.evaluate(
            "async query => (await fetch('/graphql', {method: 'POST', headers: {'Content-Type': 'application/json'},"
            " body: JSON.stringify({query})})).status",
            mutation,
        )
        assert own == 200
        assert ui.ask(PAUSED) != before
        ui.ask(MUTATION % str(paused).lower())


@pytest.mark.takes(seconds=30, together="ui")
def test_the_pages_of_the_ui_work_behind_the_guard(served: Served) -> None:
    ui = served.ui
    with chromium() as browser:
        page = browser.new_page(viewport={"width": 1600, "height": 950})
        refused: list[str] = []
        sockets: list[str] = []
        page.on(
            "response",
            lambda answer: refused.append(answer.url) if answer.status in (401, 403, 405, 415, 421) else None,
        )
        page.on("websocket", lambda socket: sockets.append(socket.url))
        group = f"{ui.address}/locations/__repository__@backup-pipeline/asset-groups/live/lineage"
        page.goto(group)
        expect(page.get_by_text("manifest", exact=True).first).to_be_visible(timeout=120_000)
        page.goto(f"{ui.address}/locations/__repository__@backup-pipeline/jobs/dagster_housekeeping/playground")
        page.get_by_role("button", name="Launch run").click(timeout=120_000)
        page.wait_for_url("**/runs/*", timeout=120_000)
        # The run's page is told of the end: nothing here reloads it.
        expect(page.get_by_text("Success", exact=True).first).to_be_visible(timeout=240_000)
        assert sockets
        assert refused == []
