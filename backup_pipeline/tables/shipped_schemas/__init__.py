"""Pandera schemas of tables that many sites have: orders of a workshop, and the five tables of a trading system."""
