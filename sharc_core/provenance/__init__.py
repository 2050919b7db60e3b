"""The provenance of results: commit, versions, host, data, and hashes of the code that computed them."""
