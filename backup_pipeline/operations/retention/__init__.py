"""Removal of old sets by retention rules; sets in use are kept."""
