"""The report: findings, scorecard and the HTML page."""
