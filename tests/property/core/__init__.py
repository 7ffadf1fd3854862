"""What holds for every row of decisions."""
