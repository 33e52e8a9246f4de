"""Alerts: observation, state, delivery."""
