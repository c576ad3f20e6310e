"""What a step of ours is held against: the same work, written as people write it without this package."""
