"""What the documents say is done here: every command of theirs runs."""
