"""The guard's own pages: login and refusals. They need no JavaScript."""

from __future__ import annotations

from html import escape
from urllib.parse import urlsplit

# The colours of the front page's own style sheet, which nobody may read before the login.
_STYLE = """
:root{color-scheme:light dark;--page:#f6f7f5;--card:#fff;--ink:#17211c;--soft:#4e5a54;--edge:#8a958f;--accent:#1f6f54;
--on:#fff;--bad:#a3230f}
@media(prefers-color-scheme:dark){:root{--page:#111614;--card:#1a211e;--ink:#e8eeea;--soft:#a9b6af;--edge:#75827b;
--accent:#7fd1ac;--on:#0b1f16;--bad:#ff9f8c}}
body{font:1rem/1.5 system-ui,sans-serif;margin:12vh auto;max-width:26rem;padding:0 1rem;background:var(--page);
color:var(--ink)}
main{background:var(--card);border:1px solid var(--edge);border-radius:.75rem;padding:1.5rem}
h1{font-size:1.5rem;margin:0 0 1rem}
p{overflow-wrap:anywhere}
label,input,button{display:block;width:100%;box-sizing:border-box;font:inherit}
label{font-weight:600}
input,button{padding:.6rem .8rem;min-height:2.75rem;margin:.25rem 0 1rem;border-radius:.5rem;
border:1px solid var(--edge);background:var(--card);color:var(--ink)}
button{background:var(--accent);color:var(--on);border-color:var(--accent);font-weight:600;cursor:pointer}
small{color:var(--soft)}
[role=alert]{color:var(--bad);font-weight:600}
:focus-visible{outline:3px solid var(--accent);outline-offset:2px}
"""
POLICY = "default-src 'none'; style-src 'unsafe-inline'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"


def _page(title: str, body: str, head: str = "") -> str:
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>{head}'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><style>{_STYLE}</style></head>'
        f"<body><main><h1>{escape(title)}</h1>{body}</main></body></html>"
    )


def login_page(action: str, following: str, problem: str = "") -> str:
    """Return the form that asks for the password.

    Args:
        action: path that the form posts to.
        following: path that is opened afterwards.
        problem: what was wrong with the last try.
    """
    reported = f'<p role="alert">{escape(problem)}</p>' if problem else ""
    return _page(
        "Backup pipeline",
        f'{reported}<form method="post" action="{escape(action)}">'
        f'<input type="hidden" name="next" value="{escape(following)}">'
        '<label for="password">Password</label>'
        '<input id="password" name="password" type="password" autocomplete="current-password" required autofocus>'
        '<button type="submit">Log in</button></form><p><small>UI_PASSWORD of this site.</small></p>',
    )


def logout_page(action: str) -> str:
    """Return the form that ends the session; `action` is the path that it posts to."""
    return _page(
        "Log out?", f'<form method="post" action="{escape(action)}"><button type="submit">Log out</button></form>'
    )


def refused_page(what: str, remedy: str) -> str:
    """Return what a person is shown whose request was refused."""
    return _page("Refused", f"<p>{escape(what)}</p><p>{escape(remedy)}</p>")


def again_page(address: str) -> str:
    """Return a page that opens `address` at once.

    A browser does not send the session's cookie with a link of another page. Opened from here, it does.
    """
    refresh = f'<meta http-equiv="refresh" content="0;url={escape(address)}">'
    return _page("Backup pipeline", f'<p><a href="{escape(address)}">Continue</a></p>', refresh)


def local_path(text: str) -> str:
    """Return a path of this server that may be opened after the login; "/" for anything else."""
    if not text.startswith("/") or text.startswith("//") or "\\" in text or not text.isprintable():
        return "/"
    try:
        parts = urlsplit(text)
    except ValueError:
        return "/"
    return "/" if parts.scheme or parts.netloc else text
