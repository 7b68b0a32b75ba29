"""`report.html`: one page with everything that a run measured, which needs no network and runs no script."""
