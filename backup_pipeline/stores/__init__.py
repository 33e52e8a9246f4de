"""Stores of backup sets, behind one contract of streams."""
