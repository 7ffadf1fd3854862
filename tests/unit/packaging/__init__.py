"""What is shipped beside the code: unit, image, documentation."""
