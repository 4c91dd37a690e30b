"""Number formats and several processes: what Lightning Fabric is asked for."""
