"""The report: one page that says what was measured, to be opened anywhere and sent to anyone. It loads nothing.

`ReportData` is all that it takes; `write_report` writes it. `page.html.jinja` and `page.css` are the page, `curves.py`,
`heat.py` and `bars.py` its figures, `excerpts.py` its questions. A battery of suites has a page of its own:
`battery_page.py`, `battery.html.jinja`, and `quality.py` for what a byte buys; and so has a training run:
`training_page.py`, `training.html.jinja`, `training_curves.py`.
"""

from handscroll.measure.report.page import ReportData, render_report, write_report

__all__ = ["ReportData", "render_report", "write_report"]
