"""How the elements of an array are stored: a number each, or blocks of 8-bit codes."""
