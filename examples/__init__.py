"""Programs that show Umbel at work; each runs as it stands."""
