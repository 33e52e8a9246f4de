"""Decisions as pure functions: no I/O, no clock, time is passed in, reasons are returned."""
