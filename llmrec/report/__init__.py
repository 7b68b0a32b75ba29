"""What people read of a report: formatted numbers, verdicts, tables, charts, and the page `report.html`."""
