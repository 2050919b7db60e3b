"""The report: findings, the scorecard of the paper's claims, and the HTML page."""
