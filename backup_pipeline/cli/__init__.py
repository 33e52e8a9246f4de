"""One short command per operation. Only arguments, output and exit codes live here."""
