"""The same workers behind Ray: placement, actors, the fleet, its metrics."""
