"""Where a number comes from: commit, versions, host, data, and hashes of the code behind it."""
