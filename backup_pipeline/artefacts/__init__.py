"""One file per kind of artefact: how it is captured and how it is inspected. Never restores."""
