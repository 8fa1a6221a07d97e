"""What a kernel is, wherever it runs."""
