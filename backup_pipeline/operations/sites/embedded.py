"""The site's own embedded PostgreSQL, up while an operation needs it. A site without one is left as it is."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from backup_pipeline.settings.site import Site


@contextmanager
def embedded_server_up(site: Site) -> Iterator[bool]:
    """Have the site's embedded server up for the block; yields whether the site has one.

    A server that was running already is left running afterwards.
    """
    settings = site.settings.embedded_postgres
    if settings is None:
        yield False
        return
    from backup_pipeline.postgres.server.embedded import EmbeddedServer, server_up

    with server_up(EmbeddedServer(settings.data, port=settings.port)):
        yield True


def stop_embedded_server(site: Site) -> None:
    """Stop the site's embedded server, whoever started it."""
    settings = site.settings.embedded_postgres
    if settings is not None:
        from backup_pipeline.postgres.server.embedded import EmbeddedServer

        EmbeddedServer(settings.data, port=settings.port).stop()
