"""Backups of fleets: members in the order and within the limits of `rules.fleet_order`, in several processes."""
