"""Pure statistics: intervals, ranks, non-inferiority, fronts. It imports nothing else of this package."""
