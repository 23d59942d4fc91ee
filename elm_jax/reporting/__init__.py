"""Result rows to tables, plots and one HTML page."""
