"""Statistics of margins and scores: numbers, their intervals, comparisons that stay honest, rates that are promised."""
