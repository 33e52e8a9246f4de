"""The only doors to the outside: processes, databases, git, streams, files, notifications. No decisions."""
