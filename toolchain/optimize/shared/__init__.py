"""What several graph passes share."""
