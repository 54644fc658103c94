"""What ties Umbel to frameworks and tools; imported when they are there."""
