"""How one sample is stored, and how many bytes that takes."""
