"""A site whose plan is copied into a vault in a folder beside it: real settings, a real vault, its identity."""

from __future__ import annotations

import json
from pathlib import Path

from backup_pipeline_tests.support.sites import TestSite

SETTINGS = """
store: backups
sources: {{files: {{kind: folder, path: files}}}}
plans:
  nightly:
    sources: [files]
    retention: {{keep_last: 30}}
    copies: [{{to: offsite{entry}}}]
vaults:
  offsite: {{url: "{url}", recipients: [{recipient}]{vault}}}
alerts: {{urls_env: ALERT_URLS}}
"""


class CopiesSite(TestSite):
    """The site in `<folder>/site`, its vault in `<folder>/vault`, the identity in `<folder>/identity.txt`."""

    __test__ = False

    def __init__(self, folder: Path, *, entry: str = "", vault: str = "", url: str = "") -> None:
        super().__init__(folder / "site")
        self.parent = folder
        self.vault = folder / "vault"
        self.identity = folder / "identity.txt"
        self.url = url or f"file://{self.vault}"
        self.recipient = ""
        self.entry, self.vault_settings = entry, vault
        (self.folder / "files").mkdir(parents=True)
        (self.folder / "files" / "secret-name.txt").write_text("a secret row\n" * 5000)

    def settle(self) -> None:
        """Write the settings as they are now."""
        self.write(SETTINGS.format(entry=self.entry, vault=self.vault_settings, url=self.url, recipient=self.recipient))

    def begin(self) -> CopiesSite:
        """Make the vault with an identity of its own."""
        self.vault.mkdir(exist_ok=True)
        self.settle()
        done = self.run("vault", "init", "offsite", "--new-identity", str(self.identity), "--json")
        assert done.code == 0, done.text
        [self.recipient] = json.loads(done.out)["recipients"]
        self.settle()
        return self

    def change_files(self, text: str) -> None:
        """Give the source other content, so that the next set differs."""
        (self.folder / "files" / "more.txt").write_text(text)
