"""Verification and drills of sealed sets."""
