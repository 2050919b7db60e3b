"""Records of finished results: compare them with the grid before a run, verify them afterwards."""
