"""What several engines share, and what others read of an engine's folder."""
